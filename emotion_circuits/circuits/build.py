"""Building circuits: from scores and influence to nodes (method.md, stage 6)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from emotion_circuits.activations import Contrast
from emotion_circuits.attribution.influence import Influence
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.quota import allocate_quota
from emotion_circuits.errors import NodeError
from emotion_circuits.nodes import NodeSet
from emotion_circuits.types import NodeKind

MINIMUM: Mapping[NodeKind, int] = {"neuron": 4, "head": 2}
"""Nodes that the reference gives to every layer."""


def build_circuit(
    scores: Attribution,
    influence: Influence | None = None,
    *,
    neurons: float = 0.7,
    heads: float = 0.3,
    size: int = 560,
    minimum: Mapping[NodeKind, int] | None = None,
    cap: float = 0.4,
    contrast: Contrast | None = None,
) -> Circuit:
    """The best nodes of each layer, as many as the layer's influence earns it.

    Args:
        scores: ranks the nodes within a layer.
        influence: of every sublayer; without it, every layer weighs the same.
        neurons: share of ``size`` given to neurons.
        heads: share given to heads.
        size: nodes in the circuit.
        minimum: neurons and heads that every layer gets; the reference's 4 and 2 by default, fewer in small circuits.
        cap: largest share of a kind in one layer.
        contrast: what `Enhancement` adds; the one that came with ``scores`` by default.

    Raises:
        NodeError: the shares do not add up, or the scores name no emotion.
    """
    if scores.emotion is None:
        raise NodeError(
            "these scores are of no emotion; attribute a target that has one, e.g. directions.target('anger')"
        )
    if not 0 <= neurons <= 1 or abs(neurons + heads - 1) > 1e-9:
        raise NodeError(f"the shares of neurons ({neurons}) and heads ({heads}) must be in [0, 1] and add up to 1")
    wanted: dict[NodeKind, int] = {"head": round(heads * size)}
    wanted["neuron"] = size - wanted["head"]
    masks = {}
    for row, kind in enumerate(("head", "neuron")):
        values = scores.values.values(kind)  # type: ignore[arg-type]
        weights = torch.ones(scores.dims.n_layers) if influence is None else influence.of(scores.emotion)[row]
        plan = allocate_quota(
            weights.tolist(),
            size=min(wanted[kind], values.numel()),  # type: ignore[index]
            minimum=(minimum or MINIMUM)[kind],  # type: ignore[index]
            cap=cap,
            available=values.shape[1],
        )
        masks[kind] = top_per_layer(values, plan)
    return Circuit(
        emotion=scores.emotion,
        nodes=NodeSet(masks["neuron"], masks["head"]),
        dims=scores.dims,
        scores=scores.values,
        influence=None if influence is None else influence.of(scores.emotion),
        contrast=contrast or scores.contrast,
        provenance={
            **scores.provenance,
            "builder": {"method": "quota", "size": size, "neurons": neurons, "heads": heads, "cap": cap},
        },
    )


def top_per_layer(values: Tensor, plan: list[int]) -> Tensor:
    """Mask of the ``plan[l]`` largest values in each layer; ties fall to the lower index."""
    mask = torch.zeros_like(values, dtype=torch.bool)
    for layer, count in enumerate(plan):
        mask[layer, values[layer].argsort(descending=True, stable=True)[:count]] = True
    return mask
