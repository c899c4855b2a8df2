"""The trade-off of control: accuracy against fluency, for every method at every strength.

A method's strength is multiplied by several factors, around what it was calibrated to. Each point is run, judged and
scored like any compared method. A point is on the *front* when no other is at least as accurate at no more perplexity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from emotion_circuits.control.methods import Method, PerEmotion
from emotion_circuits.data.sev import SEV
from emotion_circuits.errors import DataError
from emotion_circuits.evaluation.accuracy import Question
from emotion_circuits.evaluation.comparison import Comparison, compare
from emotion_circuits.evaluation.judges import Judge
from emotion_circuits.generation import GenerationConfig
from emotion_circuits.journal import ReplyJournal
from emotion_circuits.model import HookedModel
from emotion_circuits.types import EKMAN

if TYPE_CHECKING:
    import pandas as pd

FACTORS = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)


@dataclass(frozen=True)
class TradePoint:
    """One method at one strength.

    Attributes:
        method: the method.
        strength: multiple of the method's own strength; 1 for a method that has none.
        n: replies.
        unscored: replies that the judge could not score.
        accuracy: share of scored replies that express their emotion.
        low: lower end of its 95 % Wilson interval.
        high: upper end.
        perplexity: under the unmodulated model.
        perplexity_ratio: perplexity over the reference method's on the same items.
    """

    method: str
    strength: float | int
    n: int
    unscored: int
    accuracy: float
    low: float
    high: float
    perplexity: float
    perplexity_ratio: float

    def beats(self, other: TradePoint) -> bool:
        """At least as good in accuracy and perplexity, and better in one."""
        mine, theirs = (self.accuracy, -self.perplexity), (other.accuracy, -other.perplexity)
        return mine != theirs and mine[0] >= theirs[0] and mine[1] >= theirs[1]


@dataclass(frozen=True)
class TradeOff:
    """All points, in the order they were run.

    Attributes:
        points: the points.
        reference: the method whose perplexity is 1.
    """

    points: tuple[TradePoint, ...]
    reference: str

    @property
    def front(self) -> tuple[TradePoint, ...]:
        """Points that no other beats."""
        return tuple(p for p in self.points if p.accuracy == p.accuracy and not any(q.beats(p) for q in self.points))

    def to_frame(self) -> pd.DataFrame:
        """One row per point, with ``front``."""
        import pandas as pd

        return pd.DataFrame([{**vars(p), "front": p in self.front} for p in self.points])

    def __repr__(self) -> str:
        best = ", ".join(f"{p.method} x {p.strength:g}" for p in self.front)
        return f"TradeOff({len(self.points)} points; front: {best})"


def trade_off(
    model: HookedModel,
    comparison: Comparison,
    methods: Sequence[Method],
    data: SEV,
    judge: Judge,
    emotions: Sequence[str] = EKMAN,
    config: GenerationConfig | None = None,
    *,
    question: Question = "classify",
    factors: Sequence[float | int] = FACTORS,
    reference: str = "prompting",
    batch_size: int | None = None,
    journal: ReplyJournal | None = None,
) -> TradeOff:
    """Accuracy and perplexity of methods at several strengths.

    Args:
        model: the model.
        comparison: from `compare` on the same data: every method at its own strength.
        methods: those of it that are to be run at other strengths as well; they need a ``strength``.
        data: the items.
        judge: the judge.
        emotions: the emotions.
        config: how to decode.
        question: what the judge is asked.
        factors: what strengths are multiplied with, besides 1.
        reference: the method of ``comparison`` whose perplexity is the unit.
        batch_size: rows in a batch.
        journal: keeps replies as they are made.

    Raises:
        DataError: a method has no strength, or the reference was not compared.
    """
    unit = comparison.fluencies[comparison.known(reference)].perplexity
    points = [_point(comparison, name, 1.0, unit) for name in comparison.evaluations]
    for factor in (f for f in factors if f != 1):
        stronger = [at_strength(method, factor) for method in methods]
        held = compare(
            model, stronger, data, judge, emotions, config,
            question=question, batch_size=batch_size, journal=journal,
        )  # fmt: skip
        points += [_point(held, name, factor, unit) for name in held.evaluations]
    return TradeOff(tuple(points), reference)


def at_strength(method: Method, factor: float | int) -> Method:
    """The same method with its strength multiplied.

    Raises:
        DataError: it has none.
    """
    if isinstance(method, PerEmotion):
        return PerEmotion({emotion: at_strength(m, factor) for emotion, m in method.methods.items()}, method.name)
    held: Any = method
    strength = getattr(held, "strength", None)
    if strength is None:
        raise DataError(f"method {method.name!r} has no strength to vary; leave it out")
    scaled = {e: factor * s for e, s in strength.items()} if isinstance(strength, Mapping) else factor * strength
    return replace(held, strength=scaled)


def _point(comparison: Comparison, name: str, factor: float | int, unit: float) -> TradePoint:
    (row,) = comparison.evaluations[name].accuracy().to_dict("records")
    perplexity = comparison.fluencies[name].perplexity
    kept = {key: row[key] for key in ("n", "unscored", "accuracy", "low", "high")}
    return TradePoint(method=name, strength=factor, **kept, perplexity=perplexity, perplexity_ratio=perplexity / unit)
