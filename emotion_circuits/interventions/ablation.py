"""Ablations: take away what nodes say, by setting them to zero or to their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from emotion_circuits.activations import Activations
from emotion_circuits.interventions.base import Place, Where


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
    """

    means: Activations
    acts_on: ClassVar[tuple[Place, ...]] = ("nodes", "residual")

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        return where.take(self.means, activation).expand_as(activation)
