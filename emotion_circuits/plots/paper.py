"""Fitting a figure to a printed column: width in inches, 8-point text, finer lines, nothing to press.

The subtitle goes, because on paper the caption says it (`emotion_circuits.plots.caption`); legends stand above the axes
in as many rows as they need.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

PIXELS_PER_INCH = 96.0
INCHES = {1: 3.3, 2: 6.9}
_FINER = 0.62
_ROW = 15
_TALLEST = 8.8 * PIXELS_PER_INCH
_ABREAST = 6
"""Most labels of two heat maps that can stand side by side in one column."""
_FLATTEST = 0.3
"""Least height for a width: Chromium prints flatter pages incompletely."""


def fit(figure: go.Figure, size: float, columns: int) -> go.Figure:
    """A copy of a screen figure that fits one or two columns.

    Args:
        figure: a screen figure.
        size: of all text, in pixels.
        columns: 1 or 2.
    """
    held = figure.to_plotly_json()
    _refine(held, size)
    layout = held["layout"]
    layout["title"].pop("subtitle", None)
    layout["title"]["pad"] = {"l": 4, "t": 4}
    for control in ("updatemenus", "sliders"):
        layout.pop(control, None)
    headings = any(a.get("yref") == "paper" for a in layout.get("annotations", []))
    rows = -(-_legend_entries(held["data"]) // (3 if columns == 1 else 7))
    above = {"orientation": "h", "yanchor": "bottom", "x": 0, "xanchor": "left"}
    layout["legend"] |= above | {"y": 1.1 if headings else 1.01}
    width = INCHES[columns] * PIXELS_PER_INCH
    height = max(float(layout.get("height", 400)) * (0.58 if columns == 1 else 0.72), _FLATTEST * width)
    maps = [trace for trace in held["data"] if trace.get("type") == "heatmap"]
    stacked = columns == 1 and len(maps) == 2 and len(maps[0]["y"]) > _ABREAST
    if stacked:
        _stack(layout)
        height *= 2
    layout |= {
        "width": width, "height": min(height + _ROW * rows, _TALLEST),
        "margin": {"l": 40, "r": 8, "t": 28 + _ROW * (rows + headings), "b": 46},
        "paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff",
    }  # fmt: skip
    if columns == 1 and not stacked:
        _drop_cell_text(maps)
    return go.Figure(data=held["data"], layout=layout)


def _legend_entries(traces: list[dict[str, Any]]) -> int:
    named = [t for t in traces if t.get("showlegend") is not False and t.get("type") in ("scatter", "bar")]
    shown = [t for t in named if t.get("visible") is not False]
    return len(shown) if len(shown) > 1 else 0


def _stack(layout: dict[str, Any]) -> None:
    """Two heat maps with the same labels one above the other, each as wide as the column."""
    for axis, (low, high) in (("", (0.53, 1.0)), ("2", (0.0, 0.47))):
        layout[f"xaxis{axis}"]["domain"] = [0.0, 1.0]
        layout[f"yaxis{axis}"] |= {"domain": [low, high], "showticklabels": True, "title": layout["yaxis"]["title"]}
        layout[f"yaxis{axis}"]["dtick"] = 1  # every name: by itself Plotly would leave out each second of many
    # The labels below the lower one are those of both.
    layout["xaxis"] |= {"showticklabels": False, "ticks": "", "title": {"text": ""}}
    for heading, y in zip(layout["annotations"], (1.0, 0.47), strict=True):
        heading |= {"x": 0.0, "y": y}


def _drop_cell_text(maps: list[dict[str, Any]]) -> None:
    """Numbers in the cells of two heat maps side by side would be far smaller than 8 points."""
    for trace in maps if len(maps) > 1 else []:
        trace.pop("texttemplate", None)


def _refine(held: Any, size: float) -> None:
    """Every font gets ``size``; markers and lines get finer."""
    if isinstance(held, list | tuple):
        for value in held:
            _refine(value, size)
    if not isinstance(held, dict):
        return
    for key, value in held.items():
        if key.endswith("font") and isinstance(value, dict) and "size" in value:
            value["size"] = size
        elif key == "marker" and isinstance(value, dict) and "size" in value:
            value["size"] = _scaled(value["size"])
        elif key == "line" and isinstance(value, dict) and "width" in value:
            value["width"] = _scaled(value["width"])
        _refine(value, size)


def _scaled(size: Any) -> Any:
    return [s * _FINER for s in size] if isinstance(size, list | tuple) else size * _FINER
