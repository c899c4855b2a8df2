r"""Metrics of a circuit: is it what makes the target, all of it, and nothing but it?

With :math:`m(S)` the target's mean when the nodes S are kept and all others are ablated at the last prompt token, N
all nodes and C the circuit:

faithfulness   :math:`f(C) = (m(C) - m(\emptyset)) / (m(N) - m(\emptyset))`: what the circuit does alone (sufficiency).
completeness   :math:`f(N \setminus C)`: what is left without it; 0 for a circuit that has everything (necessity).
minimality     :math:`f(C) - f(C \setminus v)` for each node v: what it adds to the circuit.
specificity    how much of each emotion's target goes when a circuit is ablated.

Every figure names the ablation that it was measured under, comes with a 95 % bootstrap interval over scenarios, and
stands beside circuits of the same make-up: random ones, and ones from shuffled labels (`Controls`). What one node adds
stands beside what nodes add that the circuit left out, random ones and those that a shuffled ranking puts first.
Growing circuits, CPR and CMD are in `emotion_circuits.circuits.curves`.

Reference: faithfulness: Mueller et al., "MIB: A Mechanistic Interpretability Benchmark", 2025 (arXiv 2504.13151), whose
circuits are of edges, or of nodes as here; completeness and minimality: Wang et al., 2023 (arXiv 2211.00593), who
define them as differences of m.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.controls import USUAL, Controls
from emotion_circuits.circuits.node_sets import (
    check_shape,
    describe_intervention,
    kept_shares,
    nodes_of,
    quantiles,
)
from emotion_circuits.directions.quality import flag_note
from emotion_circuits.intervals import interval_text
from emotion_circuits.interventions import Intervention
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import NodeSet
from emotion_circuits.targets import Target

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class CircuitScore:
    """One metric of one circuit.

    Attributes:
        metric: its name.
        value: a share of the target's change from nothing kept to everything kept.
        interval: 95 %, bootstrap over scenarios; NaN where there is one scenario alone.
        random: the same of each random circuit of the same make-up.
        shuffled: the same of each circuit of shuffled labels.
        ablation: what was done to the nodes that are not kept.
        n_nodes: nodes in the circuit.
        n_samples: prompts.
        full: the target with everything kept, m(N).
        empty: the target with everything ablated, m of nothing.
        flags: why the target's direction is not to be trusted, if it failed a test of its own reliability.
    """

    metric: str
    value: float
    interval: tuple[float, float]
    random: Float[Tensor, " draw"]
    shuffled: Float[Tensor, " shuffle"]
    ablation: str
    n_nodes: int
    n_samples: int
    full: float
    empty: float
    flags: tuple[str, ...] = ()

    @property
    def random_interval(self) -> tuple[float, float]:
        """The range that holds 95 % of the random circuits; NaN without any."""
        return _range(self.random)

    def to_frame(self) -> pd.DataFrame:
        """One row: ``metric, value, low, high, random, random_low, random_high, shuffled, ablation``, and counts.

        ``random`` and ``shuffled`` are means; NaN without such circuits.
        """
        import pandas as pd

        low, high = self.interval
        row = {
            "metric": self.metric, "value": self.value, "low": low, "high": high,
            **_beside(self.random, self.shuffled),
            "ablation": self.ablation, "n_nodes": self.n_nodes, "n_samples": self.n_samples,
        }  # fmt: skip
        return pd.DataFrame([row])

    def __repr__(self) -> str:
        beside = [f"random {float(self.random.mean()):.3f}"] if len(self.random) else []
        beside += [f"shuffled {float(self.shuffled.mean()):.3f}"] if len(self.shuffled) else []
        parts = ", ".join([f"{self.n_nodes} nodes", *beside, f"n = {self.n_samples}"]) + flag_note(self.flags)
        interval = interval_text(*self.interval)
        return f"CircuitScore({self.metric} {self.value:.3f} {interval} under {self.ablation}; {parts})"


def faithfulness(
    model: HookedModel, circuit: Circuit | NodeSet, prompts: object, target: Target, ablation: Intervention, *,
    controls: Controls = USUAL, batch_size: int | None = None,
) -> CircuitScore:  # fmt: skip
    """How much of the target the circuit makes alone: f(C), 1 if it makes all of it and 0 if it makes nothing.

    Args:
        model: the model.
        circuit: the circuit.
        prompts: a SEV (its items are instructed with the target's emotion), or prompts.
        target: what the circuit is claimed to make.
        ablation: what is done to all other nodes, at the last prompt token.
        controls: circuits of the same make-up beside it.
        batch_size: rows in a batch.

    Example:
        >>> import emotion_circuits as ec
        >>> model, prompts = ec.HookedModel.demo(), ["I moved my desk .", "Rain fell ."]
        >>> target = ec.Projection(torch.ones(model.dims.d_model))
        >>> every, none = ec.NodeSet.all(model), ec.Controls(n_random=0)
        >>> ec.faithfulness(model, every, prompts, target, ec.ZeroAblation(), controls=none).value
        1.0
    """
    nodes = nodes_of(circuit)
    check_shape(model, nodes)
    kept = [nodes, *controls.like(nodes)]
    return _score("faithfulness", model, kept, len(nodes), controls, prompts, target, ablation, batch_size)


def completeness(
    model: HookedModel, circuit: Circuit | NodeSet, prompts: object, target: Target, ablation: Intervention, *,
    controls: Controls = USUAL, batch_size: int | None = None,
) -> CircuitScore:  # fmt: skip
    """How much of the target is left without the circuit: f(N - C), 0 if the circuit was needed for all of it.

    Arguments as for `faithfulness`, except that the circuit's own nodes are ablated.
    """
    nodes = nodes_of(circuit)
    check_shape(model, nodes)
    kept = [~held for held in (nodes, *controls.like(nodes))]
    return _score("completeness", model, kept, len(nodes), controls, prompts, target, ablation, batch_size)


def minimality(
    model: HookedModel, circuit: Circuit | NodeSet, prompts: object, target: Target, ablation: Intervention, *,
    controls: Controls = USUAL, batch_size: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """What each node adds to the circuit: f(C) - f(C without it). Arguments as for `faithfulness`.

    The nodes of a random circuit would say little here, since what they add depends on what that circuit makes. So the
    controls of a node v are nodes u of its kind and layer that the circuit left out, and what they add to the same
    circuit, f(C with u) - f(C): random ones, and the one that each shuffled ranking puts first.

    Returns:
        One row per node, largest first: ``node, kind, layer, drop, low, high, random, random_low, random_high,
        shuffled, ablation``; ``random`` and ``shuffled`` are means over control nodes, and the range holds 95 % of the
        random ones (NaN where there are none). A node whose interval holds 0 is not shown to be needed, nor is one
        whose interval is NaN, which it is with one scenario alone; one whose drop lies in its random range is not shown
        to be better chosen than by chance.
    """
    import pandas as pd

    nodes = nodes_of(circuit)
    check_shape(model, nodes)
    members = list(nodes)
    left_out = controls.left_out(nodes)
    added = list(dict.fromkeys(node for parts in left_out.values() for part in parts for node in part))
    kept = [nodes, *(nodes - NodeSet.of(model, node) for node in members)]
    kept += [nodes | NodeSet.of(model, node) for node in added]
    means, draws, _ = kept_shares(model, kept, prompts, target, ablation, batch_size)
    n, gains = len(members) + 1, dict(zip(added, means[len(members) + 1 :], strict=True))
    low, high = quantiles(draws[:, :1] - draws[:, 1:n])
    beside = {
        place: _beside(*(torch.tensor([float(gains[u] - means[0]) for u in part]) for part in parts))
        for place, parts in left_out.items()
    }
    table = pd.DataFrame({
        "node": [str(v) for v in members], "kind": [v.kind for v in members], "layer": [v.layer for v in members],
        "drop": (means[0] - means[1:n]).tolist(), "low": low.tolist(), "high": high.tolist(),
    })  # fmt: skip
    table = table.join(pd.DataFrame([beside[v.kind, v.layer] for v in members], columns=list(_BESIDE)))
    table = table.assign(ablation=describe_intervention(ablation))
    return table.sort_values("drop", ascending=False, kind="stable", ignore_index=True)


def specificity(
    model: HookedModel, circuits: Mapping[str, Circuit], prompts: object, targets: Mapping[str, Target],
    ablation: Intervention, *, controls: Controls = USUAL, batch_size: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """What the ablation of each circuit takes from each emotion's target: 1 - f(N - C) of every pair.

    Args:
        model: the model.
        circuits: by emotion.
        prompts: a SEV (instructed with each target's emotion in turn), or prompts of all emotions.
        targets: by emotion; each is measured on its own samples.
        ablation: what is done to a circuit's nodes.
        controls: circuits of each one's make-up beside it. Rankings of shuffled labels serve every circuit, whichever
            emotion they are called after: where labels are shuffled, its name means nothing.
        batch_size: rows in a batch.

    Returns:
        One row per circuit and target: ``circuit, target, removed, low, high, random, random_low, random_high,
        shuffled, ablation``; ``removed`` is 1 where all of the target went, ``random`` and ``shuffled`` are what its
        controls remove on average, and the range holds 95 % of the random ones. A specific circuit removes its own
        target and leaves the others, or takes no more from them than any circuit of its make-up does.
    """
    import pandas as pd

    for circuit in circuits.values():
        check_shape(model, circuit.nodes)
    beside = [held for i, circuit in enumerate(circuits.values()) for held in controls.like(circuit.nodes, i)]
    kept, n = [~nodes for nodes in (*(circuit.nodes for circuit in circuits.values()), *beside)], len(circuits)
    rows = []
    for emotion, target in targets.items():
        means, draws, _ = kept_shares(model, kept, prompts, target, ablation, batch_size)
        low, high = quantiles(1 - draws[:, :n])
        others = (1 - means[n:]).view(n, len(controls))
        for i, name in enumerate(circuits):
            row = {"circuit": name, "target": emotion, "removed": 1 - float(means[i])}
            row |= {"low": float(low[i]), "high": float(high[i])}
            rows.append(row | _beside(others[i, : controls.n_random], others[i, controls.n_random :]))
    return pd.DataFrame(rows).assign(ablation=describe_intervention(ablation))


def _range(values: Float[Tensor, " draw"]) -> tuple[float, float]:
    """The range that holds 95 % of some values; NaN without any."""
    if not len(values):
        return float("nan"), float("nan")
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high


_BESIDE = ("random", "random_low", "random_high", "shuffled")


def _beside(drawn: Float[Tensor, " draw"], shuffled: Float[Tensor, " shuffle"]) -> dict[str, float]:
    """What stands beside a figure: its controls' means, and the random ones' range; NaN without any."""
    return dict(zip(_BESIDE, (float(drawn.mean()), *_range(drawn), float(shuffled.mean())), strict=True))


def _score(
    metric: str, model: HookedModel, kept: Sequence[NodeSet], n_nodes: int, controls: Controls, prompts: object,
    target: Target, ablation: Intervention, batch_size: int | None,
) -> CircuitScore:  # fmt: skip
    means, draws, held = kept_shares(model, kept, prompts, target, ablation, batch_size)
    low, high = quantiles(draws[:, 0])
    empty, full = held.means[:2].tolist()
    drawn, shuffled = means[1:].split([controls.n_random, len(controls.shuffled)])
    return CircuitScore(
        metric, float(means[0]), (float(low), float(high)), drawn, shuffled, describe_intervention(ablation),
        n_nodes, len(held.values), full, empty, getattr(target, "flags", ()),
    )  # fmt: skip
