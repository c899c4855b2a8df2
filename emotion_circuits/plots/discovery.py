"""The figure of the discovery benchmark: how much of a known circuit every method finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from emotion_circuits.plots.frames import bars, need, values
from emotion_circuits.plots.themes import LIGHT, finish

if TYPE_CHECKING:
    import pandas as pd

_MEASURES = {"recall": "recall at the true size", "average_precision": "average precision"}


def discovery(table: pd.DataFrame, by: str = "half") -> go.Figure:
    """Recall and average precision of every method on planted models, one marker per half of the grid.

    Args:
        table: of `emotion_circuits.benchmark.summary`.
        by: the column that was split by.
    """
    from plotly.subplots import make_subplots

    columns = [f"{m}{end}" for m in _MEASURES for end in ("", "_low", "_high")]
    held = need(table, ("method", "kind", by, *columns), "discovery")
    held = held[held["kind"] == "node"]
    splits = list(dict.fromkeys(held[by]))[::-1]
    order = list(
        dict.fromkeys(held[held[by] == splits[0]].sort_values("recall", ascending=False, kind="stable")["method"])
    )
    colours, symbols = LIGHT.methods, ("circle", "diamond-open", "square", "x")
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for i, split in enumerate(splits):
        part = held[held[by] == split].set_index("method").reindex(order)
        colour, symbol = colours[i % len(colours)], symbols[i % len(symbols)]
        places = np.arange(len(order)) + (i - (len(splits) - 1) / 2) * 0.72 / len(splits)
        for col, measure in enumerate(_MEASURES, 1):
            low, value, high = (values(part[f"{measure}{end}"]) for end in ("_low", "", "_high"))
            figure.add_trace(
                go.Scatter(
                    x=value, y=places, mode="markers", name=str(split), legendgroup=str(split), showlegend=col == 1,
                    marker={"color": colour, "symbol": symbol, "size": 8},
                    error_x=bars(low, value, high) | {"color": colour, "width": 0}, text=order,
                    customdata=np.array([low, high]).T,
                    hovertemplate="%{text}<br>%{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>",
                ), row=1, col=col,
            )  # fmt: skip
    finish(
        figure, "Who finds the planted circuit", "means over planted models with 95 % intervals; nodes of both kinds",
        height=170 + 30 * len(order),
    )  # fmt: skip
    figure.update_xaxes(range=[-0.02, 1.02])
    figure.update_yaxes(tickvals=list(range(len(order))), range=[len(order) - 0.4, -0.6])
    figure.update_yaxes(title_text="method", ticktext=order, automargin=True, row=1, col=1)
    for col, text in enumerate(_MEASURES.values(), 1):
        figure.update_xaxes(title_text=text, row=1, col=col)
    return figure
