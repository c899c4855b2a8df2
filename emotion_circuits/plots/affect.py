"""Figures of affect: the plane of emotions, agreement between languages, and the course over generated tokens."""

from __future__ import annotations

from contextlib import nullcontext

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from emotion_circuits.affect import AffectSpace, EmotionDynamics, LanguageAgreement
from emotion_circuits.data.labels import LabelSet
from emotion_circuits.plots.frames import add_band, facet, traces, values, zero_line
from emotion_circuits.plots.themes import DASHES, LIGHT, MARKERS, finish, label_looks, plain, style_of


def affect_plane(space: AffectSpace, labels: LabelSet | None = None) -> go.Figure:
    """Emotions on the first two principal axes of their directions.

    Args:
        space: from `affect_space`.
        labels: the label set, for its colours and its order, as in `label_looks`.
    """
    with nullcontext() if labels is None else label_looks(labels):
        looks = {emotion: style_of(emotion, space.emotions) for emotion in space.emotions}
    figure = go.Figure()
    for emotion, point in zip(space.emotions, space.coordinates.tolist(), strict=True):
        look, (x, y) = looks[emotion], (*point, 0.0)[:2]
        note = "<br>flagged: " + plain("; ".join(space.flags[emotion])) if emotion in space.flags else ""
        figure.add_trace(
            go.Scatter(
                x=[x], y=[y], mode="markers+text", text=[plain(emotion)], textposition="top center",
                name=plain(emotion), showlegend=False, cliponaxis=False,
                marker={"symbol": f"{look.marker}-open" if note else look.marker, "size": 12, "color": look.colour},
                hovertemplate=f"<b>{plain(emotion)}</b><br>(%{{x:.3f}}, %{{y:.3f}}){note}<extra></extra>",
            )
        )  # fmt: skip
    shares = [f"{100 * share:.0f} %" for share in (*space.shares.tolist(), 0.0)[:2]]
    finish(
        figure, "Where the emotions lie", _tests(space), x=f"first principal axis ({shares[0]} of the variance)",
        y=f"second ({shares[1]})", height=460,
    )  # fmt: skip
    zero_line(figure)
    figure.add_vline(x=0, line={"color": LIGHT.muted, "width": 1}, layer="below")
    figure.update_yaxes(scaleanchor="x", constrain="domain")
    return figure


def language_agreement(result: LanguageAgreement) -> go.Figure:
    """Cosine of equal emotions between languages, below its noise ceiling.

    Args:
        result: from `language_agreement` of the analysis.
    """
    table, figure = result.to_frame(), go.Figure()
    names = [plain(emotion) for emotion in result.emotions]
    for i, (a, b) in enumerate(result.pairs):
        part = table[(table["a"] == a) & (table["b"] == b)]
        colour, name = LIGHT.methods[i % len(LIGHT.methods)], f"{plain(a)}, {plain(b)} (p = {result.p[i]:.3f})"
        figure.add_trace(
            go.Scatter(
                x=names, y=values(part["cosine"]), mode="markers", name=name, legendgroup=name,
                marker={"symbol": MARKERS[i % len(MARKERS)], "size": 9, "color": colour},
                hovertemplate=f"{name}<br>%{{x}}: %{{y:.3f}}<extra></extra>",
            )
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=names, y=values(part["ceiling"]), mode="markers", name=f"ceiling of {name}", legendgroup=name,
                showlegend=False, marker={"symbol": "line-ew-open", "size": 16, "color": colour},
                hovertemplate=f"{name}<br>%{{x}}: noise ceiling %{{y:.3f}}<extra></extra>",
            )
        )  # fmt: skip
    finish(
        figure, "Do languages find the same directions?",
        "cosine of equal emotions; lines: the most that noise allows; p: over pairings of the emotions",
        x="emotion", y="cosine", height=420,
    )  # fmt: skip
    zero_line(figure)
    figure.update_yaxes(showgrid=True)
    return figure


def emotion_dynamics(result: EmotionDynamics) -> go.Figure:
    """The course of an emotion's projection over generated tokens, and its autocorrelation beside random directions.

    Args:
        result: from `emotion_dynamics` of the analysis.
    """
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.14)
    look, name = style_of(result.emotion), plain(result.emotion)
    course, rho = result.course_frame(), result.to_frame()
    _line(figure, course, "token", "projection", name, look.colour, "solid", 1)
    add_band(
        figure, values(rho["lag"]), values(rho["random_low"]), values(rho["random_high"]), LIGHT.muted, row=1, col=2
    )
    _line(figure, rho, "lag", "autocorrelation", name, look.colour, "solid", 2)
    figure.add_trace(
        go.Scatter(
            x=values(rho["lag"]), y=values(rho["random"]), mode="lines", name="random directions",
            line={"color": LIGHT.muted, "width": 2, "dash": DASHES[1]},
            hovertemplate="random directions<br>lag %{x}: %{y:.3f}<extra></extra>",
        ), row=1, col=2,
    )  # fmt: skip
    low, high = result.half_life_interval
    flagged = "; the direction is flagged" if result.flags else ""
    finish(
        figure, f"How {name} lives and decays",
        f"half-life {result.half_life:.1f} tokens [{low:.1f}, {high:.1f}], {result.n_replies} replies; bands: 95 %"
        f"{flagged}", height=420,
    )  # fmt: skip
    facet(figure, "Course", 0)
    facet(figure, "Autocorrelation", 0.57)
    for col in (1, 2):
        zero_line(figure, row=1, col=col)
    figure.update_yaxes(showgrid=True)
    figure.update_xaxes(title_text="token; 0 is the last of the prompt", row=1, col=1)
    figure.update_yaxes(title_text="projection (residual rms)", row=1, col=1)
    figure.update_xaxes(title_text="lag (tokens)", row=1, col=2)
    figure.update_layout(legend_y=1.08, margin_t=128)
    for trace in traces(figure)[:2]:
        trace.showlegend = False  # the same line stands on the right
    return figure


def _tests(space: AffectSpace) -> str:
    parts = [f"{name}: r = {fit.correlation:.2f}, p = {fit.p:.3f}" for name, fit in space.fits.items()]
    if space.order is not None:
        parts.append(f"circular order: p = {space.order.p:.3f}")
    return "; ".join(parts) or f"{len(space.emotions)} emotions; too few have ratings for a test"


def _line(figure: go.Figure, table, x: str, y: str, name: str, colour: str, dash: str, col: int) -> None:
    xs = values(table[x])
    add_band(figure, xs, values(table["low"]), values(table["high"]), colour, row=1, col=col)
    figure.add_trace(
        go.Scatter(
            x=xs, y=values(table[y]), mode="lines+markers", name=name, legendgroup=name,
            line={"color": colour, "width": 2, "dash": dash}, marker={"size": 5},
            hovertemplate=f"{name}<br>{x} %{{x}}: %{{y:.3f}}<extra></extra>",
        ), row=1, col=col,
    )  # fmt: skip
