"""Accuracy against fluency: what each method pays for what it gets, at every strength (method.md, stage 8)."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from emotion_circuits.plots.control import method_look
from emotion_circuits.plots.frames import Table, bars, need, need_finite, values
from emotion_circuits.plots.themes import LIGHT, finish, plain


def pareto(points: Table) -> go.Figure:
    """Accuracy against perplexity; the stepped line is the front, and its points are ringed.

    Args:
        points: from `trade_off`, or a table with ``method, accuracy`` and ``perplexity_ratio`` or ``perplexity``, as of
            a `Comparison`; ``strength`` orders and names a method's points, ``low`` and ``high`` give intervals.

    Raises:
        DataError: a column is missing, or no row has both an accuracy and a perplexity.
    """
    table = need(points, ("method", "accuracy"), "pareto")
    cost = "perplexity_ratio" if "perplexity_ratio" in table else "perplexity"
    table = need(table, ("method", "accuracy", cost), "pareto")
    need_finite(table, ("accuracy", cost), "pareto")
    methods, figure = list(dict.fromkeys(table["method"])), go.Figure()
    x, y = _front(table, cost)
    figure.add_trace(
        go.Scatter(
            x=x, y=y, mode="lines+markers", name="front", hoverinfo="skip",
            line={"color": LIGHT.muted, "width": 1, "dash": "dot", "shape": "hv"},
            marker={"symbol": "circle-open", "size": 18, "color": LIGHT.ink, "line": {"width": 1}},
        )
    )  # fmt: skip
    for method in methods:
        look = method_look(method, methods)
        figure.add_trace(_points(table[table["method"] == method], plain(method), look, cost))
    unit = ", as a multiple of the reference's" if cost == "perplexity_ratio" else ""
    finish(
        figure, "What control costs", "up and left is better; 95 % Wilson intervals; rings: no other point beats it",
        x=f"perplexity under the unmodulated model{unit} (log)", y="accuracy, %", height=440,
    )  # fmt: skip
    figure.update_xaxes(type="log", showgrid=True)
    figure.update_yaxes(range=[0, 102], showgrid=True)
    if len(methods) > 4:
        figure.update_layout(margin_t=128)
    return figure


def _points(part: Any, name: str, look: tuple[str, str, str], cost: str) -> go.Scatter:
    """One method's points, from its weakest strength to its strongest."""
    colour, marker, dash = look
    part = part.sort_values("strength") if "strength" in part else part
    accuracy, spread = [100 * v for v in part["accuracy"]], None
    if "low" in part and "high" in part:
        spread = bars([100 * v for v in part["low"]], accuracy, [100 * v for v in part["high"]]) | {"color": colour}
    labels = [f", strength {s:g}" for s in part["strength"]] if "strength" in part else [""] * len(part)
    return go.Scatter(
        x=values(part[cost]), y=accuracy, error_y=spread, mode="lines+markers", name=name, text=labels,
        line={"color": colour, "width": 1.5, "dash": dash}, marker={"symbol": marker, "size": 10, "color": colour},
        hovertemplate=f"<b>{name}</b>%{{text}}<br>accuracy %{{y:.1f}} %<br>perplexity %{{x:.2f}}<extra></extra>",
    )  # fmt: skip


def _front(frame: Any, cost: str) -> tuple[list[float], list[float]]:
    """Points that no other beats in both: cost rising, accuracy rising."""
    x: list[float] = []
    y: list[float] = []
    ordered = frame.dropna(subset=[cost, "accuracy"]).sort_values([cost, "accuracy"], ascending=[True, False])
    for perplexity, accuracy in zip(ordered[cost], ordered["accuracy"], strict=True):
        if not y or 100 * accuracy > y[-1]:
            x.append(float(perplexity))
            y.append(float(100 * accuracy))
    return x, y
