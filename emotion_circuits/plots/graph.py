"""The circuit, drawn: layers bottom to top, heads on the left, neurons on the right, size by score.

Heads stand at their index. Neurons stand by rank within their layer; when there are many, a layer's neurons are
drawn as one mark whose area is their summed score, and a button opens them. Edges, where given, follow the view: their
ends are nodes, a layer's neurons or heads, or the target, which then stands above the last layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.groups import TARGET
from emotion_circuits.nodes import Node
from emotion_circuits.plots.frames import need, traces
from emotion_circuits.plots.themes import LIGHT, faded, finish, plain, style_of

if TYPE_CHECKING:
    import pandas as pd

MANY_NEURONS = 150
"""Above this many neurons the figure opens with one mark per layer."""

_NEURONS_AT, _NEURONS_TO = 1.2, 3.0
_MAX_ROWS = 4


@dataclass(frozen=True)
class _Places:
    """Where each node stands, in the grouped and in the open view."""

    open: dict[str, tuple[float, float]]
    grouped: dict[str, tuple[float, float]]


def circuit_graph(circuit: Circuit, edges: pd.DataFrame | None = None) -> go.Figure:
    """The circuit as a graph over the model's layers.

    Args:
        circuit: what to draw.
        edges: from `emotion_circuits.circuit_edges`, or any table with ``source, target, effect`` whose ends are
            nodes (``"L3N10"``), groups (``"L3 neurons"``) or ``"target"``. Others are left out.

    Returns:
        A figure with the views "Neurons by layer" and "Every neuron".
    """
    table: Any = circuit.to_frame()
    colour = style_of(circuit.emotion).colour
    heads, neurons = (table[table["kind"] == kind] for kind in ("head", "neuron"))
    places = _places(circuit, table)
    grouped = len(neurons) > MANY_NEURONS
    figure = go.Figure()
    views: list[bool | None] = []  # for each trace: shown in the grouped view, in the open one, or (None) in both
    if edges is not None:
        given = need(edges, ("source", "target", "effect"), "circuit_graph")
        for view, held in ((True, places.grouped), (False, places.open)):
            drawn = _edges(given[given["source"].isin(held) & given["target"].isin(held)], held, colour)
            figure.add_traces(drawn)
            views += [view] * len(drawn)
        if TARGET in set(given["target"]):
            figure.add_trace(_target_mark(circuit, places))
            views.append(None)
    figure.add_trace(_marks(circuit, heads, places, "square", LIGHT.ink, "attention head"))
    figure.add_trace(_layer_marks(circuit, neurons, colour))
    figure.add_trace(_marks(circuit, neurons, places, "circle", colour, "MLP neuron"))
    views += [None, True, False]
    for trace, view in zip(traces(figure), views, strict=True):
        trace.visible = view is None or view == grouped
    return _finish(figure, circuit, views, grouped, edges=edges is not None)


def _places(circuit: Circuit, table: Any) -> _Places:
    n_heads, most = circuit.dims.n_heads, int(circuit.nodes.neurons.sum(dim=1).max()) if circuit.dims.n_layers else 0
    per_row = max(24, -(-most // _MAX_ROWS))
    counts = circuit.nodes.neurons.sum(dim=1).tolist()
    rank: dict[int, int] = {}
    opened, grouped = {}, {}
    for node, kind, layer, index in zip(table["node"], table["kind"], table["layer"], table["index"], strict=True):
        if kind == "head":
            opened[node] = grouped[node] = ((index + 0.5) / n_heads, float(layer))
            continue
        i = rank[layer] = rank.get(layer, -1) + 1
        n_rows = -(-counts[layer] // per_row)
        column, row = (i % per_row + 0.5) / per_row, (i // per_row) - (n_rows - 1) / 2
        opened[node] = (_NEURONS_AT + column * (_NEURONS_TO - _NEURONS_AT), layer - 0.2 * row)
        grouped[node] = (_NEURONS_AT + 0.25, float(layer))
    for held in (opened, grouped):
        held |= _group_places(held) | {TARGET: ((_NEURONS_TO + 0.5) / 2, circuit.dims.n_layers - 0.2)}
    return _Places(opened, grouped)


def _group_places(nodes: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Where the groups of a layer stand: in the middle of their nodes."""
    members: dict[str, list[tuple[float, float]]] = {}
    for name, place in nodes.items():
        node = Node.parse(name)
        for group in ("neurons", "mlp") if node.kind == "neuron" else ("attention",):
            members.setdefault(f"L{node.layer} {group}", []).append(place)
    return {name: (sum(x for x, _ in held) / len(held), sum(y for _, y in held) / len(held))
            for name, held in members.items()}  # fmt: skip


def _target_mark(circuit: Circuit, places: _Places) -> go.Scatter:
    x, y = places.open[TARGET]
    return go.Scatter(
        x=[x], y=[y], mode="markers+text", text=["target"], textposition="middle right", name="target",
        showlegend=False, marker={"symbol": "diamond", "size": 11, "color": LIGHT.ink},
        hovertemplate=f"what is measured: {plain(circuit.emotion)}<extra></extra>",
    )  # fmt: skip


def _marks(circuit: Circuit, table: Any, places: _Places, symbol: str, colour: str, what: str) -> go.Scatter:
    score = table["score"].clip(lower=0).fillna(0).to_numpy(dtype=float)  # published circuits lack some
    biggest = 18 if symbol == "square" else 16
    row = 0 if what == "attention head" else 1
    hover = [
        f"<b>{name}</b>, {what}<br>score {value:.4g}{_influence(circuit, row, layer)}"
        for name, value, layer in zip(table["node"], table["score"], table["layer"], strict=True)
    ]
    points = [places.open[name] for name in table["node"]]
    return go.Scatter(
        x=[p[0] for p in points], y=[p[1] for p in points], mode="markers", name=f"{what}s", hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
        marker={
            "symbol": symbol, "color": faded(colour, 0.8), "size": _sizes(score, 5, biggest),
            "line": {"color": LIGHT.surface, "width": 0.8},
        },
    )  # fmt: skip


def _layer_marks(circuit: Circuit, neurons: Any, colour: str) -> go.Scatter:
    """One mark per layer with neurons in it."""
    layers, totals, hover, labels = [], [], [], []
    for layer, part in neurons.groupby("layer"):
        best = part.head(8)
        named = "<br>".join(f"{n} {s:.3g}" for n, s in zip(best["node"], best["score"], strict=True))
        more = f"<br>and {len(part) - len(best)} more" if len(part) > len(best) else ""
        layers.append(int(layer))
        totals.append(float(part["score"].clip(lower=0).sum()))
        labels.append(f"   {len(part)} neuron{'s' if len(part) > 1 else ''}, best {best['node'].iloc[0]}")
        hover.append(
            f"<b>Layer {layer}</b>: {len(part)} neurons<br>summed score {totals[-1]:.4g}"
            f"{_influence(circuit, 1, int(layer))}<br>{named}{more}"
        )
    sizes = _sizes(np.array(totals), 6, 30)
    return go.Scatter(
        x=[_NEURONS_AT + 0.25] * len(layers), y=layers, mode="markers+text", name="MLP neurons", text=labels,
        textposition="middle right", textfont={"size": 12, "color": LIGHT.muted}, hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
        marker={"color": faded(colour, 0.85), "size": sizes, "line": {"color": LIGHT.surface, "width": 1}},
    )  # fmt: skip


def _edges(edges: Any, places: dict[str, tuple[float, float]], colour: str) -> list[go.Scatter]:
    """Lines in four widths, solid where the target falls and dotted where it rises."""
    merged: dict[tuple, float] = {}
    for source, target, effect in zip(edges["source"], edges["target"], edges["effect"], strict=True):
        key = (places[source], places[target])
        if key[0] != key[1]:
            merged[key] = merged.get(key, 0.0) + float(effect)
    largest = max((abs(w) for w in merged.values()), default=1.0) or 1.0
    traces = []
    for falls in (True, False):
        for step in range(1, 5):
            chosen = [
                (a, b) for (a, b), w in merged.items()
                if (w < 0) == falls and min(4, 1 + int(4 * abs(w) / largest)) == step
            ]  # fmt: skip
            if chosen:
                traces.append(
                    go.Scatter(
                        x=[x for a, b in chosen for x in (a[0], b[0], None)],
                        y=[y for a, b in chosen for y in (a[1], b[1], None)], mode="lines", hoverinfo="skip",
                        showlegend=False,
                        line={
                            "width": 0.6 * step, "dash": "solid" if falls else "dot",
                            "color": faded(colour if falls else LIGHT.muted, 0.15 + 0.15 * step),
                        },
                    )
                )  # fmt: skip
    return traces


def _finish(figure: go.Figure, circuit: Circuit, views: list[bool | None], grouped: bool, *, edges: bool) -> go.Figure:
    n_layers = circuit.dims.n_layers
    lines = "; lines: effect of a path (dotted: upwards)" if edges else ""
    finish(
        figure, f"The circuit of {plain(circuit.emotion)}",
        f"{circuit.nodes.n_neurons} neurons and {_heads(circuit.nodes.n_heads)}, {100 * circuit.share:.2g} % of the "
        f"model’s nodes; area: score{lines}",
        x="heads by index, neurons by rank of score within the layer", y="layer",
        height=max(380, 190 + n_layers * (58 if n_layers <= 8 else 30)),
    )  # fmt: skip
    every = max(1, -(-circuit.dims.n_heads // 12))
    marked = list(range(0, circuit.dims.n_heads, every))
    figure.update_xaxes(
        range=[-0.03, _NEURONS_TO + 0.05], ticks="", showline=False, ticktext=[f"H{i}" for i in marked],
        tickvals=[(i + 0.5) / circuit.dims.n_heads for i in marked],
    )  # fmt: skip
    top = n_layers + 0.2 if edges else n_layers - 0.3
    figure.update_yaxes(
        range=[-0.7, top], dtick=max(1, -(-n_layers // 16)), showgrid=True, showline=False, ticks=""
    )  # fmt: skip
    buttons = [_button(name, views, wanted) for name, wanted in (("Neurons by layer", True), ("Every neuron", False))]
    figure.update_layout(
        legend={"itemsizing": "constant"},
        updatemenus=[{
            "type": "buttons", "direction": "right", "buttons": buttons, "active": 0 if grouped else 1, "x": 1,
            "xanchor": "right", "y": 1.0, "yanchor": "bottom", "bgcolor": LIGHT.surface, "bordercolor": LIGHT.grid,
            "font": {"size": 12}, "pad": {"b": 4},
        }],
    )  # fmt: skip
    return figure


def _button(name: str, views: list[bool | None], wanted: bool) -> dict[str, Any]:
    shown = [view is None or view == wanted for view in views]
    return {"label": name, "method": "update", "args": [{"visible": shown}]}


def _heads(n: int) -> str:
    return f"{n} head{'' if n == 1 else 's'}"


def _sizes(score: np.ndarray, least: int, most: int) -> list[float]:
    """Diameters whose squares are proportional to the scores, but never too small to see."""
    top = float(score.max(initial=0.0)) or 1.0
    return np.maximum(least, most * np.sqrt(score / top)).round(2).tolist()


def _influence(circuit: Circuit, row: int, layer: int) -> str:
    if circuit.influence is None:
        return ""
    return f"<br>influence of its sublayer {float(circuit.influence[row, layer]):.3f}"
