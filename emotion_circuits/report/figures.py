"""The report's figures: Plotly's JSON with title and subtitle taken out, so that the page can set them as text."""

from __future__ import annotations

import re
from dataclasses import dataclass

import plotly.graph_objects as go

from emotion_circuits import plots
from emotion_circuits.plots.frames import traces
from emotion_circuits.report.data import ReportData

_TAGS = re.compile(r"<[^>]+>")
_TITLE = 70
"""Pixels that title and subtitle take in a figure with a title."""


@dataclass(frozen=True)
class ReportFigure:
    """One figure on the page.

    Attributes:
        key: unique on the page.
        title: heading.
        subtitle: line below it.
        json: Plotly's JSON.
        height: in pixels.
        least_width: below this many pixels the figure scrolls sideways.
    """

    key: str
    title: str
    subtitle: str
    json: str
    height: int
    least_width: int


@dataclass(frozen=True)
class ReportFigures:
    """All figures; those that exist for each emotion are mappings."""

    bars: ReportFigure
    sampled_bars: ReportFigure | None
    costs: ReportFigure
    between: ReportFigure
    sublayers: dict[str, ReportFigure]
    samples: ReportFigure | None
    heads: dict[str, ReportFigure]
    tails: dict[str, ReportFigure]
    influence: ReportFigure
    circuits: dict[str, ReportFigure]
    overlap: ReportFigure | None
    stability: ReportFigure | None
    doses: dict[str, dict[str, ReportFigure]]


def all_figures(run: ReportData) -> ReportFigures:
    """Draw everything that the report shows."""
    stable = run.directions.stable_layers()
    layer = stable[len(stable) // 2]
    scored = run.attributions.items()
    return ReportFigures(
        bars=figure("bars", plots.accuracy_bars(run.comparison), 640),
        sampled_bars=None if run.sampled is None else figure("sampled-bars", plots.accuracy_bars(run.sampled), 640),
        costs=figure("costs", plots.pareto(run.comparison.table()), 340),
        between=figure("between", plots.emotion_similarity(run.directions, layer), 340),
        sublayers={
            e: figure(f"sublayers-{i}", plots.direction_similarity(run.directions, e), 340)
            for i, e in enumerate(run.directions.emotions)
        },
        samples=None if run.samples is None else figure("samples", plots.sample_projection(run.samples), 340),
        heads={
            e: figure(f"heads-{i}", plots.head_heatmap(a), 320) for i, (e, a) in enumerate(scored) if "head" in a.kinds
        },
        tails={
            e: figure(f"tail-{i}", plots.neuron_long_tail(a), 320)
            for i, (e, a) in enumerate(scored)
            if "neuron" in a.kinds
        },
        influence=figure("influence", plots.influence_profile(run.influence), 560),
        circuits={
            e: figure(f"circuit-{i}", plots.circuit_graph(c), 600) for i, (e, c) in enumerate(run.circuits.items())
        },
        overlap=figure("overlap", plots.overlap_matrix(run.circuits), 660) if len(run.circuits) > 1 else None,
        stability=figure("stability", plots.stability(run.stability), 340) if run.stability else None,
        doses={
            kind: {e: figure(f"dose-{kind}-{i}", plots.dose_response(held, e), 340) for i, e in enumerate(held.chosen)}
            for kind, held in run.calibrations.items()
        },
    )


def figure(key: str, drawn: go.Figure, least_width: int) -> ReportFigure:
    """One figure for the page: no title in it, no dragging that would catch a finger's scrolling.

    The page has buttons and sliders of its own for views and animations, which a keyboard reaches.
    """
    layout = drawn.layout
    title, subtitle = (_TAGS.sub("", text or "") for text in (layout.title.text, layout.title.subtitle.text))
    removed = _TITLE
    top = (layout.margin.t or 98) - removed + (16 if _has_legend(drawn) else 0)
    height = int(layout.height or 400) - removed
    copy = go.Figure(drawn)
    if drawn.frames:
        copy.layout.sliders, copy.layout.updatemenus = (), ()
        copy.update_layout(margin_b=56)
    copy.update_layout(
        title=None, height=height, margin={"t": top, "l": 56, "r": 16}, dragmode=False, autosize=True,
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
    )  # fmt: skip
    return ReportFigure(key, title, subtitle, copy.to_json() or "{}", height, least_width)


def _has_legend(drawn: go.Figure) -> bool:
    return sum(trace.showlegend is not False and trace.type in ("scatter", "bar") for trace in traces(drawn)) > 1
