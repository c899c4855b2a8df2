"""Stability: would other data have given the same circuit?

1. Score every node on each scenario's prompts alone. A score is a mean over samples, so the score on any resample of
   whole scenarios is the weighted mean of these: one attribution of the data serves all resamples.
2. Choose a circuit on each bootstrap resample; a node's frequency is the share of resamples that chose it.
3. Choose circuits on disjoint halves of the scenarios; their mean Jaccard index says how far half the data agrees
   with the other half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.attribution import attribute
from emotion_circuits.circuits.node_sets import prompts_for
from emotion_circuits.errors import DataError
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.targets import Target, samples_of

if TYPE_CHECKING:
    import pandas as pd

N_HALVES = 20


@dataclass(frozen=True, eq=False)
class Stability:
    """How often each node is chosen.

    Attributes:
        circuit: what all of the data gives.
        frequency: share of the resamples that chose each node.
        halves: mean Jaccard index of the circuits of two disjoint halves of the scenarios.
        n_draws: resamples.
        n_scenarios: scenarios in the data.
    """

    circuit: NodeSet
    frequency: NodeValues
    halves: float
    n_draws: int
    n_scenarios: int

    def core(self, share: float = 0.9) -> NodeSet:
        """The nodes that at least this share of the resamples chose."""
        return NodeSet(self.frequency.neurons >= share, self.frequency.heads >= share)

    def to_frame(self) -> pd.DataFrame:
        """One row per node that was ever chosen: ``node, kind, layer, index, frequency, in_circuit``."""
        table = self.frequency.to_frame().rename(columns={"value": "frequency"})
        inside = set(self.circuit.names())
        table["in_circuit"] = [name in inside for name in table["node"]]
        return table.loc[(table["frequency"] > 0) | table["in_circuit"]].reset_index(drop=True)

    def __repr__(self) -> str:
        kept = len(self.core() & self.circuit)
        return (
            f"Stability({kept} of {len(self.circuit)} nodes in at least 90 % of {self.n_draws} resamples of "
            f"{self.n_scenarios} scenarios; halves agree by {self.halves:.3f})"
        )


def stability(
    model: HookedModel, prompts: object, target: Target, method: Any, choose: Callable[[NodeValues], NodeSet], *,
    n_draws: int = 200, seed: int = 0, batch_size: int | None = None,
) -> Stability:  # fmt: skip
    """Selection frequencies over bootstrap resamples of the scenarios.

    Args:
        model: the model.
        prompts: a SEV (its items are instructed with the target's emotion), or prompts.
        target: what is attributed.
        method: of attribution, e.g. ``ec.DirectAttribution()``; not one whose intervention knows samples by their place
            in the list (`CounterfactualPatch`, `ResampleAblation`), since each scenario is a list of its own.
        choose: from scores to a circuit's nodes, e.g. ``lambda values: values.top(50)``.
        n_draws: resamples.
        seed: of the draws.
        batch_size: rows in a batch.

    Raises:
        DataError: there are fewer than two scenarios to resample.
    """
    asked = prompts_for(prompts, target.emotion)
    by_item: dict[object, list[int]] = {}
    for i in samples_of(target, asked):
        by_item.setdefault(i if asked[i].item is None else asked[i].item, []).append(i)
    n = len(by_item)
    if n < 2:
        raise DataError(f"there is {n} scenario to resample; stability needs prompts of two or more")
    weights = torch.tensor([float(len(rows)) for rows in by_item.values()])
    parts = [
        attribute(model, [asked[i] for i in rows], target, method, batch_size=batch_size).values
        for rows in by_item.values()
    ]
    neurons, heads = (torch.stack([part.values(kind) for part in parts]) for kind in ("neuron", "head"))

    def chosen(often: Float[Tensor, " scenario"]) -> NodeSet:
        share = often * weights / (often * weights).sum()
        return choose(NodeValues(*(torch.tensordot(share, held, dims=1) for held in (neurons, heads))))

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (n_draws, n), generator=generator)
    sums = NodeValues(torch.zeros_like(neurons[0]), torch.zeros_like(heads[0]))
    for draw in drawn:
        nodes = chosen(torch.bincount(draw, minlength=n).float())
        sums.neurons.add_(nodes.neurons)
        sums.heads.add_(nodes.heads)
    frequency = NodeValues(sums.neurons / n_draws, sums.heads / n_draws)
    return Stability(chosen(torch.ones(n)), frequency, _halves(chosen, n, generator), n_draws, n)


def _halves(chosen: Callable[[Tensor], NodeSet], n: int, generator: torch.Generator) -> float:
    shares = []
    for _ in range(N_HALVES):
        first = torch.zeros(n)
        first[torch.randperm(n, generator=generator)[: n // 2]] = 1.0
        a, b = chosen(first), chosen(1 - first)
        shares.append(len(a & b) / max(1, len(a | b)))
    return sum(shares) / len(shares)
