"""Small helpers that several figures share: checking tables, lines with bands, titles of facets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import plotly.graph_objects as go

from emotion_circuits.errors import DataError
from emotion_circuits.plots.themes import LIGHT, faded

if TYPE_CHECKING:
    import pandas as pd


class Result(Protocol):
    """What has a table."""

    def to_frame(self) -> pd.DataFrame: ...


Table: TypeAlias = "pd.DataFrame | Result"
"""A table, or a result that has one."""


MOST_PRINTED = 10
"""A matrix of more labels has colours alone in its cells."""


def need(held: Table, columns: Sequence[str], figure: str) -> Any:
    """The table of ``held``, once it has rows and every column (as Any: pandas' types cannot follow a selection).

    Raises:
        DataError: it has no row, or a column is missing.
    """
    frame: Any = held.to_frame() if hasattr(held, "to_frame") else held
    missing = [column for column in columns if column not in frame]
    if missing:
        wanted = f"{figure} needs the column{'s' if len(columns) > 1 else ''} {', '.join(columns)}"
        if not len(frame.columns):
            raise DataError(f"{wanted} and got an empty table; there is nothing to draw")
        raise DataError(
            f"{wanted}; {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing from "
            f"{', '.join(map(str, frame.columns))}"
        )
    if not len(frame):
        raise DataError(f"{figure} got a table without rows; there is nothing to draw")
    return frame


def need_finite(frame: Any, columns: Sequence[str], figure: str) -> None:
    """Refuse a table of which no row could be seen: Plotly would draw empty axes without a word.

    Raises:
        DataError: no row has a finite number in every one of these columns.
    """
    numbers = np.stack([frame[column].to_numpy(dtype=float, na_value=np.nan) for column in columns])
    if not np.isfinite(numbers).all(axis=0).any():
        raise DataError(
            f"{figure} got no row with a finite {' and '.join(columns)}; there is nothing to draw, so see why the "
            "values are missing"
        )


def values(column: Any) -> list[Any]:
    """A column as plain Python numbers or strings, which is how figures store them."""
    return column.tolist()


def traces(figure: go.Figure) -> list[Any]:
    """A figure's traces (as Any: Plotly's types do not know them)."""
    return list(figure.select_traces())


def add_band(figure: go.Figure, x: Sequence[Any], low: Sequence[Any], high: Sequence[Any], colour: str, **place):
    """A translucent band between two curves, without a legend entry."""
    figure.add_trace(
        go.Scatter(
            x=[*x, *reversed(list(x))], y=[*high, *reversed(list(low))], fill="toself", fillcolor=faded(colour, 0.15),
            line={"width": 0}, hoverinfo="skip", showlegend=False, mode="lines",
        ),
        **place,
    )  # fmt: skip


def bars(low: Sequence[Any], value: Sequence[Any], high: Sequence[Any]) -> dict[str, Any]:
    """Plotly's error bars from an interval."""
    return {
        "type": "data", "symmetric": False, "thickness": 1.2, "width": 3, "color": LIGHT.ink,
        "array": [h - v for h, v in zip(high, value, strict=True)],
        "arrayminus": [v - l for v, l in zip(value, low, strict=True)],
    }  # fmt: skip


def zero_line(figure: go.Figure, **place) -> None:
    """A hairline at y = 0."""
    figure.add_hline(y=0, line={"color": LIGHT.muted, "width": 1}, layer="below", **place)


def matrix_height(n_rows: int, least: int) -> int:
    """Height of a matrix whose rows are labels: every row has room for its name."""
    return max(least, 170 + 22 * n_rows)


def cell_text(n_labels: int) -> str | None:
    """Numbers in the cells of a matrix of labels, where there are few enough to read."""
    return "%{z:.2f}" if n_labels <= MOST_PRINTED else None


def facet(figure: go.Figure, text: str, x: float, y: float = 1.0) -> None:
    """A small heading above a facet, in the figure's coordinates."""
    figure.add_annotation(
        text=text, x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False,
        font={"size": 13, "color": LIGHT.ink},
    )  # fmt: skip
