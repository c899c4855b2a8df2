"""``calibrate``: the strengths that validation scenarios call for, and the dose-response curves behind them."""

from __future__ import annotations

import json as json_
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from emotion_circuits.cli import options as o
from emotion_circuits.cli import output
from emotion_circuits.cli.running import run_until

if TYPE_CHECKING:
    import pandas as pd

    from emotion_circuits.control import Calibration
    from emotion_circuits.control.doses import Point

KINDS = ("circuit", "steering")
_EXPLANATION = """\
strength: of the contrast; share: what it writes, as a share of the residual's
norm. ppl: perplexity over that of prompted replies. Regimes: too weak,
controlled, degenerate (the text breaks, or accuracy has fallen again)."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("calibrate")(calibrate)


def calibrate(
    model: o.Model = None,
    data: o.Data = None,
    emotions: o.Emotions = None,
    lang: o.Lang = None,
    judge: o.JudgeName = None,
    judge_url: o.JudgeUrl = None,
    preset: o.Preset = None,
    out: o.Out = Path("runs/demo"),
    device: o.Device = None,
    dtype: o.Dtype = None,
    batch_size: o.BatchSize = None,
    seed: o.Seed = None,
    limit: o.Limit = None,
    size: o.Size = None,
    max_new_tokens: o.MaxNewTokens = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Find every emotion's strength on the validation scenarios; earlier stages run first if they have not."""
    talk = not (quiet or json)
    given = o.Given(
        model=model, revision=revision, data=data, emotions=emotions, dtype=dtype, seed=seed, limit=limit,
        max_new_tokens=max_new_tokens, size=size, trust_remote_code=trust_remote_code, device=device,
        batch_size=batch_size, language=lang, judge=judge, judge_url=judge_url, preset=preset,
    )  # fmt: skip
    with output.progress_bars(not talk):
        run = run_until(given.settings(out, from_folder=True), out, "circuit", talk=talk)
    found = {kind: run.calibration_of(kind) for kind in KINDS}
    if json:
        output.console.print_json(json_.dumps({kind: result.to_dict() for kind, result in found.items()}))
    elif talk:
        _print(found)


def _print(found: Mapping[str, Calibration]) -> None:
    for kind, result in found.items():
        chosen = list(result.chosen.values())
        title = f"{kind}: chosen on {chosen[0].n} validation items, {result.n_generations} generations"
        output.print_frame(_frame(chosen), title)
        for point in chosen:
            output.console.print(f"{point.emotion}: {point.candidate}", highlight=False, soft_wrap=True)
        curves = [point for emotion in result.chosen for point in result.curve(emotion)]
        output.print_frame(_frame(curves), f"{kind}: dose-response of what was chosen")
    output.console.print(_EXPLANATION, style="dim", highlight=False)


def _frame(points: Sequence[Point]) -> pd.DataFrame:
    """The points, in the words of the tables."""
    import pandas as pd

    rows = [(p.emotion, p.strength, p.share, p.accuracy, p.perplexity_ratio, p.on_topic, p.regime) for p in points]
    return pd.DataFrame(rows, columns=["emotion", "strength", "share", "accuracy", "ppl", "topic", "regime"])
