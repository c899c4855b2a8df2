"""Bisection: where along strength does control begin, and where does the text break?

Along strength the regimes follow each other: too weak, controlled, degenerate. So one answer rules out all weaker or
all stronger points, and the edges of the controlled part are found by halving (in ratios: strength is a factor).

The searches are generators that ask for a strength and are sent its regime. Many of them run side by side, and what
they ask for in one round can be generated in one batch.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Literal

Regime = Literal["too weak", "controlled", "degenerate"]


@dataclass(frozen=True)
class Range:
    """Where to search.

    Attributes:
        low: weakest strength.
        high: strongest strength.
        ratio: two strengths that differ by no more than this factor are not told apart.
    """

    low: float = 0.25
    high: float = 2.0
    ratio: float = 1.3

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high and self.ratio > 1):
            raise ValueError(f"a range needs 0 < low <= high and a ratio above 1, got {self}")

    def between(self, low: float, high: float) -> float | None:
        """The geometric middle of two strengths, or None when they are too close to be told apart."""
        return None if high / low <= self.ratio else round((low * high) ** 0.5, 4)

    @property
    def start(self) -> float:
        """The geometric middle."""
        return round((self.low * self.high) ** 0.5, 4)


def find(span: Range) -> Generator[float, Regime, float | None]:
    """Ask for strengths until one is controlled.

    Returns:
        That strength; None when even the strongest is too weak, or when nothing between too weak and degenerate is
        controlled.
    """
    low, high, strength = span.low, span.high, span.start
    regime = yield strength
    if regime == "too weak":
        low, strength = strength, span.high
        if (regime := (yield strength)) == "too weak":
            return None
    while regime != "controlled":
        low, high = (strength, high) if regime == "too weak" else (low, strength)
        middle = span.between(low, high)
        if middle is None:
            return None
        strength = middle
        regime = yield strength
    return strength


def edges(
    span: Range, known: Mapping[float, Regime], controlled: float
) -> Generator[float, Regime, tuple[float, float]]:
    """Ask for strengths on both sides of a controlled one until the ends of the controlled part are known.

    Args:
        span: where to search.
        known: regimes of the strengths that have been asked for.
        controlled: one that is controlled.

    Returns:
        The weakest and the strongest strength that were found to be controlled.
    """
    weak = max((s for s, regime in known.items() if s < controlled and regime != "controlled"), default=span.low)
    first = min((s for s, regime in known.items() if s > weak and regime == "controlled"), default=controlled)
    while (middle := span.between(weak, first)) is not None:
        first, weak = (middle, weak) if (yield middle) == "controlled" else (first, middle)
    broken = min((s for s, regime in known.items() if s > controlled and regime != "controlled"), default=None)
    last = max((s for s, regime in known.items() if regime == "controlled" and (broken is None or s < broken)))
    if broken is None and last < span.high:
        last, broken = (span.high, None) if (yield span.high) == "controlled" else (last, span.high)
    while broken is not None and (middle := span.between(last, broken)) is not None:
        last, broken = (middle, broken) if (yield middle) == "controlled" else (last, middle)
    return first, last
