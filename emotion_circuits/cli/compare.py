"""``compare``: methods of control on the same test items, with what each gets and what it costs.

The run is owned while it is compared, so that a second command on it is refused. Several processes, started by
``accelerate launch`` or torchrun, share the work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emotion_circuits.cli import options as o
from emotion_circuits.cli import output
from emotion_circuits.cli.running import run_until, say, spare_threads
from emotion_circuits.errors import DataError, RunError

if TYPE_CHECKING:
    from emotion_circuits.pipeline import Run, Settings
    from emotion_circuits.pipeline.comparing import ComparedRun
    from emotion_circuits.replies import Replies


class Question(StrEnum):
    """What the judge is asked."""

    classify = "classify"
    match = "match"


RunFolder = Annotated[
    Path | None, typer.Option("--run", help="Use this run's directions and circuits; nothing is fitted.")
]
Out = Annotated[Path, typer.Option(help="Without --run: where circuits are made; a stopped run in it goes on.")]
Methods = Annotated[
    str,
    typer.Option(
        help="With commas: none, prompting, prompting:STYLE, steering, circuit, random circuit, prompting - circuit, "
        "prompting - random. [default: none, prompting in every style, steering, circuit, random circuit]"
    ),
]
Asked = Annotated[Question, typer.Option(help="'classify' is strict; 'match' names the emotion.")]
Scenarios = Annotated[int, typer.Option(min=0, help="Test scenarios, three items each; 0 for all.")]
Strengths = Annotated[str, typer.Option(help="Multiples of the calibrated strengths for the Pareto plot; '' for none.")]
Reference = Annotated[str, typer.Option(help="What the others are tested against, and the unit of perplexity.")]
Pdf = Annotated[bool, typer.Option("--pdf", help="Also write pareto.pdf; needs Chromium.")]


def compare(
    model: o.Model = None,
    run: RunFolder = None,
    out: Out = Path("runs/compare"),
    data: o.Data = None,
    emotions: o.Emotions = None,
    lang: o.Lang = None,
    methods: Methods = "",
    judge: o.JudgeName = None,
    judge_url: o.JudgeUrl = None,
    question: Asked = Question.classify,
    reference: Reference = "prompting",
    scenarios: Scenarios = 16,
    strengths: Strengths = "0.5,0.75,1.5",
    device: o.Device = None,
    dtype: o.Dtype = None,
    batch_size: o.BatchSize = None,
    seed: o.Seed = None,
    limit: o.Limit = None,
    size: o.Size = None,
    max_new_tokens: o.MaxNewTokens = None,
    preset: o.Preset = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    pdf: Pdf = False,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Compare methods of control: accuracy, fluency, side effects. Makes circuits first unless --run has them."""
    from emotion_circuits import distributed

    given = o.Given(
        model=model, revision=revision, data=data, emotions=emotions, dtype=dtype, seed=seed, limit=limit,
        max_new_tokens=max_new_tokens, size=size, trust_remote_code=trust_remote_code, device=device,
        batch_size=batch_size, language=lang, preset=preset,
        # A run's replies were judged by its own judge; these may be judged by another.
        judge=None if run else judge, judge_url=None if run else judge_url,
    )  # fmt: skip
    with distributed.joined():
        first = distributed.is_first()  # of several processes, one talks
        wanted = _Wanted(
            methods=[n.strip() for n in methods.split(",") if n.strip()], strengths=_numbers(strengths), judge=judge,
            judge_url=judge_url, question=question, reference=reference, scenarios=scenarios or None, pdf=pdf,
        )  # fmt: skip
        _compare_together(given, wanted, run, out, talk=first and not (quiet or json), as_json=first and json)


@dataclass(frozen=True)
class _Wanted:
    """The comparison that the options ask for, under their names."""

    methods: Sequence[str]
    strengths: Sequence[float]
    judge: str | None
    judge_url: str | None
    question: Question
    reference: str
    scenarios: int | None
    pdf: bool


def _compare_together(given: o.Given, wanted: _Wanted, run: Path | None, out: Path, talk: bool, as_json: bool) -> None:
    from emotion_circuits import distributed
    from emotion_circuits.pipeline import judging
    from emotion_circuits.pipeline.comparing import choose_methods, compare_run
    from emotion_circuits.pipeline.manifest import place

    # What can be wrong is looked at before minutes of work.
    settings = given.settings(run or out, from_folder=True)
    names, judged_by = choose_methods(settings, wanted.methods, wanted.reference), wanted.judge or settings.judge
    judging.check_name(judged_by)
    question = wanted.question.value
    with output.progress_bars(not talk), _opened(run, out, settings, talk) as (opened, folder):
        answers, judge_url = place(folder, "answers.jsonl"), wanted.judge_url or settings.judge_url
        judge = judging.judge_of(judged_by, settings.labels, lambda: opened.model, judge_url, answers)
        say(talk, "judge", f"{judge.name}, asked to {question}")

        def done(name: str, replies: Replies) -> None:
            say(talk, "method", f"{name}, {len(replies)} replies{judging.cost(judge, replies, question)}")

        compared = compare_run(
            opened, folder, names, judge, question=question, scenarios=wanted.scenarios, factors=wanted.strengths,
            reference=wanted.reference, on_method=done,
        )  # fmt: skip
        if distributed.is_first():
            compared.save(folder, pdf=wanted.pdf)
    if as_json:
        output.console.print_json(output.comparison_json(compared.comparison, wanted.reference))
    elif talk:
        _show(compared, opened, judge.name, folder)


def _show(compared: ComparedRun, run: Run, judged_by: str, folder: Path) -> None:
    """Where the files are, and the tables."""
    n = compared.trade_off.points[0].n // len(run.emotions)
    title = f"{run.settings.model}: {n} test items x {len(run.emotions)} emotions, greedy, judge: {judged_by}"
    output.console.print(f"written: {folder}", highlight=False, soft_wrap=True)
    output.print_comparison(compared.comparison, title)
    output.print_costs(compared.comparison, compared.reference)


@contextmanager
def _opened(run: Path | None, out: Path, settings: Settings, talk: bool) -> Iterator[tuple[Run, Path]]:
    """The run whose circuits are used, and where the comparison goes; nobody else works on the run meanwhile.

    Without ``run``, the pipeline makes the circuits in ``out`` first.
    """
    from emotion_circuits.pipeline.comparing import comparison_folder

    made = run_until(settings, out, "circuit", talk=talk) if run is None else None
    with comparison_folder(run or out) as folder:
        yield made or _loaded(run or out, settings), folder


def _loaded(folder: Path, settings: Settings) -> Run:
    """A run that has its circuits, with its model."""
    from emotion_circuits.pipeline import load_model, load_run

    spare_threads(settings)
    loaded = load_run(folder, trust_remote_code=settings.trust_remote_code)
    differences = settings.differences(loaded.settings.identity())
    if differences:
        raise RunError(f"{folder} has other settings ({'; '.join(differences)}); leave these options out, or use --out")
    return load_run(folder, load_model(settings), trust_remote_code=settings.trust_remote_code)


def _numbers(text: str) -> list[float]:
    try:
        factors = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise DataError(f"--strengths {text!r} is no list of numbers ({error}); give e.g. 0.5,1.5") from error
    if any(not 0 < factor < float("inf") for factor in factors):
        raise DataError(f"--strengths {text!r}: every multiple must be above 0")
    return factors
