"""Comparing methods with a run's circuits: which methods there are, comparison and trade-off, and their files.

1. `comparison_folder` makes the run folder this process's own, so that nobody else writes into it meanwhile.
2. `compare_run` makes the replies, which it keeps in a journal, and measures.
3. `ComparedRun.save` writes the files, and drops the journal.

Several processes share the work (`emotion_circuits.distributed`): the first one owns the folder and saves, and each has
a journal of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emotion_circuits import distributed
from emotion_circuits.artefacts import save_frame, write_text
from emotion_circuits.control import Method, Prompting
from emotion_circuits.errors import DataError, RunError
from emotion_circuits.evaluation import Comparison, SideEffectTest, TradeOff, compare, trade_off
from emotion_circuits.evaluation.accuracy import Question
from emotion_circuits.evaluation.judges import Judge
from emotion_circuits.journal import ReplyJournal, open_journal
from emotion_circuits.pipeline.folder import file_hash, read_manifest
from emotion_circuits.pipeline.lock import lock
from emotion_circuits.pipeline.manifest import place
from emotion_circuits.pipeline.run import Run
from emotion_circuits.pipeline.settings import Settings
from emotion_circuits.pipeline.stages import METHODS, methods
from emotion_circuits.replies import Replies

FOLDER = "compare"
"""Where a comparison lies in its run."""
JOURNALS = "replies.jsonl.*.journal"
"""What an interrupted comparison has made, in its folder; the star is the number of the process."""
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


@contextmanager
def comparison_folder(run: str | Path) -> Iterator[Path]:
    """Own a run while it is read, compared and written to; of several processes, the first one owns it for all.

    Args:
        run: the run folder.

    Returns:
        The folder inside the run for the comparison's files; it need not be there yet.

    Raises:
        RunError: there is no run, another process owns it, or it cannot be written.
    """
    run = Path(run)
    read_manifest(run)  # what is no run gets no lock either
    folder = place(run, FOLDER)
    if not distributed.is_first():
        distributed.from_first()  # nothing is read before the first process owns it
        yield folder
        return
    if not os.access(run, os.W_OK):
        raise RunError(f"a comparison goes into {run}, which may not be written; copy the run to a folder that may")
    with lock(run):
        distributed.from_first(True)
        yield folder


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
        """Write tables, replies, the Pareto plot and the settings, which come last and hold every file's SHA-256.

        Args:
            folder: from `comparison_folder`.
            pdf: also draw the plot for print.

        Raises:
            RunError: the folder cannot be made.
            ArtefactError: a file cannot be written.
        """
        from emotion_circuits import plots

        _make(folder)
        held, points = self.comparison, self.trade_off.to_frame()
        tables = {f"by-{by}": held.accuracy(by) for by in ("emotion", "valence", "theme")}
        tables |= {"compare": held.table(self.reference), "labels": held.to_frame(), "pareto": points}
        for name, table in tables.items():
            save_frame(folder / f"{name}.parquet", table)
        held.replies.save(folder / "replies.jsonl")
        drawn = [f"pareto.{ending}" for ending in (("html", "pdf") if pdf else ("html",))]
        for name in drawn:
            plots.save_figure(plots.pareto(points), folder / name)
        written = [*(f"{name}.parquet" for name in tables), "replies.jsonl", *drawn]
        settings = {**held.provenance, "files": {name: file_hash(folder / name) for name in written}}
        write_text(folder / "settings.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        for journal in folder.glob(JOURNALS):
            journal.unlink(missing_ok=True)


def compare_run(
    run: Run,
    folder: Path,
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
        folder: from `comparison_folder`; the journal is kept there.
        names: from `choose_methods`.
        judge: of the replies.
        question: what it is asked.
        scenarios: at most this many test scenarios, from the themes in turn; None takes all.
        factors: multiples of the calibrated strengths, for the trade-off; without a method that has a strength, it
            says what each method gets and costs as it is.
        reference: what the methods are tested against.
        on_method: called with each method's name and replies.
    """
    held = methods(run) | {n: Prompting(n.split(":")[1], n) for n in names if n.startswith("prompting:")}
    chosen = [held[name] for name in names]
    varied = swept(chosen)
    data, config, rows = run.test.limit(scenarios), run.config(), run.settings.batch_size
    with _journal(folder) as journal:
        probe = SideEffectTest(run.model, run.emotions, config, batch_size=rows, journal=journal)
        compared = compare(
            run.model, chosen, data, judge, run.emotions, config,
            question=question, side_effects=probe, batch_size=rows, journal=journal, on_method=on_method,
        )  # fmt: skip
        trade = trade_off(
            run.model, compared, varied, data, judge, run.emotions, config, question=question,
            factors=factors if varied else (), reference=reference, batch_size=rows, journal=journal,
        )  # fmt: skip
    return ComparedRun(compared, trade, reference)


def swept(methods: Sequence[Method]) -> list[Method]:
    """Those of the methods that have a strength."""
    return [method for method in methods if method.name in SWEPT]


@contextmanager
def _journal(folder: Path) -> Iterator[ReplyJournal]:
    """This process's journal, which also gives back what others have made so far."""
    if distributed.is_first():
        _make(folder)
    # A link among them could lead to any file of ours.
    made = [place(folder, path.name) for path in sorted(folder.glob(JOURNALS))]
    own = place(folder, JOURNALS.replace("*", str(distributed.rank())))
    with open_journal(own, made) as journal:
        distributed.collect(None)  # all have read what was there before anybody adds to it
        yield journal


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror or error}") from error
