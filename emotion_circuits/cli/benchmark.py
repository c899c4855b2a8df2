"""``benchmark discovery``: methods measured where the truth is known."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emotion_circuits.cli import options as o
from emotion_circuits.cli import output

if TYPE_CHECKING:
    import pandas as pd


class Grid(StrEnum):
    """The grids of planted models."""

    development = "development"
    ladder = "ladder"
    confirmation = "confirmation"
    final = "final"


def register(benchmark_app: typer.Typer) -> None:
    """Add the commands to their group."""
    benchmark_app.command("discovery")(discovery)


GridOption = Annotated[
    Grid, typer.Option(help="ladder has one difficulty at a time; confirmation and final were meant to be run once.")
]
Methods = Annotated[str | None, typer.Option(help="Names with semicolons. [default: all]")]
First = Annotated[int | None, typer.Option(help="Only so many models of the grid.", min=1)]
Out = Annotated[Path | None, typer.Option(help="Folder for the table (csv, md), every model's scores, and a plot.")]


def discovery(
    grid: GridOption = Grid.development,
    methods: Methods = None,
    first: First = None,
    out: Out = None,
    json: o.Json = False,
) -> None:
    """How well each attribution method finds nodes that are known to be true, on models with planted circuits."""
    from emotion_circuits import benchmark

    chosen = None if methods is None else [name.strip() for name in methods.split(";")]
    by = "difficulty" if grid is Grid.ladder else "half"
    with output.progress_bars(json):
        frame = benchmark.discovery(benchmark.grid(grid.value)[:first], chosen)
    table = benchmark.summary(frame, by=(by,))
    if json:
        output.print_frame(table, "", as_json=True)
    else:
        output.print_frame(_shown(table, by), f"planted circuits, {grid.value} grid, {frame['model'].nunique()} models")
    if out is not None:
        written = _write(out, frame, table, by)
        output.errors.print(
            f"written: {', '.join(str(path) for path in written)}", markup=False, highlight=False, soft_wrap=True
        )


def _shown(table: pd.DataFrame, by: str) -> pd.DataFrame:
    from emotion_circuits.benchmark.grid import RUNGS
    from emotion_circuits.benchmark.table import ladder_table, side_by_side

    return ladder_table(table, list(RUNGS)) if by == "difficulty" else side_by_side(table, by)


def _write(folder: Path, frame: pd.DataFrame, table: pd.DataFrame, by: str) -> list[Path]:
    """Write what the benchmark gave; the plot as HTML, which needs no browser."""
    from emotion_circuits import benchmark, plots
    from emotion_circuits.artefacts import write_text

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("discovery.csv", "models.csv", "discovery.md", "discovery.html")]
    table.to_csv(paths[0], index=False)
    frame.to_csv(paths[1], index=False)
    write_text(paths[2], benchmark.to_markdown(_shown(table, by)))
    plots.save_figure(plots.discovery(table, by), paths[3])
    return paths
