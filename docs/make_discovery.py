"""Make what ``docs/ground-truth.md`` shows of the discovery benchmark: ``make discovery``.

Tables and picture come from the summaries in ``docs/discovery/``, one per grid, as written by
``emotion-circuits benchmark discovery --grid GRID --out FOLDER`` (``discovery.csv``). The confirmation grid's was
written once and is kept.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd
from make_figures import replace_block

from emotion_circuits import benchmark, plots
from emotion_circuits.benchmark.grid import RUNGS
from emotion_circuits.benchmark.table import ladder_table

DOCS = Path(__file__).resolve().parent
SUMMARIES = DOCS / "discovery"
LADDER = (
    "default (contrastive gradients)", "activation patching, group mean, said", "integrated gradients, words",
    "direct, centred", "direct",
)  # fmt: skip


def main(runs: str | None = None) -> None:
    """Copy the summaries of new runs, ``RUNS/GRID/discovery.csv``, and write tables and picture from all of them."""
    for path in [] if runs is None else Path(runs).glob("*/discovery.csv"):
        if path.parent.name in ("development", "ladder"):
            shutil.copy(path, SUMMARIES / f"{path.parent.name}.csv")
    page = DOCS / "ground-truth.md"
    for grid in ("development", "confirmation"):
        shown = benchmark.side_by_side(_summary(grid))
        replace_block(page, f"{grid}-table", benchmark.to_markdown(shown).rstrip())
    rungs = ladder_table(_summary("ladder"), list(RUNGS), LADDER)
    replace_block(page, "ladder-table", benchmark.to_markdown(rungs).rstrip())
    plots.save_figure(plots.discovery(_summary("confirmation")), DOCS / "images" / "discovery.png", width=900)


def _summary(grid: str) -> pd.DataFrame:
    return pd.read_csv(SUMMARIES / f"{grid}.csv")


if __name__ == "__main__":
    main(*sys.argv[1:])
