"""Ablations: take away what nodes say, by setting them to zero or to their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from emotion_circuits.activations import Activations
from emotion_circuits.errors import PatchError
from emotion_circuits.interventions.base import Place, Where
from emotion_circuits.interventions.fit import check_activations
from emotion_circuits.types import ModelDims, Site


@dataclass(frozen=True)
class ZeroAblation:
    """Set activations to zero (method.md, stage 4)."""

    acts_on: ClassVar[tuple[Place, ...]] = ("nodes", "residual")

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        return torch.zeros_like(activation)


@dataclass(frozen=True, eq=False)
class MeanAblation:
    """Set activations to their mean over some data, which keeps what is common to all samples.

    Attributes:
        means: the means, e.g. ``Attribution.means`` (over all emotions of the accepted prompts).

    Raises:
        PatchError: there are no means.
    """

    means: Activations
    acts_on: ClassVar[tuple[Place, ...]] = ("nodes", "residual")

    def __post_init__(self) -> None:
        if self.means is None:
            raise PatchError(
                "MeanAblation was given None for means; attributions by DirectAttribution and ContrastiveGradients "
                "have .means, those by other methods have none"
            )

    def check(self, dims: ModelDims, site: Site, layers: Sequence[int]) -> None:
        check_activations("MeanAblation", self.means, dims, site, layers)

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        return where.take(self.means, activation).expand_as(activation)
