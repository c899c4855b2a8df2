"""Doses: what was measured at each strength, and which regime it is in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from emotion_circuits.checked import build
from emotion_circuits.control.bisection import Regime
from emotion_circuits.errors import ArtefactError

if TYPE_CHECKING:
    import pandas as pd

FALL = 0.2
"""An accuracy that is this much below that of a weaker strength has not failed to rise: it has fallen."""


@dataclass(frozen=True)
class Bounds:
    """What a point must keep to be eligible.

    Attributes:
        perplexity_ratio: largest perplexity, as a multiple of the prompted replies' on the same items.
        on_topic: smallest share of replies that mention their scenario.
        accuracy: the accuracy wanted.
    """

    perplexity_ratio: float = 1.15
    on_topic: float = 0.9
    accuracy: float = 0.95

    def regime(self, accuracy: float, perplexity_ratio: float, on_topic: float, weaker: float = 0.0) -> Regime:
        """The regime of a point.

        A reply without the emotion is less likely after the prompt that asks for it, however good its text; so points
        that miss the wanted accuracy may be twice as far above the perplexity of the prompted replies.

        Args:
            accuracy: of the point.
            perplexity_ratio: of the point.
            on_topic: of the point.
            weaker: the best accuracy of unbroken text at weaker strengths.
        """
        reached = accuracy >= self.accuracy
        allowed = self.perplexity_ratio if reached else 2 * self.perplexity_ratio - 1
        fallen = not reached and accuracy < weaker - FALL
        if perplexity_ratio > allowed or on_topic < self.on_topic or fallen:
            return "degenerate"
        return "controlled" if reached else "too weak"


@dataclass(frozen=True)
class Point:
    """One candidate at one strength, for one emotion.

    Attributes:
        emotion: the emotion.
        candidate: the candidate's name.
        strength: the strength, as the candidate takes it.
        n: validation items it was run on.
        accuracy: share of replies that express the emotion; unscored ones count as misses.
        perplexity_ratio: perplexity over that of the prompted replies.
        on_topic: share of replies that mention their scenario.
        regime: ``too weak``, ``controlled`` or ``degenerate`` (the text breaks, or accuracy has fallen again).
        removed: accuracy of instructed replies from which the candidate was taken away; None where not tried.
        control: the same for its control, random nodes of the same make-up.
        share: the strength as a share of the residual's norm, see `emotion_circuits.control.share`.
    """

    emotion: str
    candidate: str
    strength: float
    n: int
    accuracy: float
    perplexity_ratio: float
    on_topic: float
    regime: Regime
    removed: float | None = None
    control: float | None = None
    share: float | None = None

    @property
    def rank(self) -> tuple:
        """Sorts points from best to worst."""
        needed = 0.0 if self.removed is None or self.control is None else self.removed - self.control
        broken = self.regime == "degenerate"
        return (broken, -round(self.accuracy, 6), needed, self.share or self.strength, self.perplexity_ratio)


@dataclass(frozen=True)
class Calibration:
    """The point chosen for each emotion, and everything that was tried.

    Attributes:
        chosen: by emotion.
        points: all points, in the order they were run: together the dose-response curves.
        bounds: what they had to keep.
        n_generations: replies that were generated in all, for points, references and removals.
    """

    chosen: Mapping[str, Point]
    points: tuple[Point, ...]
    bounds: Bounds
    n_generations: int = 0

    def curve(self, emotion: str, candidate: str | None = None) -> list[Point]:
        """The dose-response curve of one candidate (the chosen one by default), from weak to strong.

        Where a strength was run twice, the point with more items stands.
        """
        candidate = candidate or self.chosen[emotion].candidate
        mine = [p for p in self.points if (p.emotion, p.candidate) == (emotion, candidate)]
        largest = {p.strength: p for p in sorted(mine, key=lambda p: p.n)}
        return [largest[strength] for strength in sorted(largest)]

    def to_frame(self) -> pd.DataFrame:
        """One row per point, with ``chosen``."""
        import pandas as pd

        return pd.DataFrame([{**asdict(p), "chosen": self.chosen[p.emotion] == p} for p in self.points])

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` gave.

        Raises:
            ArtefactError: a part is missing, is something else, or does not belong to the others.
        """
        read = build(cls, "a calibration", held)
        strange = {p.emotion for p in read.points} - set(read.chosen)
        strange |= {emotion for emotion, point in read.chosen.items() if point.emotion != emotion}
        if strange:
            raise ArtefactError(f"a calibration has points of {min(strange)!r}, but chose none of it")
        return read

    def __repr__(self) -> str:
        counts = f"{len(self.points)} points, {self.n_generations} generations"
        each = ", ".join(f"{e} {p.strength:g} ({p.regime})" for e, p in self.chosen.items())
        return f"Calibration({each}; {counts})"


def best_of_each(points: Sequence[Point]) -> list[Point]:
    """The best point of every candidate, best first."""
    best: dict[str, Point] = {}
    for point in sorted(points, key=lambda point: point.rank):
        best.setdefault(point.candidate, point)
    return list(best.values())
