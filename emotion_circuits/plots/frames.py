"""Small helpers that several figures share: checking tables, lines with bands, titles of facets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

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


def need(held: Table, columns: Sequence[str], figure: str) -> Any:
    """The table of ``held``, once it has rows and every column (as Any: pandas' types cannot follow a selection).

    Raises:
        DataError: it has no row, or a column is missing.
    """
    frame: Any = held.to_frame() if hasattr(held, "to_frame") else held
    missing = [column for column in columns if column not in frame]
    if missing:
        raise DataError(
            f"{figure} needs the columns {', '.join(columns)}; {', '.join(missing)} is missing from "
            f"{', '.join(map(str, frame.columns)) or 'an empty table'}"
        )
    if not len(frame):
        raise DataError(f"{figure} got a table without rows; there is nothing to draw")
    return frame


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


def facet(figure: go.Figure, text: str, x: float, y: float = 1.0) -> None:
    """A small heading above a facet, in the figure's coordinates."""
    figure.add_annotation(
        text=text, x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False,
        font={"size": 13, "color": LIGHT.ink},
    )  # fmt: skip
