"""Commands about finished runs: ``verify`` and ``diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emotion_circuits.cli import options as o
from emotion_circuits.cli import output

RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("verify")(verify)
    app.command("diff")(diff)


def verify(
    run: RunFolder,
    replies: Annotated[int, typer.Option(min=1, help="Replies of every file that are generated again.")] = 2,
    files: Annotated[int, typer.Option(min=1, help="Files of every other kind that are made again.")] = 1,
    calibration: Annotated[bool, typer.Option("--calibration", help="Calibrate again too, the longest part.")] = False,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    trust_remote_code: o.TrustRemoteCode = False,
    device: o.Device = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows in a batch. [default: as the run last had]")
    ] = None,
    judge_url: o.JudgeUrl = None,
    base_url: o.BaseUrl = None,
    json: o.Json = False,
) -> None:
    """Check every file of a run, and compute a sample of every stage again. Exit code 1 if something differs."""
    from emotion_circuits.pipeline.verify import verify as check

    with output.progress_bars(json):
        result = check(
            run, replies=replies, files=files, calibration=calibration, seed=seed,
            trust_remote_code=trust_remote_code, device=device, batch_size=batch_size, judge_url=judge_url,
            base_url=base_url,
        )  # fmt: skip
    output.print_frame(result.to_frame(), repr(result), as_json=json)
    raise typer.Exit(0 if result.ok else 1)


def diff(
    first: RunFolder,
    second: RunFolder,
    everything: Annotated[bool, typer.Option("--all", help="Also show what is the same.")] = False,
    json: o.Json = False,
) -> None:
    """What differs between two runs: settings, versions, data, circuits, strengths, replies, accuracies."""
    from emotion_circuits.pipeline.diff import diff as compare

    result = compare(first, second)
    output.print_frame(result.to_frame(all_parts=everything), repr(result), as_json=json)
