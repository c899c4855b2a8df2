"""``compare``: methods of control on the same test items, with what each gets and what it costs."""

from __future__ import annotations

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
    str, typer.Option(help="With commas. [default: none, prompting in every style, steering, circuit, random circuit]")
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
    from emotion_circuits.pipeline import judging
    from emotion_circuits.pipeline.comparing import choose_methods, compare_run

    given = o.Given(
        model=model, revision=revision, data=data, emotions=emotions, dtype=dtype, seed=seed, limit=limit,
        max_new_tokens=max_new_tokens, size=size, trust_remote_code=trust_remote_code, device=device,
        batch_size=batch_size, language=lang, preset=preset,
        # A run's replies were judged by its own judge; these may be judged by another.
        judge=None if run else judge, judge_url=None if run else judge_url,
    )  # fmt: skip
    talk = not (quiet or json)
    # What can be wrong is looked at before minutes of work.
    settings, factors = given.settings(run or out, from_folder=True), _numbers(strengths)
    names = choose_methods(settings, [n.strip() for n in methods.split(",") if n.strip()], reference)
    named = judge or settings.judge
    judging.check_name(named)

    def done(name: str, replies: Replies) -> None:
        say(talk, "method", f"{name}, {len(replies)} replies{judging.cost(asked, replies, question.value)}")

    with output.progress_bars(not talk):
        opened = _opened(run, out, settings, talk)
        folder = opened.folder.path / "compare"
        asked = judging.judge_of(
            named, settings.labels, lambda: opened.model, judge_url or settings.judge_url, folder / "answers.jsonl"
        )
        say(talk, "judge", f"{asked.name}, asked to {question.value}")
        compared = compare_run(
            opened, names, asked, question=question.value, scenarios=scenarios or None, factors=factors,
            reference=reference, on_method=done,
        )  # fmt: skip
        compared.save(folder, pdf=pdf)
    if json:
        output.console.print_json(output.comparison_json(compared.comparison, reference))
    elif talk:
        n = compared.trade_off.points[0].n // len(opened.emotions)
        title = f"{settings.model}: {n} test items x {len(opened.emotions)} emotions, greedy, judge: {asked.name}"
        output.console.print(f"written: {folder}", highlight=False, soft_wrap=True)
        output.print_comparison(compared.comparison, title)
        output.print_costs(compared.comparison, reference)


def _opened(run: Path | None, out: Path, settings: Settings, talk: bool) -> Run:
    """The run whose circuits are used; without one, the pipeline makes them in ``out``."""
    from emotion_circuits.pipeline import load_model, load_run

    if run is None:
        return run_until(settings, out, "circuit", talk=talk)
    spare_threads(settings)
    loaded = load_run(run, trust_remote_code=settings.trust_remote_code)
    differences = settings.differences(loaded.settings.identity())
    if differences:
        raise RunError(f"{run} has other settings ({'; '.join(differences)}); leave these options out, or use --out")
    return load_run(run, load_model(settings), trust_remote_code=settings.trust_remote_code)


def _numbers(text: str) -> list[float]:
    try:
        factors = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise DataError(f"--strengths {text!r} is no list of numbers ({error}); give e.g. 0.5,1.5") from error
    if any(not 0 < factor < float("inf") for factor in factors):
        raise DataError(f"--strengths {text!r}: every multiple must be above 0")
    return factors
