"""Commands that look at a run's directions: ``directions export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emotion_circuits.cli import output

if TYPE_CHECKING:
    from emotion_circuits.pipeline import Run

Layers = Annotated[str | None, typer.Option(help="Layers, e.g. 11-20 or 3,5,8. [default: 40 to 70 % of the depth]")]


def register(directions_app: typer.Typer) -> None:
    """Add the commands to their group."""
    directions_app.command("export")(export)


def export(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    to: Annotated[Path, typer.Option(help="The file to write; with several emotions its name gets each one's.")],
    emotion: Annotated[list[str] | None, typer.Option(help="Which; may be given again. [default: all]")] = None,
    strength: Annotated[float, typer.Option(help="Share of the residual's mean norm that scale 1 adds.")] = 0.14,
    layers: Layers = None,
    architecture: Annotated[
        str | None, typer.Option(help="llama.cpp's name of the architecture. [default: by the model]")
    ] = None,
) -> None:
    """Write directions as GGUF control vectors, one file per emotion: llama-server --control-vector FILE."""
    from emotion_circuits.interop import write_control_vector
    from emotion_circuits.pipeline import load_run

    opened = load_run(run)
    held, chosen = opened.directions(), _numbers(layers)
    emotions = emotion or list(held.emotions)
    with output.progress_bars(quiet=True):
        kind = architecture or _architecture(opened)
    for name in emotions:
        path = to if len(emotions) == 1 else to.with_name(f"{to.stem}-{name}{to.suffix}")
        written = write_control_vector(held, name, path, architecture=kind, strength=strength, layers=chosen)
        about = f"written: {path} (layers {written[0]} to {written[-1]})"
        output.console.print(about, highlight=False, soft_wrap=True)


def _architecture(run: Run) -> str:
    """llama.cpp names its architectures as transformers does, without the underscore in some."""
    return run.model.hf.config.model_type.replace("_", "")


def _numbers(text: str | None) -> list[int] | None:
    """``"2-4,7"`` as numbers."""
    from emotion_circuits.errors import NodeError

    if text is None:
        return None
    try:
        ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
        return [layer for first, *last in ends for layer in range(first, (last[0] if last else first) + 1)]
    except ValueError as error:
        raise NodeError(f"--layers {text!r} is no list of layers; write 11-20 or 3,5,8") from error
