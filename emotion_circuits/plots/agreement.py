"""Figures of agreement: between circuits of different emotions, and between repeats of one experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.errors import DataError
from emotion_circuits.plots.frames import bars, facet, need, values
from emotion_circuits.plots.themes import finish, plain, sequential, style_of
from emotion_circuits.types import NodeKind

if TYPE_CHECKING:
    import pandas as pd

_KINDS: tuple[NodeKind, NodeKind] = ("neuron", "head")


def overlap_matrix(circuits: Mapping[str, Circuit]) -> go.Figure:
    """How many nodes the circuits share: Jaccard index (shared over united), for neurons and for heads.

    Args:
        circuits: by emotion, all of one model.

    Raises:
        DataError: there are fewer than two circuits.
    """
    if len(circuits) < 2:
        raise DataError(f"overlap_matrix compares circuits and got {len(circuits)}; give two or more")
    names = [plain(name) for name in circuits]
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.06, shared_yaxes=True)
    for col, kind in enumerate(_KINDS, 1):
        shared, united = _counts(circuits, kind)
        hover = [[f"{a} and {b}: {shared[i, j]} of {united[i, j]} {kind}s shared" for j, b in enumerate(names)]
                 for i, a in enumerate(names)]  # fmt: skip
        figure.add_trace(
            go.Heatmap(
                z=shared / np.maximum(united, 1), x=names, y=names, zmin=0, zmax=1, colorscale=sequential(), xgap=1,
                ygap=1, texttemplate="%{z:.2f}", customdata=hover, showscale=col == 2,
                colorbar={"title": {"text": "Jaccard"}, "thickness": 12, "outlinewidth": 0},
                hovertemplate="%{customdata}<br>Jaccard %{z:.3f}<extra></extra>",
            ), row=1, col=col,
        )  # fmt: skip
    finish(
        figure, "Nodes that the circuits share", "Jaccard index: shared nodes over united nodes",
        x="emotion", height=440,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_yaxes(title_text="emotion", row=1, col=1)
    for text, x in (("Neurons", 0.0), ("Heads", 0.53)):
        facet(figure, text, x)
    return figure


def stability(frame: pd.DataFrame) -> go.Figure:
    """How much of a result stays when something is changed: the seed, half of the data, the wording.

    Args:
        frame: one row per change and emotion with ``setting, emotion, value, low, high``, values from 0 (nothing
            stays) to 1; a ``measure`` column names what agrees, e.g. ``"cosine"`` or ``"Jaccard"``.
    """
    table = need(frame, ("setting", "emotion", "value", "low", "high"), "stability")
    settings, emotions = list(dict.fromkeys(table["setting"])), list(dict.fromkeys(table["emotion"]))
    measure = plain(table["measure"].iloc[0]) if "measure" in table else "agreement"
    figure = go.Figure()
    for i, emotion in enumerate(emotions):
        part, look = table[table["emotion"] == emotion], style_of(emotion, emotions)
        offset = (i - (len(emotions) - 1) / 2) * 0.7 / max(1, len(emotions))
        figure.add_trace(
            go.Scatter(
                x=values(part["value"]), y=[settings.index(s) + offset for s in part["setting"]], mode="markers",
                name=plain(emotion), marker={"color": look.colour, "symbol": look.marker, "size": 9},
                error_x=bars(values(part["low"]), values(part["value"]), values(part["high"]))
                | {"color": look.colour, "width": 0},
                customdata=np.array([part["low"], part["high"]]).T, text=[plain(s) for s in part["setting"]],
                hovertemplate=(
                    f"<b>{plain(emotion)}</b>, %{{text}}<br>{measure} %{{x:.3f}} "
                    "[%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>"
                ),
            )
        )  # fmt: skip
    finish(
        figure, "What stays when the experiment changes", "points with 95 % intervals; 1 means nothing changed",
        x=measure, y="what was changed", height=max(320, 170 + 70 * len(settings)),
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=list(range(len(settings))), ticktext=[plain(s) for s in settings], range=[len(settings) - 0.5, -0.5]
    )
    figure.update_xaxes(range=[min(0.0, float(table["low"].min())), 1.02], showgrid=True)
    return figure


def _counts(circuits: Mapping[str, Circuit], kind: NodeKind) -> tuple[np.ndarray, np.ndarray]:
    """Shared and united nodes of every pair."""
    masks = np.stack([circuit.nodes.mask(kind).cpu().numpy().ravel() for circuit in circuits.values()]).astype(int)
    shared = masks @ masks.T
    sizes = masks.sum(axis=1)
    return shared, sizes[:, None] + sizes[None] - shared
