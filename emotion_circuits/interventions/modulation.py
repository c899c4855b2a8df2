"""Modulations: strengthen, weaken or bound what nodes say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from emotion_circuits.activations import Activations, Contrast
from emotion_circuits.errors import PatchError
from emotion_circuits.interventions.base import Place, Where
from emotion_circuits.interventions.fit import check_activations
from emotion_circuits.types import ModelDims, Site


@dataclass(frozen=True, eq=False)
class Enhancement:
    r"""Add an emotion's contrast: :math:`a \leftarrow a + \text{strength} \cdot \Delta a` (method.md, stage 7).

    Attributes:
        contrast: what to add. A `Contrast` with a reply part adds that part at generated tokens and its prompt part
            elsewhere; plain `Activations` are added everywhere.
        strength: how often to add it. 1 moves the mean of the baseline onto the mean of the emotion; a negative
            strength suppresses.

    Raises:
        PatchError: there is no contrast.
    """

    contrast: Contrast | Activations
    strength: float = 1.0
    acts_on: ClassVar[tuple[Place, ...]] = ("nodes", "residual")

    def __post_init__(self) -> None:
        if self.contrast is None:
            raise PatchError(
                "Enhancement was given None for contrast; attributions by DirectAttribution and ContrastiveGradients "
                "of several emotions have .contrast, and fit_contrasts measures one for every emotion"
            )

    def check(self, dims: ModelDims, site: Site, layers: Sequence[int]) -> None:
        contrast = self.contrast
        phases = (contrast.prompt, contrast.reply) if isinstance(contrast, Contrast) else (contrast,)
        for held in phases:
            if held is not None:
                check_activations("Enhancement", held, dims, site, layers)

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        if isinstance(where.generated, bool):
            return activation + self.offset(where, activation, generated=where.generated)
        prompt, reply = (self.offset(where, activation, generated=phase) for phase in (False, True))
        return activation + where.by_phase(prompt, reply)

    def offset(self, where: Where, like: Tensor, *, generated: bool) -> Tensor:
        """What is added to the selected units at generated tokens, or at prompt tokens."""
        contrast = self.contrast
        if isinstance(contrast, Contrast):
            contrast = contrast.reply if generated and contrast.reply is not None else contrast.prompt
        return self.strength * where.take(contrast, like)


@dataclass(frozen=True)
class Scale:
    """Multiply activations by a factor; 0 is `ZeroAblation`, 1 does nothing."""

    factor: float
    acts_on: ClassVar[tuple[Place, ...]] = ("nodes", "residual")

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        return activation * self.factor


@dataclass(frozen=True)
class Clamp:
    """Keep activations between two bounds; either may be None."""

    low: float | None = None
    high: float | None = None
    acts_on: ClassVar[tuple[Place, ...]] = ("nodes", "residual")

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        return activation if self.low is None and self.high is None else activation.clamp(self.low, self.high)
