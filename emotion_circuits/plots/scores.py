"""Figures of scores: heads as a heat map, neurons as a long tail, influence over layers (method.md, stages 4 and 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from emotion_circuits.attribution.influence import Influence
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.errors import DataError, NodeError
from emotion_circuits.plots.frames import facet, zero_line
from emotion_circuits.plots.themes import LIGHT, diverging, faded, finish, plain, style_of

_MAX_POINTS = 500


def head_heatmap(attribution: Attribution) -> go.Figure:
    """Score of every attention head: layers bottom to top, heads left to right, zero in the background's colour.

    Args:
        attribution: scores that include heads.

    Raises:
        NodeError: heads were not scored.
    """
    _scored(attribution, "head")
    scores = attribution.values.heads.float().cpu()
    limit = float(scores.abs().max()) or 1.0
    (layer, head) = divmod(int(scores.argmax()), scores.shape[1])
    figure = go.Figure(
        go.Heatmap(
            z=scores.numpy(), x=list(range(scores.shape[1])), y=list(range(scores.shape[0])), xgap=1, ygap=1,
            zmin=-limit, zmax=limit, colorscale=diverging(),
            colorbar={"title": {"text": "score"}, "thickness": 12, "outlinewidth": 0, "len": 0.9},
            hovertemplate=(
                "<b>L%{y}H%{x}</b><br>score %{z:.4g}<br>positive: the head writes the emotion<extra></extra>"
            ),
        )
    )  # fmt: skip
    _discrete(figure, n_x=scores.shape[1], n_y=scores.shape[0])
    return finish(
        figure,
        f"Attention heads that write {_name(attribution)}",
        f"{_method(attribution)}; strongest L{layer}H{head}",
        x="head", y="layer", height=min(720, max(300, 150 + 30 * scores.shape[0])),
    )  # fmt: skip


def neuron_long_tail(attribution: Attribution, *, labels: int = 6) -> go.Figure:
    """Neurons ranked by score, and the share of the total that the first n of them hold.

    Args:
        attribution: scores that include neurons.
        labels: how many of the best neurons are named.

    Raises:
        NodeError: neurons were not scored.
        DataError: ``labels`` is negative.
    """
    if labels < 0:
        raise DataError(f"neuron_long_tail names 0 or more of the best neurons, got labels={labels}")
    _scored(attribution, "neuron")
    spread, colour = attribution.concentration(), style_of(attribution.emotion).colour
    n = len(spread.curve)
    every = np.arange(1, n + 1)
    ranks = every if n <= _MAX_POINTS else np.unique(np.round(np.geomspace(1, n, _MAX_POINTS)).astype(int))
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09, row_heights=[0.62, 0.38])
    figure.add_trace(_tail(*_ranked(attribution, ranks), ranks, colour), row=1, col=1)
    _label_best(figure, *_ranked(attribution, np.arange(1, min(labels, n) + 1)), colour)
    figure.add_trace(
        go.Scatter(
            x=ranks, y=100 * spread.curve.numpy()[ranks - 1], mode="lines", line={"color": LIGHT.ink, "width": 1.6},
            showlegend=False,
            hovertemplate="the first %{x} neurons hold %{y:.1f} %<br>of the positive score<extra></extra>",
        ), row=2, col=1,
    )  # fmt: skip
    one_percent = max(1, round(n / 100))
    figure.add_vline(x=one_percent, line={"color": LIGHT.muted, "width": 1, "dash": "dot"}, row=2, col=1)  # type: ignore[arg-type]
    zero_line(figure, row=1, col=1)
    finish(
        figure,
        f"Neurons that write {_name(attribution)}, ranked",
        f"top 1 % ({one_percent:,} of {n:,}) hold {100 * spread.top_1_percent:.0f} % of the positive score; Gini "
        f"{spread.gini:.2f}; half is held by {spread.n_for[50]:,}",
        height=480,
    )
    figure.update_xaxes(type="log", dtick=1)
    figure.update_xaxes(title_text="neurons, ranked by score (log scale)", row=2, col=1)
    figure.update_yaxes(title_text="score", row=1, col=1)
    figure.update_yaxes(title_text="held, %", range=[0, 104], row=2, col=1)
    return figure


def influence_profile(influence: Influence, emotions: Sequence[str] | None = None) -> go.Figure:
    """How far a push at each sublayer reaches the end: attention and MLP side by side, one line per emotion.

    Args:
        influence: from `sublayer_influence`.
        emotions: which to draw; all by default.

    Raises:
        EmotionError: an emotion is unknown.
        DataError: ``emotions`` is empty.
    """
    table: Any = influence.to_frame()
    chosen = list(influence.emotions if emotions is None else emotions)
    if not chosen:
        raise DataError("influence_profile got no emotion to draw; name one or more, or leave `emotions` out for all")
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for col, sublayer in enumerate(("attention", "mlp"), 1):
        zero_line(figure, row=1, col=col)
        for emotion in chosen:
            influence.of(emotion)  # an unknown emotion raises here
            part = table[(table["sublayer"] == sublayer) & (table["emotion"] == emotion)]
            look = style_of(emotion, chosen)
            figure.add_trace(
                go.Scatter(
                    x=part["layer"].to_numpy(), y=part["influence"].to_numpy(), customdata=part["std"].to_numpy(),
                    name=plain(emotion), legendgroup=emotion, showlegend=col == 1, mode="lines+markers",
                    line={"color": look.colour, "dash": look.dash, "width": 2},
                    marker={"symbol": look.marker, "size": 7},
                    hovertemplate=(
                        f"<b>{plain(emotion)}</b>, {sublayer} of layer %{{x}}<br>influence %{{y:.3f}} "
                        "(± %{customdata:.3f} over prompts)<extra></extra>"
                    ),
                ), row=1, col=col,
            )  # fmt: skip
    finish(
        figure, "How far a push at each sublayer reaches the end",
        f"change along the reference vector per unit of push; mean over {influence.n_samples} uninstructed prompts",
        x="layer", height=430,
    )  # fmt: skip
    figure.update_yaxes(title_text="influence (per unit of push)", row=1, col=1)
    figure.update_yaxes(showgrid=True)
    for text, x in (("After attention", 0.0), ("After the MLP", 0.52)):
        facet(figure, text, x, 1.0)
    if figure.layout.legend.orientation == "h":
        figure.update_layout(legend_y=1.08, margin_t=128)
    return figure


def _scored(attribution: Attribution, kind: str) -> None:
    if kind not in attribution.kinds:
        hint = ": add them with scores.with_heads(ec.attribute(..., ec.HeadImportance()))" if kind == "head" else ""
        raise NodeError(f"these scores ({attribution.method}) are of {', '.join(attribution.kinds)}s only{hint}")


def _name(attribution: Attribution) -> str:
    return plain(attribution.emotion or "the target")


def _method(attribution: Attribution) -> str:
    return f"{plain(attribution.method)}, mean over {attribution.n_samples} samples"


def _discrete(figure: go.Figure, n_x: int, n_y: int) -> None:
    """Whole numbers on both axes, few enough to read."""
    figure.update_xaxes(dtick=max(1, -(-n_x // 16)))
    figure.update_yaxes(dtick=max(1, -(-n_y // 16)))


def _ranked(attribution: Attribution, ranks: np.ndarray) -> tuple[list[str], list[float]]:
    """Names and scores of the neurons at some ranks (1 is the best); a large model has too many to name all."""
    flat = attribution.ranking.neurons.float().cpu().flatten()
    held, order = flat.sort(descending=True, stable=True)
    width = attribution.values.neurons.shape[1]
    chosen = [int(order[rank - 1]) for rank in ranks]
    return [f"L{i // width}N{i % width}" for i in chosen], [float(held[rank - 1]) for rank in ranks]


def _tail(names: list[str], scores: list[float], ranks: np.ndarray, colour: str) -> go.Scatter:
    """The curve of scores over ranks."""
    return go.Scatter(
        x=ranks, y=scores, mode="lines", line={"color": colour, "width": 2}, fill="tozeroy",
        fillcolor=faded(colour, 0.12), text=names, showlegend=False,
        hovertemplate="<b>%{text}</b>, rank %{x}<br>score %{y:.4g}<extra></extra>",
    )  # fmt: skip


def _label_best(figure: go.Figure, names: list[str], scores: list[float], colour: str) -> None:
    """The best neurons as marks, with their names where these do not run into each other."""
    figure.add_trace(
        go.Scatter(
            x=list(range(1, len(names) + 1)), y=scores, mode="markers+text", text=_spaced_names(names, scores),
            textposition="top right", textfont={"size": 11, "color": LIGHT.ink}, cliponaxis=False, customdata=names,
            marker={"color": colour, "size": 7}, showlegend=False,
            hovertemplate="<b>%{customdata}</b>, rank %{x}<br>score %{y:.4g}<extra></extra>",
        ), row=1, col=1,
    )  # fmt: skip


def _spaced_names(names: list[str], scores: list[float]) -> list[str]:
    """The names that have room: each takes a third of a decade, or stands a tenth of the axis lower than the last."""
    kept, free_from, last = [], 0.0, float("inf")
    for rank, (name, score) in enumerate(zip(names, scores, strict=True), 1):
        clear = np.log10(rank) >= free_from or last - score > 0.1 * abs(scores[0])
        kept.append(name if clear else "")
        if clear:
            free_from, last = np.log10(rank) + 0.35, score
    return kept
