"""The commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emotion_circuits import __version__
from emotion_circuits.cli import benchmark, calibrate, circuits, compare, directions, explore, output, runs
from emotion_circuits.cli import options as o
from emotion_circuits.cli import plan as plan_command
from emotion_circuits.cli.running import run_until
from emotion_circuits.errors import DataError

app = typer.Typer(
    name="emotion-circuits",
    help="Find, test and use emotion circuits in language models.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(no_args_is_help=True, help="Look at scenario files.")
benchmark_app = typer.Typer(no_args_is_help=True, help="Measure methods against known truth.")
circuit_app = typer.Typer(invoke_without_command=True)
directions_app = typer.Typer(invoke_without_command=True)
GROUPS = {"circuit": circuit_app, "directions": directions_app}
"""Stages that are groups, so that other commands can stand beside them."""

app.add_typer(data_app, name="data")
app.add_typer(benchmark_app, name="benchmark")
app.add_typer(circuit_app, name="circuit", help="Build and calibrate circuits; or look at saved ones.")
app.add_typer(directions_app, name="directions", help="Fit emotion directions and contrasts; or export them.")


def _version(wanted: bool) -> bool:
    if wanted:
        output.console.print(__version__, highlight=False)
        raise typer.Exit
    return wanted


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Find, test and use emotion circuits in language models."""


def _run(given: o.Given, out: Path, until: str, quiet: bool, as_json: bool) -> None:
    from emotion_circuits import distributed

    with distributed.joined():
        # Of several processes, one talks.
        _run_together(given, out, until, quiet or not distributed.is_first(), as_json and distributed.is_first())


def _run_together(given: o.Given, out: Path, until: str, quiet: bool, as_json: bool) -> None:
    from emotion_circuits.pipeline import comparison

    settings = given.settings(out, from_folder=until != "report" or (out / "report.html").exists())
    talk = not (quiet or as_json)
    with output.progress_bars(not talk):
        run = run_until(settings, out, until, talk=talk)
    if until in ("evaluate", "report") and (talk or as_json):
        compared = comparison(run)
        if as_json:
            output.console.print_json(output.comparison_json(compared))
        elif talk:
            title = f"{settings.model}: {len(run.test.items)} test items x {len(run.emotions)} emotions, greedy"
            output.print_comparison(compared, title)
    if talk:
        where = out / "report.html" if until == "report" else out
        label = "report" if until == "report" else "done, in"
        output.console.print(f"{label}: {where}", highlight=False, soft_wrap=True)


def _stage_command(name: str, text: str, until: str | None = None) -> None:
    """Register one stage as a command; stages before it run first if they have not."""

    def command(
        ctx: typer.Context,
        model: o.Model = None,
        data: o.Data = None,
        emotions: o.Emotions = None,
        lang: o.Lang = None,
        judge: o.JudgeName = None,
        judge_url: o.JudgeUrl = None,
        preset: o.Preset = None,
        backend: o.Backend = None,
        base_url: o.BaseUrl = None,
        served_model: o.ServedModel = None,
        out: o.Out = Path("runs/demo"),
        device: o.Device = None,
        dtype: o.Dtype = None,
        batch_size: o.BatchSize = None,
        seed: o.Seed = None,
        limit: o.Limit = None,
        size: o.Size = None,
        max_new_tokens: o.MaxNewTokens = None,
        temperature: o.Temperature = None,
        revision: o.Revision = None,
        trust_remote_code: o.TrustRemoteCode = False,
        quiet: o.Quiet = False,
        json: o.Json = False,
    ) -> None:
        if ctx.invoked_subcommand is not None:
            return
        given = o.Given(
            model=model, revision=revision, data=data, emotions=emotions, dtype=dtype, seed=seed, limit=limit,
            max_new_tokens=max_new_tokens, size=size, temperature=temperature, trust_remote_code=trust_remote_code,
            device=device, batch_size=batch_size, language=lang, judge=judge, judge_url=judge_url, preset=preset,
            backend=backend, base_url=base_url, served_model=served_model,
        )  # fmt: skip
        _run(given, out, until or name, quiet, json)

    command.__doc__ = text
    if name in GROUPS:
        GROUPS[name].callback()(command)
    else:
        app.command(name, help=text)(command)


benchmark.register(benchmark_app)
circuits.register(circuit_app, app)
runs.register(app)
calibrate.register(app)
directions.register(directions_app)
app.command("compare")(compare.compare)
app.command("explore")(explore.explore)
app.command("plan")(plan_command.plan)

_stage_command("run", "The whole pipeline, from scenarios to a report.", until="report")
_stage_command("elicit", "Ask for each emotion by instruction.")
_stage_command("judge", "Judge the elicited replies.")
_stage_command("directions", "Fit emotion directions and contrasts.")
_stage_command("attribute", "Score every neuron and head.")
_stage_command("influence", "Weigh every sublayer's influence.")
_stage_command("circuit", "Build and calibrate circuits on the validation split.")
_stage_command("generate", "Let every method reply to the test items.")
_stage_command("evaluate", "Judge the test replies and score their fluency.")
_stage_command("report", "Write the report.")


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="'demo', a Hugging Face name, or a local folder.")],
    dtype: o.Dtype = None,
    device: o.Device = None,
    revision: o.Revision = None,
    json: o.Json = False,
) -> None:
    """Prove the hooks: is the wrapped model, at every site, the model itself? Exit code 1 if not."""
    from emotion_circuits.pipeline import Settings
    from emotion_circuits.pipeline.run import load_model

    with output.progress_bars(json):
        wrapped = load_model(Settings(model=model, dtype=dtype, device=device, revision=revision))
        result = wrapped.check()
    output.print_frame(result.to_frame(), f"check of {model}", as_json=json)
    raise typer.Exit(0 if result.ok else 1)


@data_app.command("check")
def data_check(
    files: Annotated[list[Path], typer.Argument(help="SEV or vignette JSONL files, checked together.")],
    allow_warnings: Annotated[bool, typer.Option("--allow-warnings", help="Fail on errors alone.")] = False,
    json: o.Json = False,
) -> None:
    """Check scenario files: schema, emotion words, near-duplicates, balance, leakage. Exit code 1 on any finding."""
    from emotion_circuits.data.validate import check as validate

    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: there is no such file; give SEV or vignette files, one JSON record per line")
    result = validate([str(file) for file in files])
    if json:
        output.console.print_json(result.to_frame().to_json(orient="records"))
    else:
        output.console.print(str(result), highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(0 if (result.ok if allow_warnings else result.clean) else 1)
