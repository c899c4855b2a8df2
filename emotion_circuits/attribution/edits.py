"""From interventions on nodes to edits of a suffix pass, vectorised over all variants of a layer.

1. One node per variant (`node_edits`): variant j changes unit u_j of its layer. The activations of the u_j are
   gathered, ``[batch, variant]``, and given to the intervention as one token whose selected nodes are the u_j.
2. A set of nodes per variant (`set_edit`): the intervention sees every node that any variant changes, one token per
   variant; a mask keeps what it returns for the variant's own nodes.

So an intervention is called once per layer and kind, however many variants there are. It must treat nodes one by one
and tokens one by one, as all interventions of this package do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from emotion_circuits.errors import PatchError
from emotion_circuits.interventions import Intervention, Where, check_fit
from emotion_circuits.model.suffix import Change, Edit, EditFunction, Readout
from emotion_circuits.nodes import HasDims, NodeSet
from emotion_circuits.types import ModelDims, NodeKind, Site, as_layer

if TYPE_CHECKING:
    from emotion_circuits.model import HookedModel

WRITE_ORDER: tuple[NodeKind, NodeKind] = ("head", "neuron")
"""Within a layer heads write first."""

_BELOW: dict[Site, tuple[NodeKind, ...]] = {
    "resid_pre": (), "attn_out": ("head",), "resid_mid": ("head",), "head": ("head",)
}  # fmt: skip
"""The kinds of node of its own layer that a site depends on; both for those that are not named."""

Place = tuple[NodeKind, int]
"""The nodes of one kind in one layer."""


def below(model: HasDims | ModelDims, readout: Readout) -> NodeSet:
    """The nodes that something read at ``readout`` can depend on; all others lie above it.

    Raises:
        NodeError: the model has no such layer.
    """
    every, site = NodeSet.all(model), readout[0]
    last = as_layer(readout[1], len(every.heads))
    of_last: tuple[NodeKind, ...] = _BELOW.get(site, ("head", "neuron"))
    reached = every.in_layers(range(last))
    for kind in of_last:
        reached = reached | every.only(kind).in_layers([last])
    return reached


def check_nodes(intervention: Intervention, model: HookedModel, nodes: NodeSet) -> None:
    """Raise a `PatchError` unless the intervention acts on nodes, and what it holds fits the model's ``nodes``."""
    if "nodes" not in intervention.acts_on:
        raise PatchError(
            f"{type(intervention).__name__} acts on {' and '.join(intervention.acts_on)}, not on nodes; use an "
            "ablation, an exchange or a modulation, or measure it with measure(..., Patch(Residual.of(model), ...))"
        )
    for kind in WRITE_ORDER:
        check_fit(intervention, model.dims, kind, nodes.mask(kind).any(dim=1).nonzero().flatten().tolist())


def places(nodes: NodeSet) -> list[tuple[NodeKind, int, Int[Tensor, " node"]]]:
    """Kind, layer and units of every part of ``nodes``, sorted by layer, heads first."""
    return [
        (kind, layer, nodes.mask(kind)[layer].nonzero().flatten())
        for layer in range(len(nodes.heads))
        for kind in WRITE_ORDER
        if bool(nodes.mask(kind)[layer].any())
    ]


def node_edits(nodes: NodeSet, intervention: Intervention, samples: Int[Tensor, " batch"]) -> list[Edit]:
    """One edit per `places` of ``nodes``, with one variant per node.

    Args:
        nodes: each is changed alone.
        intervention: what is done to it.
        samples: for each row of the batch its index in the caller's list of prompts.
    """
    return [
        Edit(kind, layer, len(units), _one_node(kind, layer, units, intervention, samples))
        for kind, layer, units in places(nodes)
    ]


def set_edit(sets: Sequence[NodeSet], intervention: Intervention, samples: Int[Tensor, " batch"]) -> Edit | None:
    """One variant per node set, all its nodes changed together; None when all sets are empty."""
    masks: dict[Place, Tensor] = {
        (kind, layer): torch.stack([held.mask(kind)[layer] for held in sets])
        for kind in WRITE_ORDER
        for layer in torch.stack([held.mask(kind).any(dim=1) for held in sets]).any(dim=0).nonzero().flatten().tolist()
    }
    return mask_edit(masks, intervention, samples)


def mask_edit(
    masks: Mapping[Place, Bool[Tensor, "variant unit"]], intervention: Intervention, samples: Int[Tensor, " batch"]
) -> Edit | None:
    """The same, for sets given as the masks of their places; None when no node is in any of them."""
    changes = [
        Change(*place, _masked(*place, units, mask[:, units], intervention, samples))
        for place, mask in masks.items()
        if len(units := mask.any(dim=0).nonzero().flatten())
    ]
    if not changes:
        return None
    first, *rest = changes
    return Edit(first.site, first.layer, len(next(iter(masks.values()))), first.function, tuple(rest))


def _one_node(kind: NodeKind, layer: int, units: Tensor, intervention: Intervention, samples: Tensor) -> EditFunction:
    def function(activation: Tensor, variants: Tensor) -> Tensor:
        chosen, column = units.to(variants.device)[variants], torch.arange(len(variants), device=variants.device)
        held = activation[:, None, column, chosen]  # batch token node (d_head)
        new = activation.clone()
        new[:, column, chosen] = intervene(intervention, held, Where(kind, layer, chosen, False, samples))[:, 0]
        return new

    return function


def _masked(
    kind: NodeKind, layer: int, units: Tensor, masks: Bool[Tensor, "variant node"], intervention: Intervention,
    samples: Tensor,
) -> EditFunction:  # fmt: skip
    def function(activation: Tensor, variants: Tensor) -> Tensor:
        chosen, mine = units.to(activation.device), masks.to(activation.device)[variants]
        held = activation[:, :, chosen]  # batch token node (d_head)
        changed = intervene(intervention, held, Where(kind, layer, chosen, False, samples))
        mine = mine if kind == "neuron" else mine[..., None]
        return activation.index_copy(2, chosen, torch.where(mine, changed, held))

    return function


def intervene(intervention: Intervention, held: Tensor, where: Where) -> Tensor:
    """What the intervention makes of ``held``, in its shape and dtype.

    Raises:
        PatchError: it returned another shape.
    """
    new = intervention(held, where)
    if new.shape != held.shape:
        name = type(intervention).__name__
        raise PatchError(f"{name} returned shape {tuple(new.shape)} for activations of shape {tuple(held.shape)}")
    return new.to(held.dtype)
