"""The figure of a calibration: accuracy and fluency over strength, with every point's regime (method.md, stage 7)."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from emotion_circuits.control.doses import Calibration, Point
from emotion_circuits.data.prompts import check_emotions
from emotion_circuits.intervals import wilson
from emotion_circuits.plots.frames import traces
from emotion_circuits.plots.themes import LIGHT, finish, plain, style_of

_REGIMES = {"too weak": "circle-open", "controlled": "circle", "degenerate": "x"}
_TICKS = (0.01, 0.03, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32)


def dose_response(calibration: Calibration, emotion: str | None = None) -> go.Figure:
    """Accuracy and perplexity over strength; marks tell the regimes, rings the strengths that were chosen.

    Args:
        calibration: from `calibrate`.
        emotion: shows all its candidates; without it every emotion is shown with the candidate that was chosen.

    Raises:
        EmotionError: the emotion was not calibrated.
    """
    chosen = calibration.chosen
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07, row_heights=[0.58, 0.42])
    if emotion is None:
        subject = "every emotion with its chosen candidate"
        for name in chosen:
            look = style_of(name, list(chosen))
            _curve(figure, calibration.curve(name), name, {"color": look.colour, "dash": look.dash, "width": 2})
    else:
        check_emotions([emotion], tuple(chosen), "this calibration")
        subject = f"{plain(emotion)}, chosen: {plain(chosen[emotion].candidate)}"
        for candidate in _others(calibration, emotion):
            line = {"color": LIGHT.muted, "dash": "dot", "width": 1}
            _curve(figure, calibration.curve(emotion, candidate), candidate, line, group="other candidates")
        line = {"color": style_of(emotion, list(chosen)).colour, "width": 2.5}
        _curve(figure, calibration.curve(emotion), chosen[emotion].candidate, line, group="chosen candidate")
    for name in chosen if emotion is None else [emotion]:
        _ring(figure, chosen[name], style_of(name, list(chosen)).colour)
    _name_regimes(figure)
    subtitle = f"{subject}; rings: chosen strength; dotted: the bounds"
    finish(figure, "How strong is strong enough?", subtitle, height=540)
    _scale(figure, calibration)
    return figure


def _others(calibration: Calibration, emotion: str) -> list[str]:
    """Candidates of an emotion that were not chosen."""
    tried = dict.fromkeys(p.candidate for p in calibration.points if p.emotion == emotion)
    return [candidate for candidate in tried if candidate != calibration.chosen[emotion].candidate]


def _curve(figure: go.Figure, points: Sequence[Point], name: str, line: dict, group: str | None = None) -> None:
    """One line in each panel; those of one group share an entry in the legend."""
    group = plain(group or name)
    new = not any(figure.select_traces({"legendgroup": group}))
    panels = ([100 * p.accuracy for p in points], [p.perplexity_ratio for p in points])
    marks = {"symbol": [_REGIMES[p.regime] for p in points], "size": 5 + line["width"], "color": line["color"]}
    for row, y in enumerate(panels, 1):
        figure.add_trace(
            go.Scatter(
                x=[p.strength for p in points], y=y, name=group, legendgroup=group, showlegend=new and row == 1,
                mode="lines+markers", line=line, marker=marks, text=_hover(points, plain(name)),
                hovertemplate="%{text}<extra></extra>",
            ), row=row, col=1,
        )  # fmt: skip


def _hover(points: Sequence[Point], name: str) -> list[str]:
    texts = []
    for p in points:
        low, high = wilson(p.accuracy * p.n, p.n)
        texts.append(
            f"<b>{name}</b>, strength {p.strength:g}: {p.regime}<br>accuracy {100 * p.accuracy:.1f} % "
            f"[{100 * low:.1f}, {100 * high:.1f}] of {p.n} items<br>perplexity {p.perplexity_ratio:.2f} times the "
            f"prompted replies’; on topic {100 * p.on_topic:.0f} %"
        )
    return texts


def _ring(figure: go.Figure, point: Point, colour: str) -> None:
    """A ring around the chosen point, in both panels."""
    for row, y in enumerate((100 * point.accuracy, point.perplexity_ratio), 1):
        figure.add_trace(
            go.Scatter(
                x=[point.strength], y=[y], mode="markers", showlegend=False, hoverinfo="skip",
                marker={"symbol": "circle-open", "size": 17, "color": colour, "line": {"width": 2}},
            ), row=row, col=1,
        )  # fmt: skip


def _name_regimes(figure: go.Figure) -> None:
    """The regimes' marks in the legend; nothing in the panels."""
    for regime, symbol in _REGIMES.items():
        figure.add_trace(
            go.Scatter(
                x=[None], y=[None], mode="markers", name=regime, hoverinfo="skip",
                marker={"symbol": symbol, "size": 8, "color": LIGHT.ink},
            ), row=1, col=1,
        )  # fmt: skip


def _scale(figure: go.Figure, calibration: Calibration) -> None:
    """Ratio axes, since strength and perplexity are factors; the bounds; room for the legend's rows."""
    strengths = [p.strength for p in calibration.points]
    ticks = [t for t in _TICKS if min(strengths) / 1.2 <= t <= max(strengths) * 1.2]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{t:g}" for t in ticks])
    figure.update_xaxes(title_text="strength (ratio scale)", row=2, col=1)
    figure.update_yaxes(showgrid=True)
    figure.update_yaxes(title_text="accuracy, %", range=[-8, 108], row=1, col=1)
    wide = max(y for trace in traces(figure) if trace.yaxis == "y2" for y in trace.y) > 4
    ratios = (0.5, 1, 2, 5, 10, 30, 100, 300, 1000) if wide else (0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 4)
    figure.update_yaxes(title_text="perplexity ratio", type="log", row=2, col=1)
    figure.update_yaxes(tickvals=list(ratios), ticktext=[f"{r:g}" for r in ratios], row=2, col=1)
    bounds, line = calibration.bounds, {"color": LIGHT.muted, "width": 1, "dash": "dot"}
    for row, y in enumerate((100 * bounds.accuracy, bounds.perplexity_ratio), 1):
        figure.add_hline(y=y, line=line, layer="below", row=row, col=1)  # type: ignore[arg-type]
    figure.update_layout(margin_t=128)
