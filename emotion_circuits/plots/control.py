"""Figures of control: does the intervention work, how strong should it be, and at what cost (method.md, 4, 7, 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from emotion_circuits.evaluation.comparison import Comparison
from emotion_circuits.plots.frames import add_band, bars, facet, need, traces, values, zero_line
from emotion_circuits.plots.themes import DASHES, LIGHT, MARKERS, finish, plain, style_of

if TYPE_CHECKING:
    import pandas as pd

_KNOWN = ("none", "prompting", "steering", "circuit", "random circuit", "prompting - circuit")
_SELECTIONS = {"top": (LIGHT.high, "solid"), "random": (LIGHT.muted, "dash"), "bottom": (LIGHT.low, "dot")}


def validation_curves(frame: pd.DataFrame) -> go.Figure:
    """Effect of ablating or enhancing the top, bottom or random k nodes; one layer at a time, chosen in a menu.

    Args:
        frame: ``layer`` (a number or ``"all"``), ``intervention``, ``selection`` (top, bottom, random), ``k``,
            ``effect``, ``low``, ``high``.
    """
    columns = ("layer", "intervention", "selection", "k", "effect", "low", "high")
    table = need(frame, columns, "validation_curves")
    layers = sorted(table["layer"].unique(), key=lambda l: (l == "all", -1 if l == "all" else int(l)))
    kinds, ks = list(dict.fromkeys(table["intervention"])), sorted(table["k"].unique())
    shown = layers[-1]
    figure = make_subplots(rows=1, cols=len(kinds), horizontal_spacing=0.08)
    of_layer: list[object] = []
    for layer in layers:
        before = len(traces(figure))
        for col, kind in enumerate(kinds, 1):
            part = table[(table["layer"] == layer) & (table["intervention"] == kind)]
            _selections(figure, part, [float(k) for k in ks], col)
        of_layer += [layer] * (len(traces(figure)) - before)
    for trace, layer in zip(traces(figure), of_layer, strict=True):
        trace.visible = layer == shown
    finish(
        figure, "Do the top nodes matter more than others?", f"95 % bands; layer: {shown}",
        x="nodes, k", height=420,
    )  # fmt: skip
    figure.update_xaxes(tickvals=list(range(len(ks))), ticktext=[str(k) for k in ks])
    figure.update_yaxes(showgrid=True)
    figure.update_yaxes(title_text="change of the projection (residual units)", row=1, col=1)
    for i, kind in enumerate(kinds):
        facet(figure, plain(kind).capitalize(), i * (1 + 0.08) / len(kinds))
        zero_line(figure, row=1, col=i + 1)
    figure.update_layout(legend_y=1.08, margin_t=128)
    if len(layers) > 1:
        _layer_menu(figure, layers, of_layer, layers.index(shown))
    return figure


def dose_response(frame: pd.DataFrame) -> go.Figure:
    """Accuracy and perplexity over the strength of an intervention.

    Args:
        frame: ``strength, accuracy, low, high, perplexity``; with an ``emotion`` or ``method`` column, one line each.
    """
    table = need(frame, ("strength", "accuracy", "low", "high", "perplexity"), "dose_response")
    key = next((c for c in ("emotion", "method") if c in table), None)
    names = list(dict.fromkeys(table[key])) if key else ["all"]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.6, 0.4])
    for name in names:
        part = (table[table[key] == name] if key else table).sort_values("strength")
        _dose_lines(figure, part, plain(name), _look(name, names, key), named=len(names) > 1)
    finish(
        figure, "How strong is strong enough?",
        "accuracy with 95 % intervals; perplexity under the unmodulated model", height=520,
    )  # fmt: skip
    figure.update_xaxes(title_text="strength (multiples of the contrast)", row=2, col=1)
    figure.update_yaxes(showgrid=True)
    figure.update_yaxes(title_text="accuracy, %", range=[0, 102], row=1, col=1)
    figure.update_yaxes(title_text="perplexity (log)", type="log", row=2, col=1)
    return figure


def pareto(frame: pd.DataFrame) -> go.Figure:
    """Accuracy against perplexity: what each method pays for what it gets; the stepped line is the best trade-off.

    Args:
        frame: ``method, accuracy, perplexity``; ``strength`` orders and names a method's points, ``low`` and ``high``
            give intervals.
    """
    table = need(frame, ("method", "accuracy", "perplexity"), "pareto")
    methods, figure = list(dict.fromkeys(table["method"])), go.Figure()
    front = _front(table)
    figure.add_trace(
        go.Scatter(
            x=front[0], y=front[1], mode="lines", line={"color": LIGHT.muted, "width": 1, "dash": "dot", "shape": "hv"},
            name="best trade-off", hoverinfo="skip",
        )
    )  # fmt: skip
    for method in methods:
        figure.add_trace(_trade_off(table[table["method"] == method], plain(method), _look(method, methods, "method")))
    finish(
        figure, "What control costs", "up and left is better; perplexity under the unmodulated model",
        x="perplexity (log)", y="accuracy, %", height=440,
    )  # fmt: skip
    figure.update_xaxes(type="log", showgrid=True)
    figure.update_yaxes(range=[0, 102], showgrid=True)
    return figure


def accuracy_bars(comparison: Comparison) -> go.Figure:
    """Accuracy of every method for every emotion, with 95 % intervals.

    Args:
        comparison: from `compare`.
    """
    table = comparison.by_emotion()
    methods = list(comparison.evaluations)
    emotions = [e for e in dict.fromkeys(table["emotion"]) if e != "overall"]
    figure = go.Figure()
    for method in methods:
        part = table[table["method"] == method].set_index("emotion")
        part = part.reindex(["overall", *emotions])
        accuracy = [100 * v for v in part["accuracy"]]
        low, high = ([100 * v for v in part[c]] for c in ("low", "high"))
        hover = [
            f"<b>{plain(method)}</b>, {plain(e)}<br>{a:.1f} % [{l:.1f}, {h:.1f}]<br>{n:.0f} replies, {u:.0f} unscored"
            for e, a, l, h, n, u in zip(part.index, accuracy, low, high, part["n"], part["unscored"], strict=True)
        ]
        figure.add_trace(
            go.Bar(
                x=[plain(e) for e in part.index], y=accuracy, name=plain(method), hovertext=hover,
                error_y=bars(low, accuracy, high) | {"width": 2, "thickness": 1},
                marker={"color": method_colour(method, methods), "line": {"width": 0}},
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )  # fmt: skip
    finish(
        figure, "Replies that express the emotion aimed at",
        "share of scored replies with 95 % Wilson intervals; the judge must pick the emotion among all labels",
        x="emotion aimed at", y="accuracy, %", height=430,
    )  # fmt: skip
    figure.update_layout(barmode="group", bargap=0.22, bargroupgap=0.05)
    if len(methods) > 4:
        # Room for the legend's second row, which grows towards the subtitle.
        figure.update_layout(margin_t=128)
    figure.update_yaxes(range=[0, 104], showgrid=True)
    return figure


def method_colour(method: str, methods: list[str]) -> str:
    """A method's colour; the known ones always have the same."""
    palette = dict(zip(_KNOWN, (LIGHT.methods[i] for i in (5, 0, 2, 3, 4, 1)), strict=True))
    if method in palette:
        return palette[method]
    free = [c for c in LIGHT.methods if c not in {palette[m] for m in methods if m in palette}] or list(LIGHT.methods)
    return free[-1 - [m for m in methods if m not in palette].index(method) % len(free)]


def _look(name: str, names: list[str], key: str | None) -> tuple[str, str, str]:
    if key == "emotion":
        look = style_of(name, names)
        return look.colour, look.marker, look.dash
    i = names.index(name)
    colour = method_colour(name, names) if key == "method" else LIGHT.high
    return colour, MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)]


def _dose_lines(figure: go.Figure, part: Any, name: str, look: tuple[str, str, str], *, named: bool) -> None:
    """One line in each of the two panels of `dose_response`."""
    colour, marker, dash = look
    x = values(part["strength"])
    low, high = ([100 * v for v in part[c]] for c in ("low", "high"))
    add_band(figure, x, low, high, colour, row=1, col=1)
    accuracy = [100 * v for v in part["accuracy"]]
    panels = ((accuracy, "accuracy %{y:.1f} %"), (values(part["perplexity"]), "perplexity %{y:.2f}"))
    for row, (y, shown) in enumerate(panels, 1):
        figure.add_trace(
            go.Scatter(
                x=x, y=y, mode="lines+markers", name=name, legendgroup=name, showlegend=named and row == 1,
                line={"color": colour, "width": 2, "dash": dash}, marker={"symbol": marker, "size": 7},
                hovertemplate=f"{f'<b>{name}</b>, ' if named else ''}strength %{{x}}<br>{shown}<extra></extra>",
            ), row=row, col=1,
        )  # fmt: skip


def _trade_off(part: Any, name: str, look: tuple[str, str, str]) -> go.Scatter:
    """One method's points in `pareto`."""
    colour, marker, dash = look
    part = part.sort_values("strength") if "strength" in part else part
    accuracy, spread = [100 * v for v in part["accuracy"]], None
    if "low" in part and "high" in part:
        spread = bars([100 * v for v in part["low"]], accuracy, [100 * v for v in part["high"]]) | {"color": colour}
    labels = [f", strength {s:g}" for s in part["strength"]] if "strength" in part else [""] * len(part)
    return go.Scatter(
        x=values(part["perplexity"]), y=accuracy, error_y=spread, mode="lines+markers", name=name, text=labels,
        line={"color": colour, "width": 1.5, "dash": dash}, marker={"symbol": marker, "size": 10, "color": colour},
        hovertemplate=f"<b>{name}</b>%{{text}}<br>accuracy %{{y:.1f}} %<br>perplexity %{{x:.2f}}<extra></extra>",
    )  # fmt: skip


def _selections(figure: go.Figure, part: Any, ks: list[float], col: int) -> None:
    for selection, (colour, dash) in _SELECTIONS.items():
        held = part[part["selection"] == selection].sort_values("k")
        if not len(held):
            continue
        x = [ks.index(float(k)) for k in held["k"]]
        add_band(figure, x, values(held["low"]), values(held["high"]), colour, row=1, col=col)
        figure.add_trace(
            go.Scatter(
                x=x, y=values(held["effect"]), name=f"{selection} k", legendgroup=selection, showlegend=col == 1,
                mode="lines+markers", line={"color": colour, "dash": dash, "width": 2}, marker={"size": 7},
                customdata=np.array([held["k"], held["low"], held["high"]]).T,
                hovertemplate=(
                    f"<b>{selection} %{{customdata[0]:.0f}}</b><br>effect %{{y:.3f}} "
                    "[%{customdata[1]:.3f}, %{customdata[2]:.3f}]<extra></extra>"
                ),
            ), row=1, col=col,
        )  # fmt: skip


def _layer_menu(figure: go.Figure, layers: list, of_layer: list, active: int) -> None:
    buttons = [
        {
            "label": f"layer {layer}" if layer != "all" else "all layers", "method": "update",
            "args": [{"visible": [held == layer for held in of_layer]},
                     {"title.subtitle.text": f"95 % bands; layer: {layer}"}],
        }
        for layer in layers
    ]  # fmt: skip
    figure.update_layout(
        updatemenus=[{
            "buttons": buttons, "active": active, "x": 1, "xanchor": "right", "y": 1.14, "yanchor": "bottom",
            "bgcolor": LIGHT.surface, "bordercolor": LIGHT.grid,
        }]
    )  # fmt: skip


def _front(frame: Any) -> tuple[list[float], list[float]]:
    """Points that no other beats in both: perplexity rising, accuracy rising."""
    x: list[float] = []
    y: list[float] = []
    known = frame.dropna(subset=["perplexity", "accuracy"])
    ordered = known.sort_values(["perplexity", "accuracy"], ascending=[True, False])
    for perplexity, accuracy in zip(ordered["perplexity"], ordered["accuracy"], strict=True):
        if not y or 100 * accuracy > y[-1]:
            x.append(float(perplexity))
            y.append(float(100 * accuracy))
    return x, y
