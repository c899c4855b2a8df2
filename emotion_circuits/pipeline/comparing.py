"""Comparing methods with a run's circuits: which methods there are, comparison and trade-off, and their files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emotion_circuits.artefacts import write_text
from emotion_circuits.control import Method, Prompting
from emotion_circuits.errors import DataError
from emotion_circuits.evaluation import Comparison, SideEffectTest, TradeOff, compare, trade_off
from emotion_circuits.evaluation.accuracy import Question
from emotion_circuits.evaluation.judges import Judge
from emotion_circuits.journal import open_journal
from emotion_circuits.pipeline.manifest import place
from emotion_circuits.pipeline.run import Run
from emotion_circuits.pipeline.settings import Settings
from emotion_circuits.pipeline.stages import METHODS, methods
from emotion_circuits.replies import Replies

JOURNAL = "replies.journal"
"""What an interrupted comparison has made, in its folder."""
SWEPT = ("steering", "circuit", "random circuit")
"""Methods with a strength, which the trade-off varies."""


def method_names(settings: Settings) -> tuple[str, ...]:
    """Every method that can be compared: those of the pipeline, and prompting in every style that has the labels."""
    styles = settings.wording.styles.items()
    fitting = (
        style for style, text in styles
        if style != "named" and (isinstance(text, str) or all(emotion in text for emotion in settings.emotions))
    )  # fmt: skip
    return (*METHODS, *(f"prompting:{style}" for style in fitting))


def choose_methods(settings: Settings, wanted: Sequence[str] = (), reference: str = "prompting") -> list[str]:
    """Names of the methods to compare; by default none, prompting in every style, steering, circuits and random ones.

    Raises:
        DataError: there is no such method, or the reference is not among those chosen.
    """
    known = method_names(settings)
    styles = [name for name in known if name.startswith("prompting:")]
    names = list(wanted) or ["none", "prompting", *styles, *SWEPT]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(f"no method is called {', '.join(unknown)}; there are {', '.join(known)}")
    if reference not in names:
        raise DataError(f"the reference {reference!r} is not compared; choose it among {', '.join(names)}")
    return names


@dataclass(frozen=True)
class ComparedRun:
    """A comparison with its trade-off.

    Attributes:
        comparison: every method at its own strength.
        trade_off: with other strengths.
        reference: what the methods were tested against.
    """

    comparison: Comparison
    trade_off: TradeOff
    reference: str

    def save(self, folder: Path, *, pdf: bool = False) -> None:
        """Write tables, replies, labels, settings and the Pareto plot."""
        from emotion_circuits import plots

        folder.mkdir(exist_ok=True)
        held, points = self.comparison, self.trade_off.to_frame()
        tables = {f"by-{by}": held.accuracy(by) for by in ("emotion", "valence", "theme")}
        tables |= {"compare": held.table(self.reference), "labels": held.to_frame(), "pareto": points}
        for name, table in tables.items():
            write_text(folder / f"{name}.csv", table.to_csv(index=False))
        write_text(folder / "settings.json", json.dumps(held.provenance, indent=2, ensure_ascii=False) + "\n")
        held.replies.save(folder / "replies.jsonl")
        for ending in ("html", "pdf") if pdf else ("html",):
            plots.save_figure(plots.pareto(points), folder / f"pareto.{ending}")
        (folder / JOURNAL).unlink(missing_ok=True)


def compare_run(
    run: Run,
    names: Sequence[str],
    judge: Judge,
    *,
    question: Question = "classify",
    scenarios: int | None = None,
    factors: Sequence[float | int] = (),
    reference: str = "prompting",
    on_method: Callable[[str, Replies], None] | None = None,
) -> ComparedRun:
    """Compare methods on a run's test scenarios; replies that an interrupted comparison made are not made again.

    Args:
        run: with its circuits calibrated.
        names: from `choose_methods`.
        judge: of the replies.
        question: what it is asked.
        scenarios: at most this many test scenarios, from the themes in turn; None takes all.
        factors: multiples of the calibrated strengths, for the trade-off.
        reference: what the methods are tested against.
        on_method: called with each method's name and replies.
    """
    folder = place(run.folder.path, "compare")
    folder.mkdir(exist_ok=True)
    held = methods(run) | {n: Prompting(n.split(":")[1], n) for n in names if n.startswith("prompting:")}
    chosen = [held[name] for name in names]
    data, config, rows = run.test.limit(scenarios), run.config(), run.settings.batch_size
    with open_journal(folder / JOURNAL) as journal:
        probe = SideEffectTest(run.model, run.emotions, config, batch_size=rows, journal=journal)
        compared = compare(
            run.model, chosen, data, judge, run.emotions, config,
            question=question, side_effects=probe, batch_size=rows, journal=journal, on_method=on_method,
        )  # fmt: skip
        trade = trade_off(
            run.model, compared, swept(chosen), data, judge, run.emotions, config,
            question=question, factors=factors, reference=reference, batch_size=rows, journal=journal,
        )  # fmt: skip
    return ComparedRun(compared, trade, reference)


def swept(methods: Sequence[Method]) -> list[Method]:
    """Those of the methods that have a strength."""
    return [method for method in methods if method.name in SWEPT]
