"""Groups of nodes and the edges between them, which `edges` measures exactly and `edge_attribution` approximately.

A group is some heads, or some neurons, of one layer. It writes into the residual what its nodes write (`written`), and
reads the residual before its sublayer. An edge goes from a group to a higher one, or to the target's readout
(`TARGET`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.attribution.edits import below, check_nodes, intervene, places
from emotion_circuits.attribution.sums import SampleSet
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.node_sets import (
    SetValues,
    check_shape,
    clusters_of,
    describe_intervention,
    prompts_for,
    quantiles,
)
from emotion_circuits.errors import ModelError, NodeError
from emotion_circuits.interventions import Intervention, Where
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.batching import by_sample
from emotion_circuits.model.suffix import SuffixRun
from emotion_circuits.model.writes import SUBLAYER_OF
from emotion_circuits.nodes import NodeSet
from emotion_circuits.progress import progress
from emotion_circuits.targets import Target
from emotion_circuits.types import NodeKind, Site, as_choice

if TYPE_CHECKING:
    import pandas as pd

TARGET = "target"
READS: dict[NodeKind, Site] = {"head": "resid_pre", "neuron": "resid_mid"}
"""The residual that nodes of a kind read."""

By = Literal["usual", "node", "sublayer"]
"""Each head alone and each layer's neurons together; every node alone; every sublayer's nodes together."""

_COLUMNS = 4000  # pairs whose bootstrap is in memory at once


@dataclass(frozen=True, eq=False)
class Group:
    """Nodes of one sublayer.

    Attributes:
        name: shown as an edge's end.
        kind: the nodes' kind.
        layer: their layer.
        units: their indices.
    """

    name: str
    kind: NodeKind
    layer: int
    units: Tensor

    @property
    def height(self) -> tuple[int, bool]:
        """Order in the model: a layer's heads come before its neurons."""
        return self.layer, self.kind == "neuron"


def groups_of(circuit: Circuit | NodeSet, by: By = "usual") -> dict[str, NodeSet]:
    """A circuit's groups by name: ``"L2H1"``, ``"L3N10"``, ``"L3 neurons"``, ``"L3 attention"``, ``"L3 mlp"``.

    Args:
        circuit: the nodes.
        by: how they are put together, see `By`.

    Raises:
        DataError: there is no such grouping.
    """
    as_choice(by, By, "grouping")
    nodes = circuit.nodes if isinstance(circuit, Circuit) else circuit
    groups: dict[str, NodeSet] = {}
    for kind, layer, units in places(nodes):
        alone = by == "node" or (by == "usual" and kind == "head")
        for part in [[unit] for unit in units.tolist()] if alone else [units.tolist()]:
            held = NodeSet(torch.zeros_like(nodes.neurons), torch.zeros_like(nodes.heads))
            held.mask(kind)[layer, part] = True
            together = f"L{layer} {SUBLAYER_OF[kind]}" if by == "sublayer" else f"L{layer} neurons"
            groups[f"L{layer}{kind[0].upper()}{part[0]}" if alone else together] = held
    return groups


def sorted_groups(model: HookedModel, groups: Circuit | NodeSet | Mapping[str, NodeSet]) -> list[Group]:
    """The groups from below to above; a circuit or node set stands for its usual ones.

    Raises:
        NodeError: a group is empty or spans several sublayers, or is of a model of another shape.
        ModelError: the model norms what its sublayers write.
    """
    named = groups_of(groups) if isinstance(groups, Circuit | NodeSet) else groups
    return sorted((_group(model, name, nodes) for name, nodes in named.items()), key=lambda group: group.height)


def _group(model: HookedModel, name: str, nodes: NodeSet) -> Group:
    check_shape(model, nodes)
    inside = places(nodes)
    if len(inside) != 1:
        raise NodeError(
            f"group {name!r} has nodes in {len(inside)} sublayers; a group is some heads, or some neurons, of one "
            "layer: split it, e.g. with groups_of(circuit)"
        )
    kind, layer, units = inside[0]
    if model.sites.write_norm(SUBLAYER_OF[kind], layer) is not None:
        raise ModelError(
            f"{model.name} norms what its sublayers write, so a group's share of it is not defined for edges; use "
            "a model without such norms (Llama, Qwen, Mistral), or measure whole sets with faithfulness"
        )
    return Group(name, kind, layer, units)


@dataclass(frozen=True, eq=False)
class EdgeList:
    """Which edges there are: from each group to every higher one, receiver by receiver, and then to the target.

    Attributes:
        groups: from below to above.
        reached: places of the groups that write below the target's readout.
    """

    groups: list[Group]
    reached: list[int]

    @classmethod
    def between(cls, model: HookedModel, groups: Circuit | NodeSet | Mapping[str, NodeSet], target: Target) -> EdgeList:
        """All edges of a model's groups. Errors are those of `sorted_groups`."""
        held, reached = sorted_groups(model, groups), below(model, target.readout)
        return cls(held, [i for i, group in enumerate(held) if bool(reached.mask(group.kind)[group.layer].any())])

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Places of source and receiver of every edge between groups."""
        return [
            (i, j) for j, upper in enumerate(self.groups) for i, lower in enumerate(self.groups)
            if lower.height < upper.height
        ]  # fmt: skip

    @property
    def names(self) -> list[tuple[str, str]]:
        """Every edge's ends."""
        named = [group.name for group in self.groups]
        return [(named[i], named[j]) for i, j in self.pairs] + [(named[i], TARGET) for i in self.reached]

    def measure(
        self,
        model: HookedModel,
        effects: Callable[[TokenBatch], Float[Tensor, "batch edge"]],
        prompts: object,
        target: Target,
        intervention: Intervention,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """One row per edge, largest magnitude first: ``source, target, effect, low, high, intervention``.

        Args:
            model: the model.
            effects: of all edges on a batch, in the order of `names`.
            prompts: a SEV (its items are instructed with the target's emotion), or prompts.
            target: what is measured; its samples among the prompts are used.
            intervention: what is done to each source.
            batch_size: rows in a batch.

        Raises:
            PatchError: the intervention does not act on nodes, or what it holds does not fit the model.
        """
        every = NodeSet.empty(model)
        for group in self.groups:
            every.mask(group.kind)[group.layer, group.units] = True
        check_nodes(intervention, model, every)
        samples = SampleSet(prompts_for(prompts, target.emotion), {"target": target})
        with progress("edges", len(samples), shared=True) as advance:
            values = by_sample(samples.run(model, effects, batch_size, shared=True), advance)
        clusters = clusters_of(samples.prompts, samples.used.tolist())
        return _table(self.names, torch.stack(values), clusters, intervention)


def written(model: HookedModel, run: SuffixRun, group: Group, intervention: Intervention) -> Tensor:
    """By how much an intervention changes what a group writes at the last token, ``[batch, d_model]``."""
    units = group.units.to(run.final().device)
    held = unflat(model, group, run.base((group.kind, group.layer))[:, None])[:, :, units]
    where = Where(group.kind, group.layer, units, False, run.batch.samples)
    change = (intervene(intervention, held, where) - held).flatten(1)
    weight = model.writes(group.kind, group.layer)[units.to(model.device)]
    return change @ weight.reshape(change.shape[1], -1).to(change)


def unflat(model: HookedModel, group: Group, held: Tensor) -> Tensor:
    """Heads' outputs with an axis for heads; neurons as they are."""
    return held.unflatten(-1, (model.dims.n_heads, model.dims.d_head)) if group.kind == "head" else held


def _table(
    names: Sequence[tuple[str, str]], values: Float[Tensor, "sample pair"], clusters: Sequence[object],
    intervention: Intervention,
) -> pd.DataFrame:  # fmt: skip
    """One row per pair, largest magnitude first: ``source, target, effect, low, high, intervention``."""
    import pandas as pd

    parts = [SetValues(part, tuple(clusters)).draws() for part in values.double().split(_COLUMNS, dim=1)]
    bounds = [torch.cat(side) for side in zip(*map(quantiles, parts), strict=True)]
    columns = dict(zip(("effect", "low", "high"), (values.double().mean(dim=0), *bounds), strict=True))
    table = pd.DataFrame(names, columns=["source", "target"])
    table = table.assign(**{name: column.tolist() for name, column in columns.items()})
    table = table.sort_values("effect", key=abs, ascending=False, kind="stable", ignore_index=True)
    return table.assign(intervention=describe_intervention(intervention))
