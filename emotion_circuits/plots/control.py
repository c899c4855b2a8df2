"""The figure of a comparison: which method works (method.md, stage 8)."""

from __future__ import annotations

import plotly.graph_objects as go

from emotion_circuits.evaluation.comparison import Comparison
from emotion_circuits.plots.frames import bars
from emotion_circuits.plots.themes import DASHES, LIGHT, MARKERS, finish, plain

_KNOWN = ("none", "prompting", "steering", "circuit", "random circuit", "prompting - circuit")


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


def method_look(method: str, methods: list[str]) -> tuple[str, str, str]:
    """A method's colour, marker and dash."""
    i = methods.index(method)
    return method_colour(method, methods), MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)]
