"""Calibration: find the strength, on a validation split and under a bound on fluency.

Strength decides everything: too little and the reply stays neutral, too much and the text breaks. For every emotion,

1. run each candidate at each strength of a coarse grid on a sixth of the validation items;
2. between the best point and its neighbours, add the midpoints;
3. run the best point of each of the best few candidates on all validation items;
4. among the points whose text stays fluent and on topic, take the most accurate; of equals, the one that is most
   needed (whose removal hurts instructed replies more than removing random nodes does), and then the weakest.

The whole dose-response curve is kept. Test items are never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from emotion_circuits.control.methods import Method, Prompting
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.data.sev import SEV, Item
from emotion_circuits.evaluation.accuracy import evaluate
from emotion_circuits.evaluation.judges import Judge
from emotion_circuits.evaluation.text_quality import asked_for, log_likelihoods, mentions, perplexity_of
from emotion_circuits.generation import GenerationConfig, generate
from emotion_circuits.interventions import Patch
from emotion_circuits.model import HookedModel
from emotion_circuits.progress import progress
from emotion_circuits.replies import Replies
from emotion_circuits.types import EKMAN

if TYPE_CHECKING:
    import pandas as pd

Family = Callable[[str, float], Method]
"""The method at an emotion and a strength."""

STRENGTHS = (0.4, 0.7, 1.0, 1.3, 1.6, 2.0)


@dataclass(frozen=True)
class Bounds:
    """What a point must keep to be eligible.

    Attributes:
        perplexity_ratio: largest perplexity, as a multiple of the prompted replies' on the same items.
        on_topic: smallest share of replies that mention their scenario.
        accuracy: the accuracy wanted; only used to name the regime.
    """

    perplexity_ratio: float = 1.15
    on_topic: float = 0.9
    accuracy: float = 0.95


@dataclass(frozen=True)
class Point:
    """One candidate at one strength, for one emotion.

    Attributes:
        emotion: the emotion.
        candidate: the candidate's name.
        strength: the strength.
        n: validation items it was run on.
        accuracy: share of replies that express the emotion; unscored ones count as misses.
        perplexity_ratio: perplexity over that of the prompted replies.
        on_topic: share of replies that mention their scenario.
        regime: ``too weak``, ``controlled`` or ``degenerate``.
        removed: accuracy of instructed replies from which the candidate was taken away; None where not tried.
        control: the same for its control, random nodes of the same make-up.
    """

    emotion: str
    candidate: str
    strength: float
    n: int
    accuracy: float
    perplexity_ratio: float
    on_topic: float
    regime: str
    removed: float | None = None
    control: float | None = None

    @property
    def rank(self) -> tuple:
        """Sorts points from best to worst."""
        needed = 0.0 if self.removed is None or self.control is None else self.removed - self.control
        broken = self.regime == "degenerate"
        return (broken, -round(self.accuracy, 6), needed, self.strength, self.perplexity_ratio)


@dataclass(frozen=True)
class Calibration:
    """The point chosen for each emotion, and everything that was tried.

    Attributes:
        chosen: by emotion.
        points: all points, in the order they were run.
        bounds: what they had to keep.
    """

    chosen: Mapping[str, Point]
    points: tuple[Point, ...]
    bounds: Bounds

    def to_frame(self) -> pd.DataFrame:
        """One row per point, with ``chosen``."""
        import pandas as pd

        return pd.DataFrame([{**vars(p), "chosen": self.chosen[p.emotion] == p} for p in self.points])


def calibrate(
    model: HookedModel,
    candidates: Mapping[str, Family],
    data: SEV,
    judge: Judge,
    emotions: Sequence[str] = EKMAN,
    *,
    removals: Mapping[str, tuple[Family, Family]] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    bounds: Bounds | None = None,
    finalists: int = 4,
    config: GenerationConfig | None = None,
    batch_size: int | None = None,
) -> Calibration:
    """The best candidate and strength for every emotion.

    Args:
        model: the model.
        candidates: method families by name, e.g. circuits of several make-ups.
        data: validation items; never the test items.
        judge: asked the strict question.
        emotions: the emotions.
        removals: for a candidate, what takes it away from instructed runs, and what takes its control away; breaks
            ties between candidates.
        strengths: coarse grid.
        bounds: what a point must keep.
        finalists: candidates that are run on all items.
        config: how to decode.
        batch_size: rows in a batch.
    """
    run = _Runner(model, candidates, data, judge, bounds or Bounds(), config, batch_size)
    few, everything = _few(data), data.items
    tested: dict[str, list[Point]] = {emotion: [] for emotion in emotions}
    with progress("calibrate", len(candidates) + 2) as advance:
        for name in candidates:
            for point in run([(name, emotion, s) for emotion in emotions for s in strengths], few):
                tested[point.emotion].append(point)
            advance(1)
        best = {emotion: min(points, key=lambda p: p.rank) for emotion, points in tested.items()}
        between = [(p.candidate, e, s) for e, p in best.items() for s in _midpoints(p.strength, strengths)]
        for point in run(between, few):
            tested[point.emotion].append(point)
        advance(1)
        last = {emotion: _best_of_each(points)[:finalists] for emotion, points in tested.items()}
        final = run([(p.candidate, e, p.strength) for e, points in last.items() for p in points], everything)
        if removals:
            for i, point in enumerate(final):
                removed, control = (run.removed(family, point, few) for family in removals[point.candidate])
                final[i] = replace(point, removed=removed, control=control)
        advance(1)
    chosen = {e: min((p for p in final if p.emotion == e), key=lambda p: p.rank) for e in emotions}
    return Calibration(chosen, (*(p for points in tested.values() for p in points), *final), run.bounds)


class _Runner:
    """Runs points; remembers how perplexing the prompted replies to the same items are."""

    def __init__(
        self,
        model: HookedModel,
        candidates: Mapping[str, Family],
        data: SEV,
        judge: Judge,
        bounds: Bounds,
        config: GenerationConfig | None,
        batch_size: int | None,
    ) -> None:
        self.model, self.candidates, self.data, self.judge, self.bounds = model, candidates, data, judge, bounds
        self.config, self.batch_size = config, batch_size
        self._prompted: dict[str, float] = {}

    def __call__(self, wanted: Sequence[tuple[str, str, float]], items: Sequence[Item]) -> list[Point]:
        """The points (candidate, emotion, strength); all are generated together, each on rows of its own."""
        prompts: list[Prompt] = []
        patches: list[Patch] = []
        emotions: list[str] = []
        for name, emotion, strength in wanted:
            new, acting = self.candidates[name](emotion, strength).prepare(items, emotion)
            patches += [patch.on(range(len(prompts), len(prompts) + len(new))) for patch in acting]
            prompts += new
            emotions += [emotion] * len(new)
        made = generate(self.model, prompts, patches, self.config, batch_size=self.batch_size)
        replies = Replies(tuple(replace(r, emotion=e) for r, e in zip(made, emotions, strict=True)))
        hits = evaluate(replies, self.judge).hits
        scores = log_likelihoods(self.model, asked_for(replies), batch_size=self.batch_size)
        points = []
        for k, (name, emotion, strength) in enumerate(wanted):
            rows = slice(k * len(items), (k + 1) * len(items))
            on_topic = sum(mentions(reply) for reply in replies.replies[rows]) / len(items)
            ratio = perplexity_of(scores[rows]) / self._reference(emotion)
            points.append(self._point(name, emotion, strength, hits[rows], ratio, on_topic))
        return points

    def removed(self, family: Family, point: Point, items: Sequence[Item]) -> float:
        """Accuracy that instructed replies keep when the point's candidate is taken away."""
        prompts, patches = family(point.emotion, point.strength).prepare(items, point.emotion)
        replies = generate(self.model, prompts, patches, self.config, batch_size=self.batch_size)
        wanted = Replies(tuple(replace(reply, emotion=point.emotion) for reply in replies))
        return sum(evaluate(wanted, self.judge).hits) / len(items)

    def _point(
        self, name: str, emotion: str, strength: float, hits: Sequence[bool], ratio: float, on_topic: float
    ) -> Point:
        accuracy = sum(hits) / len(hits)
        broken = ratio > self.bounds.perplexity_ratio or on_topic < self.bounds.on_topic
        regime = "degenerate" if broken else "controlled" if accuracy >= self.bounds.accuracy else "too weak"
        return Point(emotion, name, strength, len(hits), accuracy, ratio, on_topic, regime)

    def _reference(self, emotion: str) -> float:
        if emotion not in self._prompted:
            prompts, _ = Prompting().prepare(self.data.items, emotion)
            replies = generate(self.model, prompts, None, self.config, batch_size=self.batch_size)
            self._prompted[emotion] = perplexity_of(log_likelihoods(self.model, replies, batch_size=self.batch_size))
        return self._prompted[emotion]


def _best_of_each(points: Sequence[Point]) -> list[Point]:
    """The best point of every candidate, best first."""
    best: dict[str, Point] = {}
    for point in sorted(points, key=lambda point: point.rank):
        best.setdefault(point.candidate, point)
    return list(best.values())


def _few(data: SEV) -> list[Item]:
    return data.limit(max(4, len(data) // 6)).items


def _midpoints(best: float, strengths: Sequence[float]) -> list[float]:
    ordered = sorted(strengths)
    i = ordered.index(best)
    return [round((best + ordered[j]) / 2, 4) for j in (i - 1, i + 1) if 0 <= j < len(ordered)]
