"""Where a run's samples lie in the plane of the directions, layer by layer: a table for the report's animation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emotion_circuits.artefacts import load_frame
from emotion_circuits.directions import project_samples
from emotion_circuits.directions.statistics import complete_groups
from emotion_circuits.pipeline.run import Run

if TYPE_CHECKING:
    import pandas as pd

FILE = "directions/samples.parquet"
MAX_GROUPS = 40
"""Groups that are shown, spaced evenly: more would hide each other, and make the report large."""


def project_accepted(run: Run) -> pd.DataFrame:
    """Some of the accepted replies' prompts, as `project_samples` gives them."""
    prompts = run.evaluation().accepted().prompts
    complete = [prompts[i] for i in complete_groups(prompts, run.emotions)]
    groups = list(dict.fromkeys(prompt.group for prompt in complete))
    kept = set(groups[:: -(-len(groups) // MAX_GROUPS)])
    shown = [prompt for prompt in complete if prompt.group in kept]
    return project_samples(run.model, shown, run.directions(), batch_size=run.settings.batch_size)


def kept_samples(run: Run) -> pd.DataFrame | None:
    """The table that the directions stage wrote; None for a run made before it did."""
    path = run.folder.file(FILE)
    return load_frame(path) if path.is_file() else None
