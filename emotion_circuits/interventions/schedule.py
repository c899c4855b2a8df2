r"""Schedules: an intervention whose strength follows the reply.

A curve says how strong an intervention is while token number t of the reply is made (t = 0 is decided at the last
prompt token); `Scheduled` multiplies what the intervention changes by it: :math:`a \leftarrow a + c(t)\,(I(a) - a)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emotion_circuits.interventions.base import Intervention, Place, Where
from emotion_circuits.interventions.fit import check_fit
from emotion_circuits.types import ModelDims, Site


@runtime_checkable
class Curve(Protocol):
    """A factor for every token of a reply; see the module's docstring."""

    def at(self, step: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """The factor while token number ``step`` of the reply is made."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same factor throughout."""

    value: float = 1.0

    def at(self, step: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        return torch.full(step.shape, self.value, dtype=torch.float32, device=step.device)


@dataclass(frozen=True)
class Ramp:
    """From ``start`` to ``end`` in equal steps over the first tokens, then ``end``.

    Attributes:
        tokens: number of the token at which the end is reached.
        start: factor of the first token.
        end: factor from token ``tokens`` on.
    """

    tokens: int
    start: float = 0.0
    end: float = 1.0

    def at(self, step: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        return self.start + (self.end - self.start) * (step / max(1, self.tokens)).clamp(max=1)


@dataclass(frozen=True)
class Decay:
    r"""Halved every ``half_life`` tokens: :math:`2^{-t / h}`."""

    half_life: float

    def at(self, step: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        return torch.exp2(-step / self.half_life)


@dataclass(frozen=True)
class Window:
    """1 for the tokens from ``start`` up to, and without, ``stop`` (None: to the end), and 0 for the others."""

    start: int = 0
    stop: int | None = None

    def at(self, step: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        inside = step >= self.start
        return (inside if self.stop is None else inside & (step < self.stop)).float()


@dataclass(frozen=True, eq=False)
class Scheduled:
    """An intervention times a curve.

    Attributes:
        intervention: what is done where the curve is 1.
        curve: how much of it, by token of the reply.
    """

    intervention: Intervention
    curve: Curve

    acts_on: ClassVar[tuple[Place, ...]] = ("nodes", "residual")

    def check(self, dims: ModelDims, site: Site, layers: Sequence[int]) -> None:
        check_fit(self.intervention, dims, site, layers)

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        step = where.step if isinstance(where.step, Tensor) else torch.tensor([[where.step]])
        factor = self.curve.at(step).to(activation)
        factor = factor.view(*factor.shape, *[1] * (activation.ndim - 2))
        change = self.intervention(activation, where) - activation
        # Not 0 * change: what is not finite must not come through a closed window.
        return activation + torch.where(factor == 0, 0, factor * change)


def weighted(intervention: Intervention, curve: Curve | float) -> Intervention:
    """``intervention`` with its change multiplied by a number or a curve.

    A number goes into the intervention's own ``strength``, where it has one, and so costs nothing in decoding.
    """
    if isinstance(curve, Curve):
        return Scheduled(intervention, curve)
    if hasattr(intervention, "strength"):
        held: Any = intervention
        return replace(held, strength=curve * held.strength)
    return Scheduled(intervention, Constant(curve))
