"""Calibration: find the strength, on a validation split and under a bound on fluency.

Strength decides everything: too little and the reply stays neutral, too much and the text breaks. Along strength the
regimes follow each other, so they can be bisected (`emotion_circuits.control.bisection`). For every emotion,

1. find a controlled strength of every candidate by bisection, on a sixth of the validation items;
2. rank the candidates: the most accurate first; of equals, the one that is most needed (whose removal hurts instructed
   replies more than removing random nodes does), and then the one that changes the residual least;
3. refine: for the best few, find both edges of the controlled part, and take the middle between them, which is as far
   from too weak as from degenerate;
4. run these on all validation items, and choose by the same ranking.

What every candidate asks for next is generated in one batch. The whole dose-response curve is kept, and the number of
generations. Test items are never looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from emotion_circuits.control.bisection import Range, Regime, edges, find
from emotion_circuits.control.doses import Bounds, Calibration, Point, best_of_each
from emotion_circuits.control.trials import Dose, Family, Trials
from emotion_circuits.data.sev import SEV, Item
from emotion_circuits.evaluation.judges import Judge
from emotion_circuits.evaluation.judges.labels import check_labels
from emotion_circuits.generation import GenerationConfig
from emotion_circuits.journal import ReplyJournal
from emotion_circuits.model import HookedModel
from emotion_circuits.progress import progress
from emotion_circuits.types import EKMAN

__all__ = ["Bounds", "Calibration", "Family", "Point", "Range", "calibrate"]

Removals = Mapping[str, tuple[Family, Family]]
Curve = tuple[str, str]
"""Candidate and emotion."""
Found = TypeVar("Found")


def calibrate(
    model: HookedModel,
    candidates: Mapping[str, Family],
    data: SEV,
    judge: Judge,
    emotions: Sequence[str] = EKMAN,
    *,
    removals: Removals | None = None,
    strengths: Range | None = None,
    bounds: Bounds | None = None,
    finalists: int = 2,
    config: GenerationConfig | None = None,
    batch_size: int | None = None,
    journal: ReplyJournal | None = None,
) -> Calibration:
    """The best candidate and strength for every emotion.

    Args:
        model: the model.
        candidates: method families by name, e.g. circuits of several make-ups.
        data: validation items; never the test items.
        judge: asked the strict question.
        emotions: the emotions.
        removals: for a candidate, what takes it away from instructed runs, and what takes its control away.
        strengths: where to search.
        bounds: what a point must keep.
        finalists: candidates that are refined and run on all items.
        config: how to decode.
        batch_size: rows in a batch.
        journal: keeps replies as they are made, see `emotion_circuits.generate`.

    Raises:
        EmotionError: the judge does not know an emotion, or ``emotions`` is one string.
    """
    emotions = check_labels(judge, emotions)
    trials = Trials(model, candidates, judge, bounds or Bounds(), data.items, config, batch_size, journal)
    search = _Search(trials, _few(data), strengths or Range(), removals or {})
    with progress("calibrate", 4) as advance:
        search.bisect([(name, emotion) for emotion in emotions for name in candidates])
        advance(1)
        ranked = search.ranked(emotions)
        advance(1)
        middles = search.refine([point for points in ranked.values() for point in points[:finalists]])
        advance(1)
        final = search.confirm(middles, data.items)
        advance(1)
    chosen = {emotion: min((p for p in final if p.emotion == emotion), key=lambda p: p.rank) for emotion in emotions}
    return Calibration(chosen, (*search.points, *final), trials.bounds, trials.n_generations)


class _Search:
    """The steps of a calibration, and the points that they tried.

    Args:
        trials: runs doses.
        few: the items for everything but the last step.
        span: where to search.
        removals: see `calibrate`.
    """

    def __init__(self, trials: Trials, few: Sequence[Item], span: Range, removals: Removals) -> None:
        self.trials, self.few, self.span, self.removals = trials, few, span, removals
        self.curves: dict[Curve, dict[float, Point]] = defaultdict(dict)

    @property
    def points(self) -> list[Point]:
        """Every point tried on the few items."""
        return [point for curve in self.curves.values() for point in curve.values()]

    def bisect(self, curves: Sequence[Curve]) -> None:
        """Find a controlled strength on every curve that has one."""
        self._run({curve: find(self.span) for curve in curves})

    def ranked(self, emotions: Sequence[str]) -> dict[str, list[Point]]:
        """Every emotion's candidates at their best points, best first."""
        best = {e: best_of_each([p for p in self.points if p.emotion == e]) for e in emotions}
        needed = iter(self._needed([p for points in best.values() for p in points if p.regime == "controlled"]))
        return {
            e: sorted((next(needed) if p.regime == "controlled" else p for p in points), key=lambda p: p.rank)
            for e, points in best.items()
        }

    def refine(self, points: Sequence[Point]) -> list[Point]:
        """The points moved to the middle of the controlled part of their curves; uncontrolled ones stay."""
        asking = {}
        for p in points:
            if p.regime == "controlled":
                known: dict[float, Regime] = {s: q.regime for s, q in self.curves[p.candidate, p.emotion].items()}
                asking[p.candidate, p.emotion] = edges(self.span, known, p.strength)
        found = self._run(asking)
        moved = []
        for p in points:
            first, last = found.get((p.candidate, p.emotion), (p.strength, p.strength))
            moved.append(replace(p, strength=round((first * last) ** 0.5, 4)))
        return moved

    def confirm(self, points: Sequence[Point], items: Sequence[Item]) -> list[Point]:
        """The points on all items; how much they are needed is taken over."""
        doses = [Dose(p.candidate, p.emotion, p.strength) for p in points]
        confirmed = self.trials.run(doses, items)
        return [replace(new, removed=p.removed, control=p.control) for new, p in zip(confirmed, points, strict=True)]

    def _run(self, searches: Mapping[Curve, Generator[float, Regime, Found]]) -> dict[Curve, Found]:
        """Run searches side by side: in each round, what all of them ask for is generated together."""
        results: dict[Curve, Found] = {}
        answers: dict[Curve, Regime | None] = dict.fromkeys(searches)
        while answers:
            asked = {}
            for curve, regime in answers.items():
                try:
                    asked[curve] = next(searches[curve]) if regime is None else searches[curve].send(regime)
                except StopIteration as end:
                    results[curve] = end.value
            answers = {curve: point.regime for curve, point in self._try(asked).items()}
        return results

    def _try(self, asked: Mapping[Curve, float]) -> dict[Curve, Point]:
        new = {curve: s for curve, s in asked.items() if s not in self.curves[curve]}
        doses = [Dose(*curve, strength) for curve, strength in new.items()]
        for point in self.trials.run(doses, self.few) if doses else []:
            curve = self.curves[point.candidate, point.emotion]
            weaker = max((p.accuracy for p in curve.values() if _below(p, point)), default=0.0)
            held = (point.accuracy, point.perplexity_ratio, point.on_topic)
            curve[point.strength] = replace(point, regime=self.trials.bounds.regime(*held, weaker))
        return {curve: self.curves[curve][strength] for curve, strength in asked.items()}

    def _needed(self, points: Sequence[Point]) -> list[Point]:
        """The points with the accuracy that instructed replies keep without them, and without their control."""
        if not self.removals or not points:
            return list(points)
        methods = [(f(p.emotion, p.strength), p.emotion) for p in points for f in self.removals[p.candidate]]
        kept = self.trials.accuracies(methods, self.few)
        pairs = zip(points, kept[::2], kept[1::2], strict=True)
        return [replace(p, removed=removed, control=control) for p, removed, control in pairs]


def _below(weaker: Point, point: Point) -> bool:
    return weaker.strength < point.strength and weaker.regime != "degenerate"


def _few(data: SEV) -> list[Item]:
    return data.limit(max(4, len(data) // 6)).items
