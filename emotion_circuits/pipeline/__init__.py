"""The whole pipeline, from scenarios to a report, in a folder that can be taken up again.

``run_pipeline(settings, out)`` goes through `STAGES`; what is done is not done again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from emotion_circuits.data.prompts import check_emotions
from emotion_circuits.evaluation.judges import Judge, LexiconJudge
from emotion_circuits.pipeline.folder import open_run, read_manifest
from emotion_circuits.pipeline.run import Run, load_data, load_model
from emotion_circuits.pipeline.settings import Settings
from emotion_circuits.pipeline.stages import STAGES, comparison

__all__ = ["STAGES", "Run", "Settings", "comparison", "load_data", "read_manifest", "run_pipeline"]


def run_pipeline(
    settings: Settings,
    out: str | Path,
    *,
    until: str = "report",
    judge: Judge | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> Run:
    """Run every stage up to ``until``, in the folder ``out``.

    Starting again with the same settings goes on where it stopped, with the result that an undisturbed run has.

    Args:
        settings: what to run.
        out: the run folder.
        until: the last stage to run; one of `STAGES`.
        judge: of the replies; `LexiconJudge` by default.
        on_stage: called with each stage's name when it begins.

    Returns:
        The run, from which results can be read.

    Raises:
        RunError: the folder belongs to other settings, is in use, or cannot be written.
    """
    judge = judge or LexiconJudge()
    # A judge that knows its labels is asked before hours of work, not after.
    check_emotions(settings.emotions, getattr(judge, "labels", settings.emotions), f"the judge ({judge.name})")
    data = load_data(settings)
    # A new run loads its model before it makes the folder, so that a wrong name leaves nothing behind.
    model = None if (Path(out) / "manifest.json").exists() else load_model(settings)
    facts = {f"{name} data": part.sha256 for name, part in zip(("train", "validation", "test"), data, strict=True)}
    with open_run(out, settings, facts) as folder:
        run = Run(settings, folder, data, judge, model)
        for name, stage in STAGES.items():
            if on_stage:
                on_stage(name)
            with folder.stage(name):
                stage(run)
            if name == until:
                break
        return run
