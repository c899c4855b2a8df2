"""The whole pipeline, from scenarios to a report, in a folder that can be taken up again.

``run_pipeline(settings, out)`` goes through `STAGES`; what is done is not done again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from emotion_circuits import distributed
from emotion_circuits.evaluation.judges import Judge
from emotion_circuits.evaluation.judges.labels import check_judge
from emotion_circuits.pipeline.folder import read_manifest
from emotion_circuits.pipeline.judging import check_name, judge_of
from emotion_circuits.pipeline.manifest import is_run
from emotion_circuits.pipeline.run import Run, data_facts, load_data, load_model, load_run
from emotion_circuits.pipeline.settings import Settings
from emotion_circuits.pipeline.stages import STAGES, comparison
from emotion_circuits.pipeline.together import open_together
from emotion_circuits.provenance import processor

__all__ = ["STAGES", "Run", "Settings", "comparison", "load_data", "load_run", "read_manifest", "run_pipeline"]


@distributed.joined()
def run_pipeline(
    settings: Settings,
    out: str | Path,
    *,
    until: str = "report",
    judge: Judge | None = None,
    on_stage: Callable[[str], None] | None = None,
    on_repair: Callable[[str, str], None] | None = None,
) -> Run:
    """Run every stage up to ``until``, in the folder ``out``.

    Starting again with the same settings goes on where it stopped, with the result that an undisturbed run has.
    Several processes, started by ``accelerate launch`` or torchrun, share the work (`emotion_circuits.distributed`).

    Args:
        settings: what to run.
        out: the run folder.
        until: the last stage to run; one of `STAGES`.
        judge: of the replies, in place of the one that the settings name.
        on_stage: called with each stage's name when it begins.
        on_repair: called with a damaged file's name and what is wrong with it, before it is made again.

    Returns:
        The run, from which results can be read.

    Raises:
        RunError: the folder belongs to other settings, is in use, or cannot be written.
    """
    if until != "elicit":
        _ask_judge(settings, judge)
    data = load_data(settings)
    # A new run loads its model before it makes the folder, so that a wrong name leaves nothing behind.
    model = None if is_run(Path(out)) else load_model(settings)
    with open_together(out, settings, data_facts(data), on_repair) as folder:
        folder.manifest["ran_with"] = {
            "threads": torch.get_num_threads(), "batch_size": settings.batch_size, "device": settings.device,
            "processor": processor(),
        }  # fmt: skip
        run = Run(settings, folder, data, judge, model)
        for name, stage in STAGES.items():
            if on_stage:
                on_stage(name)
            with folder.stage(name):
                stage(run)
            if name == until:
                break
        return run


def _ask_judge(settings: Settings, judge: Judge | None) -> None:
    """A judge that knows its labels and languages is asked before hours of work, not after."""
    check_name(settings.judge)
    if judge is None and settings.judge == "self":
        return  # it reads what the model reads
    judge = judge or judge_of(settings.judge, settings.labels, lambda: load_model(settings), settings.judge_url)
    check_judge(judge, settings.emotions, settings.language)
