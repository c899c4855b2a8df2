"""The report's first words: what the run found, in sentences that a reader outside the field understands."""

from __future__ import annotations

from dataclasses import dataclass

from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.evaluation.comparison import Comparison
from emotion_circuits.report.tables import Share, share_of

SHOWN = ("prompting", "steering", "circuit", "random circuit")
MAIN = "circuit"


@dataclass(frozen=True)
class Headline:
    """What stands at the top.

    Attributes:
        sentence: the main finding.
        figures: methods with their accuracy, as large numbers.
        paired: paired comparisons of the main method with others, one sentence each.
    """

    sentence: str
    figures: list[tuple[str, Share]]
    paired: list[str]


def headline(comparison: Comparison) -> Headline:
    """The headline of a comparison."""
    shares = {name: share_of(e.accuracy().iloc[0]) for name, e in comparison.evaluations.items()}
    if not shares:
        return Headline("No method was compared in this run.", [], [])
    known = [name for name in shares if shares[name].known]
    main = MAIN if MAIN in shares else max(known, key=lambda n: shares[n].value, default=next(iter(shares)))
    shown = [name for name in SHOWN if name in shares] or list(shares)[:4]
    others = [name for name in shown if name != main]
    paired = [text for name in others if (text := _paired(comparison, main, name))]
    return Headline(_sentence(main, shares, others), [(name, shares[name]) for name in shown], paired)


def _sentence(main: str, shares: dict[str, Share], others: list[str]) -> str:
    best = shares[main]
    start = "With the circuit modulated" if main == MAIN else f"With {main}"
    if not best.known:
        return f"{start}, none of {best.n} replies could be scored; see the table for the other methods."
    text = (
        f"{start}, {best.value:.1f} % of replies express the emotion aimed at "
        f"(95 % interval {best.low:.1f} to {best.high:.1f})"
    )
    names = {"random circuit": "random nodes in the circuit’s place"}
    parts = [f"{shares[name].value:.1f} % with {names.get(name, name)}" for name in others if shares[name].known]
    if not parts:
        return f"{text}."
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{text}, against {listed}."


def _paired(comparison: Comparison, first: str, second: str) -> str:
    """McNemar's test in words; empty when the two did not answer the same items."""
    try:
        test = comparison.paired(first, second)
    except (ValueError, EmotionCircuitsError):
        return ""
    p = "p < 0.001" if test["p"] < 0.001 else f"p = {test['p']:.3f}"
    return (
        f"{first} against {second}: {test['only_first']} replies where {first} alone succeeds, "
        f"{test['only_second']} where {second} alone does (McNemar, {p})"
    )
