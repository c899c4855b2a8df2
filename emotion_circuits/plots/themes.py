"""How figures look: colours, fonts and sizes, in one place.

Colours     The six emotions were chosen by search so that they stay apart for every reader: any two are at least
            25 ΔE apart to normal, protanopic and deuteranopic eyes and 9 L* apart in grey (20 and 8 on dark), see
            `emotion_circuits.plots.vision`. Every emotion also has a marker and a dash of its own. Four more colours
            serve other labels (18 ΔE and 3 L* apart from each other and from the six); after ten labels a colour comes
            again with another marker and another dash, see `style_of`. `label_looks` brings a label set's own colours.
Themes      ``light`` (the default), ``dark`` and ``paper``: serif, 8-point text, 3.3 inches wide (one column) or
            6.9 (two). A figure is built in light colours; a theme exchanges them, so any figure can change theme.

Example:
    >>> from emotion_circuits import plots
    >>> round(plots.theme("paper").width(columns=1) / 96, 2)  # inches
    3.3
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from html import escape
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Literal

import plotly.graph_objects as go

from emotion_circuits.errors import DataError, EmotionCircuitsError
from emotion_circuits.plots import paper
from emotion_circuits.plots.vision import channels
from emotion_circuits.types import EKMAN

if TYPE_CHECKING:
    from emotion_circuits.data.labels import LabelSet

ThemeName = Literal["light", "dark", "paper"]

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"
SERIF = "'Times New Roman', 'Liberation Serif', 'Nimbus Roman', Times, serif"
MARKERS = ("square", "circle", "star", "diamond", "triangle-up", "cross")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


_MOST_ABOVE = 10
"""A legend of more entries stands beside the figure: above it, it would grow into the title."""


@dataclass(frozen=True)
class Palette:
    """Colours by what they mean.

    Attributes:
        ink: text.
        muted: axes, secondary text, controls such as random nodes.
        grid: hairlines.
        surface: what lies behind.
        low: negative end of a diverging scale.
        high: positive end, and the accent.
        emotions: in the order of `EKMAN`, then those of other labels.
        methods: for up to eight methods; the first six are those of `compare`, 15 ΔE apart to every eye.
    """

    ink: str
    muted: str
    grid: str
    surface: str
    low: str
    high: str
    emotions: tuple[str, ...]
    methods: tuple[str, ...]

    def all(self) -> list[str]:
        """Every colour, always in the same order."""
        return [self.ink, self.muted, self.grid, self.surface, self.low, self.high, *self.emotions, *self.methods]


LIGHT = Palette(
    ink="#1f2328", muted="#5c646e", grid="#e4e1da", surface="#fdfcf9", low="#2b5c9e", high="#b3541e",
    emotions=("#902007", "#375fae", "#cba93d", "#332f59", "#589cb3", "#2a8b4d",
              "#f096ff", "#1e4b3c", "#a5a587", "#1e87f0"),
    methods=("#3f5fa8", "#a884c4", "#d2a13c", "#0f766e", "#8a949f", "#b9c0c8", "#c9776b", "#4fa3c7"),
)  # fmt: skip
DARK = Palette(
    ink="#e8e6e1", muted="#a3abb5", grid="#343a43", surface="#16191e", low="#7fb0ea", high="#ee9a5f",
    emotions=("#da6954", "#68a6d9", "#fee68c", "#906899", "#78e1dd", "#97c29a",
              "#a54b5a", "#c3ffc3", "#a59600", "#5a78e1"),
    methods=("#7f9be3", "#9560bd", "#cfa552", "#62d3c4", "#8d99a6", "#4b545e", "#d9938a", "#3f7a99"),
)  # fmt: skip


@dataclass(frozen=True)
class Theme:
    """One look; call it with a figure to get that figure in this look, or use it in a ``with`` block.

    Attributes:
        name: ``light``, ``dark`` or ``paper``.
        palette: its colours.
        font: CSS font families.
        size: size of the text in pixels.
        title_size: size of titles in pixels.
    """

    name: ThemeName
    palette: Palette
    font: str
    size: float
    title_size: float

    def width(self, columns: int = 1) -> float | None:
        """Width in pixels: of one or two columns on paper; None (as wide as there is room) on a screen."""
        if self.name != "paper":
            return None
        if columns not in paper.INCHES:
            raise EmotionCircuitsError(f"a paper figure is 1 or 2 columns wide, not {columns!r}")
        return paper.INCHES[columns] * paper.PIXELS_PER_INCH

    def swaps(self) -> dict[str, str]:
        """Light colours, as they are written in a figure, and what this theme puts in their place."""
        pairs = [(a, b) for a, b in zip(LIGHT.all(), self.palette.all(), strict=True) if a != b]
        return dict(pairs) | {_open_rgba(a): _open_rgba(b) for a, b in pairs}

    def __call__(self, figure: go.Figure, columns: int = 1) -> go.Figure:
        """A copy of a light figure in this theme.

        Args:
            figure: made by a function of `emotion_circuits.plots` in the light theme.
            columns: columns of a paper that it spans (paper theme only).
        """
        swaps = self.swaps()
        self.width(columns)  # refuses a width that there is not
        held = json.loads(exchange(figure.to_json() or "{}", swaps)) if swaps else figure.to_plotly_json()
        themed = go.Figure(held)
        themed.update_layout(font={"family": self.font, "size": self.size, "color": self.palette.ink})
        return paper.fit(themed, self.size, columns) if self.name == "paper" else themed

    @contextmanager
    def using(self, columns: int = 1) -> Iterator[Theme]:
        """Figures made inside the block have this theme: ``with theme("paper").using(columns=2): ...``."""
        token = _ACTIVE.set((self, columns))
        try:
            yield self
        finally:
            _ACTIVE.reset(token)


_EIGHT_POINTS = 8 / 72 * paper.PIXELS_PER_INCH
THEMES: dict[str, Theme] = {
    "light": Theme("light", LIGHT, SANS, 13.0, 16.0),
    "dark": Theme("dark", DARK, SANS, 13.0, 16.0),
    "paper": Theme("paper", LIGHT, SERIF, _EIGHT_POINTS, _EIGHT_POINTS),
}
_ACTIVE: ContextVar[tuple[Theme, int]] = ContextVar("emotion_circuits_theme", default=(THEMES["light"], 1))


def theme(name: str) -> Theme:
    """The theme called ``name``: ``"light"``, ``"dark"`` or ``"paper"``.

    Raises:
        EmotionCircuitsError: there is no such theme.
    """
    if name not in THEMES:
        raise EmotionCircuitsError(f"no theme {name!r}; the themes are {', '.join(THEMES)}")
    return THEMES[name]


@dataclass(frozen=True)
class Style:
    """How one emotion is drawn."""

    colour: str
    marker: str
    dash: str


_ACCENT = Style(LIGHT.methods[3], MARKERS[1], DASHES[0])
"""The colour of circuits in comparisons: for a subject that stands alone and has no place among other labels."""


@dataclass(frozen=True)
class _Labels:
    """The labels that figures are drawn for, and the colours that were given to some of them."""

    names: tuple[str, ...] = ()
    colours: Mapping[str, str] = field(default_factory=dict)


_NO_LABELS = _Labels()
_LABELS: ContextVar[_Labels] = ContextVar("emotion_circuits_labels", default=_NO_LABELS)


@contextmanager
def label_looks(labels: LabelSet | Sequence[str], colours: Mapping[str, str] | None = None) -> Iterator[None]:
    """Figures made inside the block give every label of a set one look, however few of them they show.

    The label keeps the marker and the dash of its place. A theme exchanges only colours of the package's palette, so a
    colour of one's own stays as it is on dark.

    Args:
        labels: a label set, whose own colours are used, or labels.
        colours: by label, as ``#rrggbb``; None takes the label set's.

    Raises:
        DataError: a colour is written otherwise.

    Example:
        >>> from emotion_circuits import plots
        >>> from emotion_circuits.plots.themes import style_of
        >>> with plots.label_looks(["joy", "calm"], {"calm": "#3366aa"}):
        ...     style_of("calm").colour
        '#3366aa'
    """
    given = getattr(labels, "colours", {}) if colours is None else colours
    for label, colour in given.items():
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", str(colour)):
            raise DataError(f'the colour of {label!r} is {colour!r}; write it as "#rrggbb", such as "#c8a030"')
    token = _LABELS.set(_Labels(tuple(labels), dict(given)))
    try:
        yield
    finally:
        _LABELS.reset(token)


def style_of(emotion: str | None, emotions: Sequence[str] = ()) -> Style:
    """Colour, marker and dash of an emotion.

    1. The labels are those of `label_looks` if the emotion is one of them, and else ``emotions``.
    2. Labels of `EKMAN` have places 0 to 5; the others take the places that these leave free, in their order.
    3. At place p, round r = p // 10 through the ten colours begins anew with the next marker and the dash before, so
       that two of the first 60 labels differ in colour, or else in both marker and dash.

    An emotion that is none of the labels and not of `EKMAN` is drawn in the accent, which is no emotion's.
    """
    held = _LABELS.get()
    place = _place(emotion, held.names if emotion in held.names else emotions)
    look = _ACCENT if place is None else _look(place)
    return replace(look, colour=held.colours[str(emotion)]) if emotion in held.colours else look


def _place(emotion: str | None, emotions: Sequence[str]) -> int | None:
    """Where an emotion stands among the looks; None if it has no place."""
    if emotion in EKMAN:
        return EKMAN.index(str(emotion))
    others = [e for e in dict.fromkeys(emotions) if e not in EKMAN]
    if emotion not in others:
        return None
    taken = {EKMAN.index(e) for e in emotions if e in EKMAN}
    return next(islice((p for p in count() if p not in taken), others.index(str(emotion)), None))


def _look(place: int) -> Style:
    """The look of a place: colour, marker and dash have steps of their own."""
    n_round, colour = divmod(place, len(LIGHT.emotions))
    # The second six begin with another dash, so that no two of the ten agree in marker and dash.
    dash = colour + colour // len(DASHES) - n_round
    return Style(LIGHT.emotions[colour], MARKERS[(colour + n_round) % len(MARKERS)], DASHES[dash % len(DASHES)])


def in_palette(colour: str, palette: Palette) -> str:
    """A light colour's counterpart in another palette; a colour of somebody's own stays as it is."""
    return dict(zip(LIGHT.all(), palette.all(), strict=True)).get(colour, colour)


def faded(colour: str, alpha: float) -> str:
    """A colour with an opacity, in the form that themes can exchange."""
    return f"{_open_rgba(colour)}{alpha:g})"


def diverging() -> list[list[Any]]:
    """Colour scale from negative through the surface's colour to positive."""
    return [[0.0, LIGHT.low], [0.5, LIGHT.surface], [1.0, LIGHT.high]]


def sequential() -> list[list[Any]]:
    """Colour scale from nothing to much."""
    return [[0.0, LIGHT.surface], [1.0, LIGHT.high]]


def plain(text: object) -> str:
    """Text that Plotly shows as it stands: its pseudo-HTML is escaped."""
    return escape(str(text), quote=False)


def finish(
    figure: go.Figure, title: str, subtitle: str = "", *, x: str = "", y: str = "", height: float | int = 400
) -> go.Figure:
    """Titles, axes and the active theme: the last step of every figure."""
    font = THEMES["light"]
    figure.update_layout(
        title={
            "text": f"<b>{title}</b>", "x": 0, "xref": "container", "pad": {"l": 16, "t": 14}, "y": 1, "yanchor": "top",
            "yref": "container", "font": {"size": font.title_size},
            "subtitle": {"text": subtitle, "font": {"size": font.size - 1, "color": LIGHT.muted}},
        },
        template="none", font={"family": font.font, "size": font.size, "color": LIGHT.ink}, height=height,
        paper_bgcolor=LIGHT.surface, plot_bgcolor=LIGHT.surface, margin={"l": 64, "r": 24, "t": 98, "b": 56},
        hoverlabel={
            "bgcolor": LIGHT.surface, "bordercolor": LIGHT.muted, "align": "left",
            "font": {"family": font.font, "size": font.size, "color": LIGHT.ink},
        },
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "xanchor": "left", "title": {"text": ""}},
    )  # fmt: skip
    axis = {
        "showgrid": False, "zeroline": False, "linecolor": LIGHT.muted, "tickcolor": LIGHT.muted, "ticks": "outside",
        "ticklen": 4, "gridcolor": LIGHT.grid, "automargin": True, "tickfont": {"size": font.size - 1},
        "title": {"standoff": 10, "font": {"size": font.size}},
    }  # fmt: skip
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    small = {"size": font.size - 1}
    figure.update_traces(colorbar={"tickfont": small, "title": {"font": small}}, selector={"type": "heatmap"})
    if (n := _legend_entries(figure)) > _MOST_ABOVE:
        # It begins no higher than the axes: of one that does, Plotly shows half a figure's height, and lets it scroll.
        beside = {"orientation": "v", "y": 1.0, "yanchor": "top", "x": 1.02, "xanchor": "left", "tracegroupgap": 0}
        figure.update_layout(legend=beside, height=max(height, 200 + 20 * n))
    if x:
        figure.update_xaxes(title_text=x)
    if y:
        figure.update_yaxes(title_text=y)
    active, columns = _ACTIVE.get()
    return active(figure, columns) if active.name != "light" else figure


def _legend_entries(figure: go.Figure) -> int:
    named: Any = figure.select_traces(lambda trace: trace.type in ("scatter", "bar"))  # Plotly's types lack the traces
    return sum(trace.showlegend is not False and trace.visible is not False for trace in named)


def exchange(text: str, swaps: dict[str, str]) -> str:
    """``text`` with every key of ``swaps`` replaced at once, so that no replacement is replaced again."""
    pattern = re.compile("|".join(re.escape(key) for key in swaps))
    return pattern.sub(lambda match: swaps[match[0]], text)


def _open_rgba(colour: str) -> str:
    return "rgba({},{},{},".format(*channels(colour))
