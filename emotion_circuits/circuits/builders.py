"""Builders: ways to choose a circuit's nodes from scores and influence.

A builder is a frozen object that is called with the scores (minus infinity for nodes that were not scored), the
influence of the sublayers and the number of nodes wanted of each kind, which is never more than were scored, and gives
a `NodeSet`. Adding one is adding a class with that call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emotion_circuits.circuits.quota import allocate_quota
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.types import NodeKind

Wanted = Mapping[NodeKind, int]


@runtime_checkable
class Builder(Protocol):
    """See the module's docstring."""

    @property
    def name(self) -> str: ...

    def __call__(self, scores: NodeValues, influence: Float[Tensor, "2 layer"] | None, wanted: Wanted) -> NodeSet: ...


def _reference_minimum() -> dict[NodeKind, int]:
    return {"neuron": 4, "head": 2}


@dataclass(frozen=True)
class Quota:
    """As many nodes per layer as its influence earns, the best of each layer (method.md, stage 6).

    Attributes:
        minimum: nodes of each kind that every layer gets; fewer when the circuit is smaller than that.
        cap: largest share of a kind in one layer.
    """

    minimum: Mapping[NodeKind, int] = field(default_factory=_reference_minimum)
    cap: float = 0.4
    name: str = "quota"

    def __call__(self, scores: NodeValues, influence: Float[Tensor, "2 layer"] | None, wanted: Wanted) -> NodeSet:
        masks: dict[str, Tensor] = {}
        rows: tuple[tuple[int, NodeKind], ...] = ((0, "head"), (1, "neuron"))
        for row, kind in rows:
            values = scores.values(kind)
            weights = torch.ones(len(values)) if influence is None else influence[row]
            plan = allocate_quota(
                weights.tolist(),
                size=wanted[kind],
                minimum=self.minimum[kind],
                cap=self.cap,
                available=(values > -torch.inf).sum(dim=1).tolist(),
            )
            masks[kind] = top_per_layer(values, plan)
        return NodeSet(masks["neuron"], masks["head"])


@dataclass(frozen=True)
class GlobalTop:
    """The best neurons and the best heads of the whole model, wherever they lie; influence is not used."""

    name: str = "global top"

    def __call__(self, scores: NodeValues, influence: Float[Tensor, "2 layer"] | None, wanted: Wanted) -> NodeSet:
        return scores.top(wanted["neuron"], "neuron") | scores.top(wanted["head"], "head")


@dataclass(frozen=True)
class Threshold:
    """Every node whose score is at least a share of the best score of its kind; the size is an upper bound.

    Attributes:
        share: of the best score.
    """

    share: float = 0.1
    name: str = "threshold"

    def __call__(self, scores: NodeValues, influence: Float[Tensor, "2 layer"] | None, wanted: Wanted) -> NodeSet:
        best = GlobalTop()(scores, influence, wanted)
        above = NodeSet(*(held >= self.share * held.max() for held in (scores.neurons, scores.heads)))
        return best & above


def top_per_layer(values: Float[Tensor, "layer unit"], plan: list[int]) -> Bool[Tensor, "layer unit"]:
    """Mask of the ``plan[l]`` largest values in each layer; ties fall to the lower index."""
    mask = torch.zeros_like(values, dtype=torch.bool)
    for layer, count in enumerate(plan):
        mask[layer, values[layer].argsort(descending=True, stable=True)[:count]] = True
    return mask


def describe(builder: Builder) -> dict[str, Any]:
    """A builder's settings, for provenance."""
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in vars(builder).items()}
