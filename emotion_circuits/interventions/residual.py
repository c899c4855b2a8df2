"""Interventions on the residual stream: steer along a direction, or take a direction out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from einops import einsum
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.interventions.base import Place, Where
from emotion_circuits.interventions.fit import check_directions
from emotion_circuits.types import ModelDims, Site


@dataclass(frozen=True, eq=False)
class Steering:
    r"""Add a share of the residual's norm along a unit direction: :math:`r \leftarrow r + s \lVert r \rVert v_l`.

    The reference writes :math:`\alpha\,\mathrm{rms}(r)\,v`; the two agree at
    :math:`s = \alpha / \sqrt{d_\text{model}}` (method.md, stage 3).

    Attributes:
        vectors: unit direction of each layer.
        strength: share of the residual's norm, comparable between models.
    """

    vectors: Float[Tensor, "layer d_model"]
    strength: float
    acts_on: ClassVar[tuple[Place, ...]] = ("residual",)

    def check(self, dims: ModelDims, site: Site, layers: Sequence[int]) -> None:
        check_directions("Steering", self.vectors, dims, layers)

    @classmethod
    def from_alpha(cls, vectors: Float[Tensor, "layer d_model"], alpha: float) -> Steering:
        """Steering with the reference's ``alpha``, which multiplies the residual's rms."""
        return cls(vectors, alpha / vectors.shape[-1] ** 0.5)

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        vector = where.select(self.vectors[where.layer], activation)
        norm = activation.float().norm(dim=-1, keepdim=True).to(activation.dtype)
        return activation + self.strength * norm * vector


@dataclass(frozen=True, eq=False)
class ProjectOut:
    r"""Remove a direction: :math:`r \leftarrow r - \text{strength}\,(r \cdot v_l)\,v_l`.

    Attributes:
        vectors: unit direction of each layer.
        strength: 1 removes it wholly, 2 reflects.
    """

    vectors: Float[Tensor, "layer d_model"]
    strength: float = 1.0
    acts_on: ClassVar[tuple[Place, ...]] = ("residual",)

    def check(self, dims: ModelDims, site: Site, layers: Sequence[int]) -> None:
        check_directions("ProjectOut", self.vectors, dims, layers)

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        vector = where.select(self.vectors[where.layer], activation)
        along = einsum(activation, vector, "batch pos d_model, d_model -> batch pos")[..., None]
        return activation - self.strength * along * vector
