"""Figures of control: how strong should it be, and which method works (method.md, stages 7 and 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from emotion_circuits.evaluation.comparison import Comparison
from emotion_circuits.plots.frames import add_band, bars, need, values
from emotion_circuits.plots.themes import DASHES, LIGHT, MARKERS, finish, plain, style_of

if TYPE_CHECKING:
    import pandas as pd

_KNOWN = ("none", "prompting", "steering", "circuit", "random circuit", "prompting - circuit")


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
        _dose_lines(figure, part, plain(name), look_of(name, names, key), named=len(names) > 1)
    finish(
        figure, "How strong is strong enough?",
        "accuracy with 95 % intervals; perplexity under the unmodulated model", height=520,
    )  # fmt: skip
    figure.update_xaxes(title_text="strength (multiples of the contrast)", row=2, col=1)
    figure.update_yaxes(showgrid=True)
    figure.update_yaxes(title_text="accuracy, %", range=[0, 102], row=1, col=1)
    figure.update_yaxes(title_text="perplexity (log)", type="log", row=2, col=1)
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


def look_of(name: str, names: list[str], key: str | None) -> tuple[str, str, str]:
    """Colour, marker and dash of an emotion, a method, or the only line."""
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
