"""Curves: an effect over the number of nodes or the strength, beside controls (method.md, stages 4 and 6).

Each function takes the table of the library's function of the same name. The best nodes are drawn in one colour,
whatever stands beside them (random, label-shuffled, worst) in others, and every line has its 95 % band.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from emotion_circuits.plots.frames import add_band, facet, need, need_finite, traces, values, zero_line
from emotion_circuits.plots.themes import LIGHT, finish

if TYPE_CHECKING:
    import pandas as pd

_LOOKS = {
    "top": (LIGHT.high, "solid"), "random": (LIGHT.muted, "dash"), "shuffled": (LIGHT.methods[2], "dashdot"),
    "bottom": (LIGHT.low, "dot"),
}  # fmt: skip
_GAP = 0.1


def validation_curves(frame: pd.DataFrame, effect: Literal["end", "local"] = "end") -> go.Figure:
    """Effect of ablating or enhancing the best, the worst or random k nodes; one layer at a time, chosen in a menu.

    Args:
        frame: from `emotion_circuits.validation_curves`.
        effect: on the target (``"end"``, its unit), or on the projection at the sublayer itself (``"local"``,
            residual units).
    """
    effect_column, low, high = ("effect_end", "low", "high") if effect == "end" else (
        "effect_local", "low_local", "high_local")  # fmt: skip
    table = need(frame, ("layer", "kind", "selection", "k", effect_column, low, high), "validation_curves")
    need_finite(table, (effect_column,), "validation_curves")
    # A curve over the whole model has neither a layer nor a kind.
    table = table.assign(layer=table["layer"].fillna(-1).astype(int), kind=table["kind"].fillna("node"))
    layers, kinds, ks = (sorted(values(table[column].drop_duplicates())) for column in ("layer", "kind", "k"))
    figure = make_subplots(rows=1, cols=len(kinds), horizontal_spacing=_GAP)
    owners: list[int] = []
    for layer in layers:
        for col, kind in enumerate(kinds, 1):
            part = table[(table["layer"] == layer) & (table["kind"] == kind)]
            _lines(figure, part, "k", effect_column, low, high, ks=ks, row=1, col=col)
        owners += [layer] * (len(traces(figure)) - len(owners))
    for trace, owner in zip(traces(figure), owners, strict=True):
        trace.visible = owner == layers[-1]
    finish(figure, "Do the best nodes matter more than others?", _where(layers[-1]), x="nodes, k", height=430)
    figure.update_xaxes(tickvals=list(range(len(ks))), ticktext=[str(k) for k in ks])
    figure.update_yaxes(showgrid=True)
    unit = "target's unit" if effect == "end" else "residual units"
    figure.update_yaxes(title_text=f"change ({unit})", row=1, col=1)
    _facets(figure, [f"{kind}s" for kind in kinds])
    if len(layers) > 1:
        _layer_menu(figure, layers, owners)
    return figure


def dose_sweep(frame: pd.DataFrame) -> go.Figure:
    """The target's change over the strength of an intervention.

    Args:
        frame: from `emotion_circuits.dose_sweep`.

    Raises:
        DataError: a column is missing, or no change is a number.
    """
    table = need(frame, ("strength", "change", "low", "high"), "dose_sweep").sort_values("strength")
    need_finite(table, ("strength", "change"), "dose_sweep")
    figure = go.Figure()
    zero_line(figure)
    _lines(figure, table.assign(selection="top"), "strength", "change", "low", "high")
    finish(
        figure, "What strength does to the target", "change against no intervention, with its 95 % band over scenarios",
        x="strength (multiples of the contrast)", y="change (target's unit)", height=400,
    )  # fmt: skip
    figure.update_layout(showlegend=False)
    figure.update_yaxes(showgrid=True)
    return figure


def circuit_curves(frame: pd.DataFrame) -> go.Figure:
    """How much growing circuits do alone, and how much is lost without them.

    Args:
        frame: from `emotion_circuits.circuit_curves`.
    """
    panels = ("sufficiency", "necessity")
    columns = [name + end for name in panels for end in ("", "_low", "_high")]
    table = need(frame, ("n_nodes", "selection", "ablation", *columns), "circuit_curves")
    for name in panels:
        need_finite(table, (name,), "circuit_curves")
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=_GAP)
    for col, name in enumerate(panels, 1):
        _lines(figure, table, "n_nodes", name, f"{name}_low", f"{name}_high", row=1, col=col)
    finish(
        figure, "How few nodes make the target, and how few it needs",
        f"under {table['ablation'].iloc[0]}; 95 % bands", x="nodes kept, or taken away (log)", height=430,
    )  # fmt: skip
    figure.update_xaxes(type="log")
    figure.update_yaxes(showgrid=True)
    figure.update_yaxes(title_text="share of the target", row=1, col=1)
    _facets(figure, ["what they do alone", "what is lost without them"])
    return figure


def _lines(
    figure: go.Figure, part: Any, x: str, y: str, low: str, high: str, *, ks: list | None = None, **place: Any
) -> None:
    """One line with its band for each selection; ``ks`` spaces the x values evenly."""
    for selection, (colour, dash) in _LOOKS.items():
        held = part[part["selection"] == selection].sort_values(x).dropna(subset=[y])
        if not len(held):
            continue
        across = [ks.index(k) for k in held[x]] if ks is not None else values(held[x])
        add_band(figure, across, values(held[low]), values(held[high]), colour, **place)
        figure.add_trace(
            go.Scatter(
                x=across, y=values(held[y]), name="best" if selection == "top" else selection, legendgroup=selection,
                showlegend=place.get("col", 1) == 1, mode="lines+markers", marker={"size": 6},
                line={"color": colour, "dash": dash, "width": 2},
                customdata=np.array([held[x], held[low], held[high]]).T,
                hovertemplate=(
                    f"<b>{selection}</b>, {x.replace('n_nodes', 'nodes')} %{{customdata[0]}}<br>%{{y:.3f}} "
                    "[%{customdata[1]:.3f}, %{customdata[2]:.3f}]<extra></extra>"
                ),
            ), **place,
        )  # fmt: skip


def _facets(figure: go.Figure, names: list[str]) -> None:
    for i, name in enumerate(names):
        facet(figure, name.capitalize(), i * (1 + _GAP) / len(names))
        zero_line(figure, row=1, col=i + 1)
    figure.update_layout(legend_y=1.08, margin_t=128)


def _where(layer: int) -> str:
    return f"95 % bands; {'the whole model' if layer < 0 else f'layer {layer}'}"


def _layer_menu(figure: go.Figure, layers: list[int], owners: list[int]) -> None:
    buttons = [
        {"label": f"layer {layer}", "method": "update",
         "args": [{"visible": [owner == layer for owner in owners]}, {"title.subtitle.text": _where(layer)}]}
        for layer in layers
    ]  # fmt: skip
    figure.update_layout(
        updatemenus=[{
            "buttons": buttons, "active": len(layers) - 1, "x": 1, "xanchor": "right", "y": 1.14, "yanchor": "bottom",
            "bgcolor": LIGHT.surface, "bordercolor": LIGHT.grid,
        }]
    )  # fmt: skip
