"""A target's value under interventions on many node sets at once: the engine of the circuit metrics.

All sets are variants of one suffix pass per batch (exact at the last prompt token, where the intervention acts), so a
hundred random circuits cost little more than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.attribution.edits import check_nodes, set_edit
from emotion_circuits.attribution.sums import SampleSet
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.data.prompts import Prompt, as_prompts
from emotion_circuits.data.sev import SEV
from emotion_circuits.errors import EmotionError, NodeError
from emotion_circuits.interventions import Intervention
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.batching import by_sample
from emotion_circuits.model.suffix import SuffixRun
from emotion_circuits.nodes import HasDims, NodeSet
from emotion_circuits.progress import progress
from emotion_circuits.targets import Target

N_DRAWS = 2000
_ROUNDING = 1e-6  # smaller changes of the target, relative to its size, are rounding


@dataclass(frozen=True, eq=False)
class SetValues:
    """A target's value for every prompt under every intervention.

    Attributes:
        values: one per prompt and node set, in the target's unit.
        clusters: the scenario of each prompt.
    """

    values: Float[Tensor, "sample set"]
    clusters: tuple[object, ...]

    def draws(self, seed: int = 0) -> Float[Tensor, "draw set"]:
        """Bootstrap means, scenarios drawn whole, the same ones for every set; NaN where there is one scenario alone.

        One scenario says nothing of how scenarios differ: drawn again and again, it would give an interval of width 0.
        """
        names = {cluster: i for i, cluster in enumerate(dict.fromkeys(self.clusters))}
        if len(names) < 2:
            return torch.full((N_DRAWS, self.values.shape[1]), torch.nan, dtype=torch.float64)
        of_row = torch.tensor([names[cluster] for cluster in self.clusters])
        sums = torch.zeros(len(names), self.values.shape[1], dtype=torch.float64).index_add_(0, of_row, self.values)
        counts = torch.bincount(of_row, minlength=len(names)).double()
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(names), (N_DRAWS, len(names)), generator=generator)
        often = torch.zeros(N_DRAWS, len(names), dtype=torch.float64)
        often.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        return often @ sums / (often @ counts)[:, None]

    @property
    def means(self) -> Float[Tensor, " set"]:
        """Mean over prompts."""
        return self.values.mean(dim=0)


def set_values(
    model: HookedModel,
    sets: Sequence[NodeSet],
    prompts: object,
    target: Target,
    intervention: Intervention,
    *,
    batch_size: int | None = None,
) -> SetValues:
    """The target at the last prompt token, with the intervention on each of ``sets`` at that token.

    Args:
        model: the model.
        sets: which nodes are changed together; an empty set measures the unchanged model.
        prompts: the target's samples among them are used.
        target: what is measured.
        intervention: what is done to the nodes.
        batch_size: rows in a batch.
    """
    check_nodes(intervention, model, reduce(or_, sets, NodeSet.empty(model)))
    samples = SampleSet(prompts, {"target": target})
    changed = torch.tensor([i for i, held in enumerate(sets) if len(held)], dtype=torch.long)

    def work(batch: TokenBatch) -> Tensor:
        run = SuffixRun(model, batch)
        result = target(model, run.base(target.readout)).double().cpu()[:, None].repeat(1, len(sets))
        edit = set_edit([sets[i] for i in changed.tolist()], intervention, batch.samples) if len(changed) else None
        for variants, read in run.read([] if edit is None else [edit], [target.readout]):
            result[:, changed[variants.cpu()]] = target(model, read[target.readout]).double().cpu()
        return result

    with progress("circuit", len(samples), shared=True) as advance, torch.no_grad():
        values = by_sample(samples.run(model, work, batch_size, shared=True), advance)
    return SetValues(torch.stack(values), clusters_of(samples.prompts, samples.used.tolist()))


def clusters_of(prompts: Sequence[Prompt], rows: Sequence[int]) -> tuple[object, ...]:
    """The scenario of each of some prompts; a prompt without one is a scenario of its own."""
    items = (prompts[i].item for i in rows)
    return tuple(i if item is None else item for i, item in zip(rows, items, strict=True))


def kept_shares(
    model: HookedModel,
    kept: Sequence[NodeSet],
    prompts: object,
    target: Target,
    ablation: Intervention,
    batch_size: int | None = None,
) -> tuple[Float[Tensor, " set"], Float[Tensor, "draw set"], SetValues]:
    """The share of the target that each set of kept nodes makes, all other nodes ablated (f of the metrics).

    Returns:
        The shares, their bootstrap draws, and the values they come from: first nothing kept, then everything, then the
        sets.

    Raises:
        EmotionError: ablating everything changes nothing, so that there is nothing to have a share of.
    """
    every = NodeSet.all(model)
    ablated = [every, ~every, *(~held for held in kept)]
    asked = prompts_for(prompts, target.emotion)
    held = set_values(model, ablated, asked, target, ablation, batch_size=batch_size)

    def share(m: Tensor) -> Tensor:
        return (m[..., 2:] - m[..., :1]) / (m[..., 1:2] - m[..., :1])

    if abs(float(held.means[1] - held.means[0])) <= _ROUNDING * float(held.values[:, :2].abs().max()):
        raise EmotionError(
            f"ablating all nodes with {describe_intervention(ablation)} does not change the target, so shares of the "
            "change mean nothing; use another target, ablation or set of prompts"
        )
    return share(held.means), share(held.draws()), held


def quantiles(draws: Float[Tensor, "draw *set"]) -> tuple[Float[Tensor, "*set"], Float[Tensor, "*set"]]:
    """The bounds between which 95 % of the draws lie."""
    low, high = draws.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return low, high


def prompts_for(prompts: object, emotion: str | None) -> list[Prompt]:
    """Prompts as they are; a SEV's items instructed with ``emotion``."""
    return prompts.prompts(emotion) if isinstance(prompts, SEV) else as_prompts(prompts)


def nodes_of(circuit: Circuit | NodeSet) -> NodeSet:
    """A circuit's nodes."""
    return circuit.nodes if isinstance(circuit, Circuit) else circuit


def check_shape(model: HasDims, nodes: NodeSet) -> None:
    """Raise a `NodeError` unless the nodes are of a model of this shape."""
    empty = NodeSet.empty(model)
    if nodes.neurons.shape != empty.neurons.shape or nodes.heads.shape != empty.heads.shape:
        raise NodeError(f"the circuit {nodes} is of a model of another shape; this one has {model.dims}")


def describe_intervention(intervention: Intervention) -> str:
    """Its name and plain settings, e.g. ``"MeanAblation"`` or ``"Scale(factor=0.5)"``."""
    held = {k: v for k, v in vars(intervention).items() if isinstance(v, int | float | str)}
    settings: Mapping[str, object] = held
    inside = ", ".join(f"{name}={value}" for name, value in settings.items())
    return type(intervention).__name__ + (f"({inside})" if inside else "")
