"""Control by directions of the residual: add one, or take one out (method.md, stage 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.activations import Activations, Contrast
from emotion_circuits.control.methods import Method, Prompting, held_for, strength_of
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.data.sev import Item
from emotion_circuits.directions.pairs import fit_contrast_pairs
from emotion_circuits.interventions import Enhancement, Patch, ProjectOut, Steering
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import Residual
from emotion_circuits.types import Position

ContrastPairs = Mapping[str, tuple[object, object]]
"""By emotion: prompts or replies that show it, and as many counterparts that do not."""


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """Add a share of the residual's norm along the emotion's direction (method.md, stage 3: the baseline).

    Attributes:
        vectors: unit directions of ``resid_post``, per emotion.
        layers: where; the reference uses about 40 to 70 % of the depth.
        strength: share of the residual's norm; one number, or one per emotion.
        positions: at which tokens.
        name: shown in tables.
    """

    vectors: Mapping[str, Float[Tensor, "layer d_model"]]
    layers: tuple[int, ...]
    strength: float | Mapping[str, float] = 0.14
    positions: Position = "last"
    name: str = "steering"

    @classmethod
    def from_contrast_pairs(
        cls, model: HookedModel, pairs: ContrastPairs, layers: tuple[int, ...], strength: float = 0.14,
        positions: Position = "last", measured_at: Position = "last_prompt",
    ) -> SteeringVector:  # fmt: skip
        """Steering along the mean difference of pairs, at a share of the residual's norm.

        Args as for `ContrastSteering.from_contrast_pairs`, which adds the difference as it is.
        """
        measured = {e: fit_contrast_pairs(model, *held, positions=measured_at) for e, held in pairs.items()}
        vectors = {e: torch.nn.functional.normalize(_resid_post(a), dim=-1) for e, a in measured.items()}
        return cls(vectors, layers, strength, positions)

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        steer = Steering(held_for(self.vectors, emotion, self.name), strength_of(self.strength, emotion))
        return [item.prompt() for item in items], [Patch(Residual(self.layers), steer, self.positions)]


@dataclass(frozen=True, eq=False)
class ContrastSteering:
    """Add the contrast of the residual itself, at some layers: steering with a circuit's contrasts and positions.

    With contrasts from pairs of texts it is contrastive activation addition (`from_contrast_pairs`).

    Attributes:
        contrasts: per emotion, with residual parts.
        layers: where.
        strength: how often the contrast is added; one number, or one per emotion.
        positions: at which tokens.
        name: shown in tables.
    """

    contrasts: Mapping[str, Contrast | Activations]
    layers: tuple[int, ...]
    strength: float | Mapping[str, float] = 1.0
    positions: Position = "last"
    name: str = "steering"

    @classmethod
    def from_contrast_pairs(
        cls, model: HookedModel, pairs: ContrastPairs, layers: tuple[int, ...], strength: float = 1.0,
        positions: Position = "last", measured_at: Position = "last_prompt",
    ) -> ContrastSteering:  # fmt: skip
        """Contrastive activation addition: the raw mean difference of pairs, ``strength`` times.

        Args:
            model: the model.
            pairs: by emotion, texts that show it and their counterparts that do not.
            layers: where to add it; the source uses one, near the middle.
            strength: how often (the source's multiplier).
            positions: at which tokens it is added.
            measured_at: at which tokens it is measured, see `fit_contrast_pairs`.

        Reference: Rimsky et al., 2024, arXiv 2312.06681.
        """
        measured = {e: fit_contrast_pairs(model, *held, positions=measured_at) for e, held in pairs.items()}
        return cls(measured, layers, strength, positions)

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        contrast = held_for(self.contrasts, emotion, self.name)
        enhance = Enhancement(contrast, strength_of(self.strength, emotion))
        return [item.prompt() for item in items], [Patch(Residual(self.layers), enhance, self.positions)]


@dataclass(frozen=True, eq=False)
class Suppression:
    """Take an emotion's direction out of the residual: what another method does, without that direction.

    Attributes:
        vectors: unit directions of ``resid_post``, per emotion.
        layers: where.
        method: what is run meanwhile; the instruction by default, whose effect is to be undone.
        strength: 1 takes the direction out wholly; one number, or one per emotion.
        positions: at which tokens.
        name: shown in tables.
    """

    vectors: Mapping[str, Float[Tensor, "layer d_model"]]
    layers: tuple[int, ...]
    method: Method = field(default_factory=Prompting)
    strength: float | Mapping[str, float] = 1.0
    positions: Position = "all"
    name: str = "prompting - direction"

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        prompts, patches = self.method.prepare(items, emotion)
        out = ProjectOut(held_for(self.vectors, emotion, self.name), strength_of(self.strength, emotion))
        return prompts, [*patches, Patch(Residual(self.layers), out, self.positions)]


def _resid_post(held: Activations) -> Float[Tensor, "layer d_model"]:
    assert held.resid_post is not None, "pairs are measured at resid_post"
    return held.resid_post
