"""Figures of agreement: between circuits of different emotions, and of a circuit with itself on other data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.stability import Stability
from emotion_circuits.errors import DataError
from emotion_circuits.plots.frames import cell_text, facet, matrix_height, need, need_finite, values
from emotion_circuits.plots.themes import LIGHT, diverging, finish, plain, sequential, style_of
from emotion_circuits.types import KINDS, NodeKind

if TYPE_CHECKING:
    import pandas as pd


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
    for col, kind in enumerate(KINDS, 1):
        shared, united = _counts(circuits, kind)
        hover = [[f"{a} and {b}: {shared[i, j]} of {united[i, j]} {kind}s shared" for j, b in enumerate(names)]
                 for i, a in enumerate(names)]  # fmt: skip
        figure.add_trace(
            go.Heatmap(
                z=shared / np.maximum(united, 1), x=names, y=names, zmin=0, zmax=1, colorscale=sequential(), xgap=1,
                ygap=1, texttemplate=cell_text(len(names)), customdata=hover, showscale=col == 2,
                colorbar={"title": {"text": "Jaccard"}, "thickness": 12, "outlinewidth": 0},
                hovertemplate="%{customdata}<br>Jaccard %{z:.3f}<extra></extra>",
            ), row=1, col=col,
        )  # fmt: skip
    finish(
        figure, "Nodes that the circuits share", "Jaccard index: shared nodes over united nodes",
        x="emotion", height=matrix_height(len(names), 440),
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_yaxes(title_text="emotion", row=1, col=1)
    for text, x in (("Neurons", 0.0), ("Heads", 0.53)):
        facet(figure, text, x)
    return figure


def specificity(frame: pd.DataFrame) -> go.Figure:
    """What the ablation of each circuit takes from each emotion's target.

    Args:
        frame: from `emotion_circuits.specificity`; pairs without a row stay blank.

    Raises:
        DataError: a pair has several rows, or no row has a number.
    """
    table = need(frame, ("circuit", "target", "removed", "low", "high", "ablation"), "specificity")
    circuits, targets = (list(dict.fromkeys(table[column])) for column in ("circuit", "target"))
    need_finite(table, ("removed",), "specificity")
    held = table.set_index(["circuit", "target"])
    if held.index.has_duplicates:
        circuit, target = held.index[held.index.duplicated()][0]
        raise DataError(
            f"specificity got several rows for the circuit of {circuit!r} and the target {target!r}; give the rows of "
            "one ablation"
        )
    removed, low, high = (
        held[column].unstack("target").reindex(index=circuits, columns=targets).to_numpy(dtype=float)
        for column in ("removed", "low", "high")
    )
    figure = go.Figure(
        go.Heatmap(
            z=removed, x=[plain(t) for t in targets], y=[plain(c) for c in circuits], zmid=0, xgap=1, ygap=1,
            colorscale=diverging(), texttemplate=cell_text(max(removed.shape)), hoverongaps=False,
            customdata=np.stack([low, high], axis=-1),
            colorbar={"title": {"text": "removed"}, "thickness": 12, "outlinewidth": 0},
            hovertemplate=(
                "without the circuit of %{y}, %{x} loses %{z:.3f} "
                "[%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>"
            ),
        )
    )  # fmt: skip
    finish(
        figure, "What each circuit is needed for", f"share of the target that goes, under {table['ablation'].iloc[0]}",
        x="target", y="circuit that is taken away", height=matrix_height(len(circuits), 460),
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", scaleanchor="x", constrain="domain")
    figure.update_xaxes(constrain="domain")
    return figure


def stability(found: Mapping[str, Stability]) -> go.Figure:
    """How often each node of a circuit is chosen again, on resamples of the scenarios.

    Args:
        found: by emotion, from `emotion_circuits.stability`.

    Raises:
        DataError: nothing was given.
    """
    if not found:
        raise DataError("stability got no result; there is nothing to draw")
    figure = go.Figure()
    for emotion, result in found.items():
        table: Any = result.to_frame()
        table = table[table["in_circuit"]].sort_values("frequency", ascending=False, kind="stable")
        look = style_of(emotion, list(found))
        figure.add_trace(
            go.Scatter(
                x=list(range(1, len(table) + 1)), y=[100 * f for f in table["frequency"]], name=plain(emotion),
                mode="lines", line={"color": look.colour, "dash": look.dash, "width": 2, "shape": "hv"},
                text=values(table["node"]), customdata=[100 * f for f in table["half_frequency"]],
                hovertemplate=(
                    f"<b>%{{text}}</b>, {plain(emotion)}<br>in %{{y:.0f}} % of the resamples, %{{customdata:.0f}} % of "
                    "the halves<extra></extra>"
                ),
            )
        )  # fmt: skip
    first = next(iter(found.values()))
    figure.add_hline(y=90, line={"color": LIGHT.muted, "width": 1, "dash": "dot"}, layer="below")
    finish(
        figure, "Would other scenarios have given the same circuit?",
        f"share of {first.n_draws} resamples of {first.n_scenarios} scenarios that chose each node; dotted: 90 %",
        x="nodes of the circuit, most stable first", y="resamples, %", height=420,
    )  # fmt: skip
    figure.update_yaxes(range=[0, 103], showgrid=True)
    return figure


def _counts(circuits: Mapping[str, Circuit], kind: NodeKind) -> tuple[np.ndarray, np.ndarray]:
    """Shared and united nodes of every pair."""
    masks = np.stack([circuit.nodes.mask(kind).cpu().numpy().ravel() for circuit in circuits.values()]).astype(int)
    shared = masks @ masks.T
    sizes = masks.sum(axis=1)
    return shared, sizes[:, None] + sizes[None] - shared
