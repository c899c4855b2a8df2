"""Figures of directions and of samples along them (method.md, stage 2)."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from emotion_circuits.directions.result import EmotionDirections
from emotion_circuits.errors import NodeError
from emotion_circuits.plots.frames import Table, cell_text, matrix_height, need, values, zero_line
from emotion_circuits.plots.themes import LIGHT, diverging, faded, finish, plain, style_of

if TYPE_CHECKING:
    import pandas as pd


def direction_similarity(directions: EmotionDirections, emotion: str) -> go.Figure:
    """Cosines of one emotion's directions between all sublayers; the stable run of layers is framed.

    Args:
        directions: from `fit_directions`.
        emotion: one of its emotions.
    """
    cosines = directions.similarity(emotion).float().cpu().numpy()
    names = [f"{kind} {layer}" for layer in range(directions.n_layers) for kind in ("attention", "MLP")]
    places, stable = list(range(len(names))), directions.stable_layers()
    figure = go.Figure(_cosines(cosines, places, places, np.array([[f"{a} and {b}" for a in names] for b in names])))
    corners = (2 * stable[0] - 0.5, 2 * stable[-1] + 1.5)
    figure.add_shape(
        type="rect", x0=corners[0], y0=corners[0], x1=corners[1], y1=corners[1],
        line={"color": LIGHT.ink, "width": 1.5},
    )  # fmt: skip
    finish(
        figure, f"The direction of {plain(emotion)} from sublayer to sublayer",
        f"frame: the stable run, {_span(stable)}; from {directions.n_groups} groups",
        x="sublayer (layer: attention, then MLP)", y="sublayer", height=480,
    )  # fmt: skip
    step = max(1, -(-directions.n_layers // 9))
    ticks = {"tickvals": [2 * l for l in range(0, directions.n_layers, step)],
             "ticktext": [f"a{l}" for l in range(0, directions.n_layers, step)]}  # fmt: skip
    figure.update_xaxes(**ticks, constrain="domain")
    figure.update_yaxes(**ticks, scaleanchor="x", constrain="domain")
    return figure


def emotion_similarity(directions: EmotionDirections, layer: int, site: str = "resid_post") -> go.Figure:
    """Cosines between emotions at one sublayer, printed in the cells.

    Args:
        directions: from `fit_directions`.
        layer: the layer; negative counts from the end.
        site: ``"resid_post"`` (after the MLP) or ``"resid_mid"`` (after attention).

    Raises:
        NodeError: there is no such layer.
    """
    n_layers = directions.n_layers
    if not -n_layers <= layer < n_layers:
        raise NodeError(
            f"layer {layer} is outside the directions, which have layers 0 to {n_layers - 1} (or -{n_layers} to -1, "
            "from the end)"
        )
    layer %= n_layers
    cosines = directions.between_emotions(layer, site).float().cpu().numpy()
    names = [plain(emotion) for emotion in directions.emotions]
    trace = _cosines(cosines, names, names, np.array([[f"{a} and {b}" for a in names] for b in names]))
    trace.update(texttemplate=cell_text(len(names)))
    where = "the MLP" if site == "resid_post" else "attention"
    figure = finish(
        go.Figure(trace), "How alike the emotions’ directions are",
        f"cosine after {where} of layer {layer}; directions are centred, so a negative mean is expected",
        x="emotion", y="emotion", height=matrix_height(len(names), 430),
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", scaleanchor="x", constrain="domain")
    figure.update_xaxes(constrain="domain")
    return figure


def sample_projection(frame: pd.DataFrame) -> go.Figure:
    """Samples in a plane, coloured by emotion; over several layers it plays as an animation.

    Args:
        frame: from `emotion_circuits.project_samples`.
    """
    table = need(frame, ("x", "y", "emotion", "layer"), "sample_projection")
    emotions, layers = list(dict.fromkeys(table["emotion"])), sorted(table["layer"].unique())
    frames = [go.Frame(name=str(layer), data=[_cloud(table, layer, e, emotions) for e in emotions]) for layer in layers]
    figure = go.Figure(data=frames[-1].data, frames=frames if len(layers) > 1 else [])
    where = f"layer {layers[-1]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}, press play"
    finish(
        figure, "Samples by the emotion that was asked for", f"{len(table) // len(layers)} samples; {where}",
        x="first component (residual units)", y="second component (residual units)", height=520,
    )  # fmt: skip
    reach = [float(table[c].abs().max()) * 1.08 or 1.0 for c in ("x", "y")]
    figure.update_xaxes(range=[-reach[0], reach[0]])
    figure.update_yaxes(range=[-reach[1], reach[1]])
    if len(layers) > 1:
        _player(figure, [str(layer) for layer in layers])
    return figure


def emotion_trace(trace: Table) -> go.Figure:
    """How far each token's residual points along each emotion, over a text.

    Args:
        trace: from `emotion_circuits.trace` (its last layer is drawn), or a table: tidy (``token, emotion,
            projection``, and ``position`` if tokens are not in order), or wide (``token`` and one column per emotion).
    """
    tokens, held = _series(trace)
    emotions = list(held)
    figure = go.Figure()
    zero_line(figure)
    for emotion in emotions:
        look = style_of(emotion, emotions)
        figure.add_trace(
            go.Scatter(
                x=list(range(len(held[emotion]))), y=held[emotion], name=plain(emotion), mode="lines+markers",
                line={"color": look.colour, "width": 2, "dash": look.dash}, marker={"symbol": look.marker, "size": 6},
                text=[plain(token) for token in tokens],
                hovertemplate=f"“%{{text}}”<br>{plain(emotion)} %{{y:.3f}}<extra></extra>",
            )
        )  # fmt: skip
    finish(
        figure, "Emotion along the text", "projection of each token's residual on the emotions' directions",
        x="token", y="projection (residual units)", height=420,
    )  # fmt: skip
    figure.update_xaxes(
        tickvals=list(range(len(tokens))), ticktext=[plain(token).strip() or "␣" for token in tokens], tickangle=-60
    )
    figure.update_yaxes(showgrid=True)
    return figure


def _series(trace: Table) -> tuple[list[Any], dict[str, list[Any]]]:
    """Tokens, and each emotion's projections on them, from a tidy or a wide table."""
    table = need(trace, ("token",), "emotion_trace")
    if "emotion" not in table:
        emotions = [column for column in table.columns if column not in ("token", "position")]
        need(table, ("token", *(emotions or ["an emotion"])), "emotion_trace")
        return values(table["token"]), {str(e): values(table[e]) for e in emotions}
    need(table, ("token", "emotion", "projection"), "emotion_trace")
    last = table[table["layer"] == table["layer"].max()] if "layer" in table else table
    ordered = last.sort_values("position", kind="stable") if "position" in last else last
    parts = {str(e): ordered[ordered["emotion"] == e] for e in dict.fromkeys(last["emotion"])}
    return values(next(iter(parts.values()))["token"]), {e: values(p["projection"]) for e, p in parts.items()}


def _span(layers: Sequence[int]) -> str:
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"


def _cosines(cosines: np.ndarray, x: list[Any], y: list[Any], text: np.ndarray) -> go.Heatmap:
    gap = 0.5 if len(cosines) <= 24 else 0
    return go.Heatmap(
        z=cosines, x=x, y=y, zmin=-1, zmax=1, colorscale=diverging(), xgap=gap, ygap=gap, customdata=text,
        colorbar={"title": {"text": "cosine"}, "thickness": 12, "outlinewidth": 0, "len": 0.9},
        hovertemplate="%{customdata}<br>cosine %{z:.3f}<extra></extra>",
    )  # fmt: skip


def _cloud(frame: Any, layer: object, emotion: str, emotions: list[str]) -> go.Scatter:
    part = frame[(frame["layer"] == layer) & (frame["emotion"] == emotion)]
    look = style_of(emotion, emotions)
    texts = [plain(shorten(str(t), 90)) for t in part["text"]] if "text" in part else [""] * len(part)
    x, y = ([float(f"{value:.4g}") for value in part[c]] for c in ("x", "y"))  # what is drawn needs no more digits
    return go.Scatter(
        x=x, y=y, mode="markers", name=plain(emotion), text=texts,
        marker={"symbol": look.marker, "size": 7, "color": faded(look.colour, 0.75)},
        hovertemplate=f"<b>{plain(emotion)}</b>, layer {layer}<br>%{{text}}<br>(%{{x:.3g}}, %{{y:.3g}})<extra></extra>",
    )  # fmt: skip


def _player(figure: go.Figure, names: list[str]) -> None:
    still: dict[str, Any] = {"mode": "immediate", "frame": {"duration": 0, "redraw": False}}
    moving = {"fromcurrent": True, "frame": {"duration": 500, "redraw": False}, "transition": {"duration": 300}}
    steps = [{"label": name, "method": "animate", "args": [[name], still]} for name in names]
    play = {"label": "Play", "method": "animate", "args": [None, moving]}
    figure.update_layout(
        margin={"b": 130},
        sliders=[{"steps": steps, "active": len(names) - 1, "currentvalue": {"prefix": "layer "}, "x": 0.12,
                  "len": 0.88, "pad": {"t": 50}}],
        updatemenus=[{"type": "buttons", "x": 0.09, "y": 0, "xanchor": "right", "yanchor": "top", "pad": {"t": 60},
                      "showactive": False, "buttons": [play]}],
    )  # fmt: skip
