"""Fusing: several constant additions at one site as a single addition.

While tokens are decoded, a hook's own cost is a handful of small operations per patch, which adds up when many rows
have patches of their own. But an enhancement only adds a constant, so all of them together are one tensor with a row
per sample, made once and added in one operation at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from emotion_circuits.interventions import Where
from emotion_circuits.model.frames import Frame

if TYPE_CHECKING:
    from emotion_circuits.model.patching import Part

_AT_LAST_PROMPT = ("last_prompt", "last")
_AT_GENERATED = ("generated", "last", "all")


@runtime_checkable
class Additive(Protocol):
    """An intervention that adds a constant."""

    def offset(self, where: Where, like: Tensor, *, generated: bool) -> Tensor:
        """What is added to the selected units, at generated tokens or at prompt tokens."""
        ...


@dataclass
class FusedParts:
    """The parts of one site of one layer, when each of them adds a constant.

    Attributes:
        parts: the parts.
    """

    parts: Sequence[Part]
    _held: dict = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Sequence[Part]) -> FusedParts | None:
        """The fused parts, or None if one of them does more than add."""
        simple = all(isinstance(p.patch.intervention, Additive) and isinstance(p.patch.positions, str) for p in parts)
        return cls(parts) if simple else None

    def __call__(self, activation: Tensor, frame: Frame) -> Tensor | None:
        """``activation`` with everything added; None when this call's tokens are not all alike."""
        if not isinstance(frame.last_prompt, int) or not _is_of(activation, frame):
            return None
        if frame.past > frame.last_prompt:
            if frame.real is not None:
                return None
            delta = self._delta(activation, frame, _AT_GENERATED, generated=True)
            return activation if delta is None else activation + delta[:, None]
        acts_earlier = any(p.patch.positions in ("prompt", "all") for p in self.parts)
        if acts_earlier or frame.past + frame.width - 1 != frame.last_prompt:
            return None
        delta = self._delta(activation, frame, _AT_LAST_PROMPT, generated=False)
        if delta is None:
            return activation
        return torch.cat([activation[:, :-1], activation[:, -1:] + delta[:, None]], dim=1)

    def _delta(self, like: Tensor, frame: Frame, positions: Sequence[str], *, generated: bool) -> Tensor | None:
        key = (generated, len(like), like.device, like.dtype)
        samples, delta = self._held.get(key, (None, None))
        if key not in self._held or samples is not frame.samples:
            delta = self._build(like, frame, [p for p in self.parts if p.patch.positions in positions], generated)
            self._held[key] = (frame.samples, delta)
        return delta

    def _build(self, like: Tensor, frame: Frame, parts: Sequence[Part], generated: bool) -> Tensor | None:
        if not parts:
            return None
        one = like[:1, 0]
        total = torch.zeros_like(one if all(p.patch.rows is None for p in parts) else like[:, 0])
        for part in parts:
            offset: Callable[..., Tensor] = part.patch.intervention.offset  # type: ignore[attr-defined]
            held = offset(part.where, one, generated=generated)
            rows = part.rows(frame, len(like))
            units = part.where.units
            full = held if units is None else _spread(held, units.to(held.device), one.shape[-1])
            if rows is None:
                total = total + full
            else:
                total = total.index_add(0, rows.to(total.device), full.expand(len(rows), -1))
        return total


def _is_of(activation: Tensor, frame: Frame) -> bool:
    """Whether these are the frame's own tokens; a suffix pass runs many variants of its last one."""
    rows = len(activation) if frame.samples is None else len(frame.samples)
    return activation.shape[:2] == (rows, frame.width)


def _spread(values: Tensor, units: Tensor, width: int) -> Tensor:
    """The units' values among zeros; a head's values are ``d_head`` neighbours."""
    d_unit = values.shape[1] if values.ndim == 2 else 1
    full = values.new_zeros(width // d_unit, d_unit)
    return full.index_copy(0, units, values.reshape(-1, d_unit)).flatten()
