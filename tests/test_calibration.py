"""Calibration: what it finds is what a fine grid finds, with fewer generations; and its points are what they say."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
import torch
from helpers import Parity

import emotion_circuits as ec
from emotion_circuits.control import Bounds, Calibration, calibrate
from emotion_circuits.control.bisection import Range, edges, find
from emotion_circuits.control.doses import Point
from emotion_circuits.control.trials import Dose, Trials
from emotion_circuits.data.sev import Record

SPAN = Range()
REGIMES = ("too weak", "controlled", "degenerate")


def answered(search, regime_of) -> tuple[object, dict[float, str]]:
    """A search's result, and what it asked for."""
    asked: dict[float, str] = {}
    try:
        strength = next(search)
        while True:
            asked[strength] = regime_of(strength)
            strength = search.send(asked[strength])
    except StopIteration as end:
        return end.value, asked


def ordered(onset: float, end: float):
    return lambda s: "too weak" if s < onset else "controlled" if s <= end else "degenerate"


GRID = [0.25 * 1.01**i for i in range(210)]
CASES = [(0.3, 0.5), (0.6, 9.0), (0.26, 0.4), (1.0, 1.5), (1.7, 9.0), (0.2, 9.0), (0.45, 0.62), (1.2, 1.9)]


@pytest.mark.parametrize(("onset", "end"), CASES)
def test_bisection_finds_what_a_fine_grid_finds(onset: float, end: float) -> None:
    regime_of = ordered(onset, end)
    inside = [s for s in GRID if s <= SPAN.high and regime_of(s) == "controlled"]
    controlled, known = answered(find(SPAN), regime_of)
    assert isinstance(controlled, float)
    assert inside[0] <= controlled <= inside[-1] * 1.01
    (first, last), more = answered(edges(SPAN, dict(known), controlled), regime_of)  # type: ignore[misc]
    assert inside[0] * 0.99 <= first <= max(inside[0] * SPAN.ratio, SPAN.low * SPAN.ratio)
    assert inside[-1] / SPAN.ratio * 0.99 <= last <= inside[-1] * 1.01
    assert not set(known) & set(more)  # nothing is asked for twice
    assert len(known) + len(more) <= 9
    assert regime_of((first * last) ** 0.5) == "controlled"


@pytest.mark.parametrize(("onset", "end", "questions"), [(5.0, 9.0, 2), (0.1, 0.2, 6), (0.75, 0.76, 6)])
def test_where_there_is_no_control_bisection_gives_up(onset: float, end: float, questions: int) -> None:
    found, asked = answered(find(SPAN), ordered(onset, end))
    assert found is None
    assert len(asked) <= questions


def test_a_range_is_positive_and_ordered() -> None:
    with pytest.raises(ValueError, match="0 < low <= high"):
        Range(0.0, 1.0)
    only, asked = answered(find(Range(1.0, 1.0)), ordered(0.5, 2.0))
    assert (only, list(asked)) == (1.0, [1.0])
    assert answered(edges(Range(1.0, 1.0), {1.0: "controlled"}, 1.0), ordered(0.5, 2.0)) == ((1.0, 1.0), {})


def test_regimes() -> None:
    bounds = Bounds(perplexity_ratio=1.15, on_topic=0.9, accuracy=0.95)
    assert bounds.regime(0.0, 1.0, 1.0) == "too weak"
    assert bounds.regime(0.96, 1.0, 1.0) == "controlled"
    assert bounds.regime(0.96, 1.16, 1.0) == "degenerate"  # fluency is lost
    assert bounds.regime(0.96, 1.0, 0.8) == "degenerate"  # the scenario is lost
    assert bounds.regime(0.1, 1.2, 1.0) == "too weak"  # without the emotion text fits less to what asks for it
    assert bounds.regime(0.1, 1.4, 1.0) == "degenerate"
    assert bounds.regime(0.5, 1.0, 1.0, weaker=0.9) == "degenerate"  # accuracy had been higher
    assert bounds.regime(0.8, 1.0, 1.0, weaker=0.9) == "too weak"
    assert bounds.regime(0.96, 1.0, 1.0, weaker=1.0) == "controlled"


# The whole search, on families whose truth is known


TRUTH = {
    "hopeless": (9.0, 99.0, 0.9), "unneeded": (0.4, 3.0, 0.9), "narrow": (0.9, 1.25, 0.1), "wide": (0.5, 1.6, 0.0),
}  # fmt: skip
"""Onset, end, and what instructed replies keep without it, by candidate."""


def accuracy_of(onset: float, strength: float) -> float:
    return 1 / (1 + (onset / strength) ** 40)


def perplexity_ratio_of(end: float, strength: float) -> float:
    return 1.0 + (strength / end) ** 12 * 0.15


@dataclass
class Synthetic:
    """Stands for the trials: candidates whose truth is known."""

    truth: dict[str, tuple[float, float, float]]
    rounds: list[int] = field(default_factory=list)

    def run(self, trials: Trials, doses: list[Dose], items: list) -> list[Point]:
        trials.n_generations += len(doses) * len(items)
        self.rounds.append(len(doses))
        points = []
        for dose in doses:
            onset, end, _ = self.truth[dose.candidate]
            held = accuracy_of(onset, dose.strength), perplexity_ratio_of(end, dose.strength), 1.0
            points.append(
                Point(dose.emotion, dose.candidate, dose.strength, len(items), *held, trials.bounds.regime(*held),
                      share=dose.strength / 10)
            )  # fmt: skip
        return points

    @staticmethod
    def accuracies(trials: Trials, methods: list, items: list) -> list[float]:
        trials.n_generations += len(methods) * len(items)
        return [accuracy for accuracy, _ in methods]


@pytest.fixture
def data() -> ec.SEV:
    events = {"positive": "it was bright", "neutral": "a bus late", "negative": "rain fell"}
    return ec.SEV(tuple(Record(f"id_{i}", f"theme_{i % 2}", f"I moved {'my desk ' * i}", events) for i in range(24)))


def calibrated(monkeypatch, model, data: ec.SEV, **changed) -> tuple[Calibration, Synthetic]:
    truth = TRUTH | changed
    synthetic = Synthetic(truth)
    monkeypatch.setattr(Trials, "run", lambda *given: synthetic.run(*given))
    monkeypatch.setattr(Trials, "accuracies", lambda *given: synthetic.accuracies(*given))
    removals = {name: (lambda e, s, t=t: t[2], lambda e, s: 1.0) for name, t in truth.items()}
    families = dict.fromkeys(truth, lambda emotion, strength: ec.Unmodulated())
    return calibrate(model, families, data, ec.LexiconJudge(), ("anger", "fear"), removals=removals), synthetic  # type: ignore[arg-type]


def test_the_most_needed_of_the_most_accurate_at_the_middle_of_its_range(monkeypatch, qwen, data) -> None:
    result, _ = calibrated(monkeypatch, qwen, data)
    assert {e: p.candidate for e, p in result.chosen.items()} == {"anger": "wide", "fear": "wide"}
    point = result.chosen["anger"]
    assert point.regime == "controlled"
    assert (point.n, point.removed, point.control) == (72, 0.0, 1.0)
    inside = [s for s in GRID if accuracy_of(0.5, s) >= 0.95 and perplexity_ratio_of(1.6, s) <= 1.15]
    assert inside[0] * 1.2 < point.strength < inside[-1] / 1.2
    curve = result.curve("anger")
    regimes = [p.regime for p in curve]
    assert regimes == sorted(regimes, key=REGIMES.index)
    assert set(regimes) == set(REGIMES)


def test_it_takes_far_fewer_generations_than_a_grid_of_the_same_fineness(monkeypatch, qwen, data) -> None:
    result, synthetic = calibrated(monkeypatch, qwen, data)
    strengths = [s for s in (0.25 * SPAN.ratio**i for i in range(9)) if s <= SPAN.high]
    few = 4 * 3
    grid = 2 * len(TRUTH) * len(strengths) * few + 2 * 2 * 72  # every strength, then the best two on all items
    spent = result.n_generations - _removals(result, few)
    assert spent < 0.75 * grid, (spent, grid)
    assert len(synthetic.rounds) <= 12  # what is asked for together is generated together


def _removals(result: Calibration, few: int) -> int:
    """Generations for removals: of the candidates that reached control, two methods each, for both emotions."""
    reached = {(p.candidate, p.emotion) for p in result.points if p.regime == "controlled" and p.n == few}
    return 2 * len(reached) * few


def test_without_control_the_best_point_is_reported_as_what_it_is(monkeypatch, qwen, data) -> None:
    hopeless = (5.0, 9.0, 0.0)
    result, _ = calibrated(monkeypatch, qwen, data, wide=(2.1, 9.0, 0.0), unneeded=hopeless, narrow=hopeless)
    point = result.chosen["anger"]
    assert (point.candidate, point.strength, point.regime) == ("wide", 2.0, "too weak")


def test_a_calibration_is_a_table_and_json(monkeypatch, qwen, data) -> None:
    result, _ = calibrated(monkeypatch, qwen, data)
    again = Calibration.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again == result
    table = result.to_frame()
    assert table["chosen"].sum() == 2
    assert set(table["regime"]) == {"too weak", "controlled", "degenerate"}
    assert repr(result).startswith("Calibration(anger ")
    assert f"{result.n_generations} generations" in repr(result)


# The trials themselves, against a naive second reading


def test_points_are_what_their_replies_say(qwen, data) -> None:
    draw = torch.Generator().manual_seed(2)
    held = {
        e: ec.Contrast(e, "emotions", ec.Activations(resid_post=torch.randn(3, 32, generator=draw)))
        for e in ("anger", "fear")
    }
    families = {
        "a": lambda e, s: ec.ContrastSteering(held, (1,), s),
        "b": lambda e, s: ec.ContrastSteering(held, (2,), s),
    }
    config, items = ec.GenerationConfig(max_new_tokens=6), data.limit(2).items
    trials = Trials(qwen, families, Parity(), Bounds(), items, config)  # type: ignore[arg-type]
    doses = [Dose("a", "anger", 0.5), Dose("b", "fear", 1.0), Dose("a", "anger", 2.0)]
    for dose, point in zip(doses, trials.run(doses, items), strict=True):
        asked, patches = families[dose.candidate](dose.emotion, dose.strength).prepare(items, dose.emotion)
        replies = ec.generate(qwen, asked, patches, config, emotion=dose.emotion)
        prompted = ec.elicit(qwen, data.limit(2), (dose.emotion,), config=config)
        assert (point.candidate, point.emotion, point.strength) == (dose.candidate, dose.emotion, dose.strength)
        assert point.n == 6
        assert point.accuracy == sum(s.label == dose.emotion for s in Parity()(replies.texts)) / 6
        ratio = ec.fluency(qwen, replies).perplexity / ec.fluency(qwen, prompted).perplexity
        assert point.perplexity_ratio == pytest.approx(ratio, rel=1e-4)
        assert point.on_topic == ec.fluency(qwen, replies).on_topic
        assert point.share is not None
        assert point.share > 0
    assert trials.n_generations == 3 * 6 + 2 * 6  # the doses, and the prompted replies of both emotions
