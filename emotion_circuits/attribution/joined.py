"""Joined scores: neurons by one method, heads by another, as the reference ranks them (method.md, stage 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emotion_circuits.attribution.result import Attribution
from emotion_circuits.model import HookedModel
from emotion_circuits.targets import Target

if TYPE_CHECKING:
    from emotion_circuits.attribution import AttributionMethod


@dataclass(frozen=True)
class Joined:
    """A method made of two, each run over the prompts; see `Attribution.with_heads`.

    Attributes:
        neurons: scores the neurons, and gives everything else that a result holds.
        heads: scores the heads.
    """

    neurons: AttributionMethod
    heads: AttributionMethod

    @property
    def name(self) -> str:
        return f"{self.neurons.name} + {self.heads.name}"

    def __call__(
        self, model: HookedModel, prompts: object, targets: Mapping[str, Target], batch_size: int | None = None
    ) -> dict[str, Attribution]:
        """Scores of every target."""
        neurons, heads = (method(model, prompts, targets, batch_size) for method in (self.neurons, self.heads))
        return {name: held.with_heads(heads[name]) for name, held in neurons.items()}
