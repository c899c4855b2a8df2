"""A text as the model reads it: projections on the emotions' directions, token by token."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from emotion_circuits.plots.frames import Table, need, need_finite, values
from emotion_circuits.plots.themes import LIGHT, diverging, finish, plain


def trace_heatmap(trace: Table, emotion: str | None = None) -> go.Figure:
    """Tokens across; down, every layer for one emotion, or every emotion at one layer.

    Args:
        trace: from `emotion_circuits.trace`, or its table: ``position, token, layer, emotion, projection``; ``role``
            and ``turn`` part the messages of a conversation.
        emotion: show its layers; without it the last layer is shown, with all emotions.

    Raises:
        DataError: a column is missing, or no projection that would be shown is a number.
    """
    table = need(trace, ("position", "token", "layer", "emotion", "projection"), "trace_heatmap")
    if emotion is None:
        layer = max(table["layer"])
        part, key, shown = table[table["layer"] == layer], "emotion", f"layer {layer}"
    else:
        part, key, shown = table[table["emotion"] == emotion], "layer", plain(emotion)
    part = need(part, ("position",), f"trace_heatmap of {emotion or 'one layer'}")
    need_finite(part, ("projection",), f"trace_heatmap of {emotion or 'one layer'}")
    rows = list(dict.fromkeys(values(part[key])))
    held = {row: part[part[key] == row].sort_values("position") for row in rows}
    first = held[rows[0]]
    tokens, z = values(first["token"]), [values(held[row]["projection"]) for row in rows]
    reach = max(abs(v) for line in z for v in line if math.isfinite(v)) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=z, x=list(range(len(tokens))), y=[plain(row) if key == "emotion" else row for row in rows],
            zmin=-reach, zmax=reach, colorscale=diverging(), customdata=[[plain(t) for t in tokens]] * len(rows),
            colorbar={"title": {"text": "projection"}, "thickness": 12, "outlinewidth": 0},
            hovertemplate=f"“%{{customdata}}”<br>{key} %{{y}}<br>%{{z:.3f}}<extra></extra>",
        )
    )  # fmt: skip
    finish(
        figure, "Emotion along the text", f"{shown}; projection of each token’s residual, in the residual’s unit",
        x="token", y=key, height=170 + 26 * max(6, len(rows)),
    )  # fmt: skip
    _name_tokens(figure, tokens)
    _part_turns(figure, first)
    return figure


def _name_tokens(figure: go.Figure, tokens: list[Any]) -> None:
    """Every token where there is room, else every n-th."""
    step = -(-len(tokens) // 80)
    places = list(range(0, len(tokens), step))
    figure.update_xaxes(tickvals=places, ticktext=[plain(str(tokens[i])).strip() or "␣" for i in places], tickangle=-60)


def _part_turns(figure: go.Figure, tokens: Any) -> None:
    """A line before every message, with the speaker's role."""
    if "turn" not in tokens:
        return
    before = None
    for i, (turn, role) in enumerate(zip(tokens["turn"], tokens["role"], strict=True)):
        if turn >= 0 and turn != before:
            before = turn
            figure.add_vline(
                x=i - 0.5, line={"color": LIGHT.muted, "width": 1}, annotation_text=plain(role),
                annotation_position="top", annotation_font_size=11,
            )  # fmt: skip
