r"""Edges: how much one group of nodes acts on the target directly, and through another group (path patching).

A group is some heads of one layer's attention, or some neurons of one layer's MLP. For source A and receiver B above
it, at the last prompt token, with all else held at its unchanged value:

1. The intervention on A changes what A writes by :math:`\Delta_A = \sum_{i \in A} (a'_i - a_i) W_i`.
2. Only B sees it: B's sublayer reads its unchanged residual plus :math:`\Delta_A`, which gives B new activations.
3. Those activations are put into B, everything above B follows, and the edge's effect is the change of the target.

The edge from A to ``"target"`` is the change when the readout alone sees :math:`\Delta_A`. Exact, since every step is
an intervention (two suffix passes per receiver, all sources in each); effects are not additive.

Reference: Wang et al., 2023 (arXiv 2211.00593); Goldowsky-Dill et al., 2023 (arXiv 2304.05969).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.attribution.edits import check_nodes, intervene, places
from emotion_circuits.attribution.sums import SampleSet
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.node_sets import check_shape, describe_intervention, prompts_for
from emotion_circuits.errors import ModelError, NodeError
from emotion_circuits.intervals import clustered
from emotion_circuits.interventions import Intervention, Where
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.suffix import Edit, SuffixRun
from emotion_circuits.nodes import NodeSet
from emotion_circuits.progress import progress
from emotion_circuits.targets import Target
from emotion_circuits.types import NodeKind, Site, Sublayer

if TYPE_CHECKING:
    import pandas as pd

TARGET = "target"
_READS: dict[NodeKind, Site] = {"head": "resid_pre", "neuron": "resid_mid"}
_SUBLAYER: dict[NodeKind, Sublayer] = {"head": "attention", "neuron": "mlp"}


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


def groups_of(circuit: Circuit | NodeSet) -> dict[str, NodeSet]:
    """A circuit's usual groups: each head alone, and the neurons of each layer together (``"L3 neurons"``)."""
    nodes = circuit.nodes if isinstance(circuit, Circuit) else circuit
    empty = NodeSet(torch.zeros_like(nodes.neurons), torch.zeros_like(nodes.heads))
    groups: dict[str, NodeSet] = {}
    for kind, layer, units in places(nodes):
        parts = [[unit] for unit in units.tolist()] if kind == "head" else [units.tolist()]
        for part in parts:
            held = NodeSet(empty.neurons.clone(), empty.heads.clone())
            held.mask(kind)[layer, part] = True
            groups[f"L{layer}H{part[0]}" if kind == "head" else f"L{layer} neurons"] = held
    return groups


def circuit_edges(
    model: HookedModel, groups: Circuit | Mapping[str, NodeSet], prompts: object, target: Target,
    intervention: Intervention, *, batch_size: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Direct effects between groups of nodes, and of each group on the target.

    Args:
        model: without norms after its sublayers (so not Gemma 2 or 3).
        groups: each within one sublayer; a circuit stands for `groups_of` it.
        prompts: a SEV (its items are instructed with the target's emotion), or prompts.
        target: what is measured.
        intervention: what is done to each source.
        batch_size: rows in a batch.

    Returns:
        One row per pair, largest magnitude first: ``source, target, effect, low, high, intervention``, for
        `Circuit.to_networkx`; ``target`` is ``"target"`` for the direct path to the readout. A negative effect of an
        ablation means that the path carries the target. Intervals are 95 %, bootstrap over scenarios.

    Raises:
        NodeError: a group is empty or spans several sublayers.
        ModelError: the model norms what its sublayers write.
    """
    import pandas as pd

    check_nodes(intervention)
    held = _sorted(model, groups_of(groups) if isinstance(groups, Circuit) else groups)
    pairs = [(a, b) for b in held for a in held if a.height < b.height]
    reached = [a for a in held if _below(a, target, model.dims.n_layers)]
    samples = SampleSet(prompts_for(prompts, target.emotion), {"target": target})
    effects, order = [], []
    with progress("edges", len(samples)) as advance, torch.no_grad():
        work = _Work(model, target, intervention, held, reached)
        for batch, found in samples.run(model, work, batch_size):
            effects.append(found)
            order += batch.samples.tolist()
            advance(len(batch))
    values = torch.cat(effects)
    items = [samples.prompts[i].item for i in order]
    clusters = [i if item is None else item for i, item in zip(order, items, strict=True)]
    names = [(a.name, b.name) for a, b in pairs] + [(a.name, TARGET) for a in reached]
    rows = []
    for (source, end), column in zip(names, values.T, strict=True):
        low, high = clustered(column.tolist(), clusters)
        rows.append({"source": source, "target": end, "effect": float(column.mean()), "low": low, "high": high})
    table = pd.DataFrame(rows, columns=["source", "target", "effect", "low", "high"])
    table = table.sort_values("effect", key=abs, ascending=False, kind="stable", ignore_index=True)
    return table.assign(intervention=describe_intervention(intervention))


class _Work:
    """All edges on one batch: ``[row, pair]``, receivers from below to above, then the direct paths to the target."""

    def __init__(
        self, model: HookedModel, target: Target, intervention: Intervention, groups: Sequence[Group],
        reached: Sequence[Group],
    ) -> None:  # fmt: skip
        self.model, self.target, self.intervention = model, target, intervention
        self.groups, self.reached = groups, reached

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch pair"]:
        run = SuffixRun(self.model, batch)
        written = {group.name: self._written(run, group) for group in self.groups}
        readout = self.target.readout
        base = run.base(readout)
        before = self.target(self.model, base)[:, None].double()
        parts = [base.new_zeros(len(base), 0).double()]
        for receiver in self.groups:
            sources = [group for group in self.groups if group.height < receiver.height]
            if sources:
                seen = self._seen(run, receiver, torch.stack([written[group.name] for group in sources], dim=1))
                after = self._followed(run, receiver, seen)
                parts.append(self.target(self.model, after).double() - before)
        for group in self.reached:
            moved = self.target(self.model, base + written[group.name]).double()
            parts.append(moved[:, None] - before)
        return torch.cat(parts, dim=1).cpu()

    def _written(self, run: SuffixRun, group: Group) -> Float[Tensor, "batch d_model"]:
        """Step 1: by how much the intervention changes what the group writes."""
        units = group.units.to(run.final().device)
        held = self._unflat(group, run.base((group.kind, group.layer))[:, None])[:, :, units]
        where = Where(group.kind, group.layer, units, False, run.batch.samples)
        change = (intervene(self.intervention, held, where) - held).flatten(1)
        weight = self.model.writes(group.kind, group.layer)[units.to(self.model.device)]
        return change @ weight.reshape(change.shape[1], -1).to(change)

    def _seen(self, run: SuffixRun, receiver: Group, pushes: Tensor) -> Tensor:
        """Step 2: the receiver's activations when it alone sees the pushes, ``[batch, source, unit (, d_head)]``."""
        n, site = pushes.shape[1], _READS[receiver.kind]
        edit = Edit(site, receiver.layer, n, lambda resid, variants: resid + pushes[:, variants])
        place = (receiver.kind, receiver.layer)
        parts: list[Tensor | None] = [None] * n
        for variants, read in run.read([edit], [place]):
            for i, variant in enumerate(variants.tolist()):
                parts[variant] = read[place][:, i]
        found = torch.stack([part for part in parts if part is not None], dim=1)
        return self._unflat(receiver, found)[:, :, receiver.units.to(found.device)]

    def _followed(self, run: SuffixRun, receiver: Group, seen: Tensor) -> Float[Tensor, "batch source d_model"]:
        """Step 3: the readout's residual when the receiver has those activations and everything above follows."""
        units, readout = receiver.units.to(seen.device), self.target.readout

        def put(activation: Tensor, variants: Tensor) -> Tensor:
            return activation.index_copy(2, units, seen[:, variants].to(activation.dtype))

        result = run.base(readout)[:, None].repeat(1, seen.shape[1], 1)
        for variants, read in run.read([Edit(receiver.kind, receiver.layer, seen.shape[1], put)], [readout]):
            result[:, variants] = read[readout]
        return result

    def _unflat(self, group: Group, held: Tensor) -> Tensor:
        dims = self.model.dims
        return held.unflatten(-1, (dims.n_heads, dims.d_head)) if group.kind == "head" else held


def _sorted(model: HookedModel, groups: Mapping[str, NodeSet]) -> list[Group]:
    result = []
    for name, nodes in groups.items():
        check_shape(model, nodes)
        inside = places(nodes)
        if len(inside) != 1:
            raise NodeError(
                f"group {name!r} has nodes in {len(inside)} sublayers; a group is some heads, or some neurons, of one "
                "layer: split it, e.g. with groups_of(circuit)"
            )
        kind, layer, units = inside[0]
        if model.sites.write_norm(_SUBLAYER[kind], layer) is not None:
            raise ModelError(
                f"{model.name} norms what its sublayers write, so a group's share of it is not defined for edges; use "
                "a model without such norms (Llama, Qwen, Mistral), or measure whole sets with faithfulness"
            )
        result.append(Group(name, kind, layer, units))
    return sorted(result, key=lambda group: group.height)


def _below(group: Group, target: Target, n_layers: int) -> bool:
    """Whether the target's readout comes after what the group writes."""
    site, layer = target.readout
    after = {"resid_pre": (layer % n_layers, -1), "resid_mid": (layer % n_layers, 0)}
    return group.height <= after.get(site, (layer % n_layers, 1))
