"""Running the pipeline from a command: settings in, a run out, and on standard error what is going on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from emotion_circuits.cli import output

if TYPE_CHECKING:
    from emotion_circuits.pipeline import Run, Settings


def run_until(settings: Settings, out: Path, until: str, *, talk: bool) -> Run:
    """`run_pipeline`, with every stage announced if ``talk``."""
    from emotion_circuits.pipeline import run_pipeline

    spare_threads(settings)
    return run_pipeline(settings, out, until=until, on_stage=lambda stage: say(talk, "stage", stage))


def spare_threads(settings: Settings) -> None:
    """One thread for the demo model.

    Its matrices are too small to share: on a busy machine threads would wait for each other more than they work.
    """
    if settings.model == "demo":
        import torch

        torch.set_num_threads(1)


def say(talk: bool, what: str, text: str) -> None:
    """One line about what is going on, unless nobody wants it."""
    if talk:
        output.errors.print(f"[dim]{what}[/] {escape(text)}", highlight=False, soft_wrap=True)
