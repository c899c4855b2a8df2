"""Circuits as graphs and tables for other programs: GraphML, CSV, and the circuit JSON of the MIB benchmark.

The graph itself is `Circuit.to_networkx`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits import artefacts
from emotion_circuits.circuits.circuit import Circuit

if TYPE_CHECKING:
    import pandas as pd


def write_csv(circuit: Circuit, path: str | Path) -> None:
    """`Circuit.to_frame` as a CSV: ``node, kind, layer, index, score, norm``, best first."""
    artefacts.write_text(path, circuit.to_frame().to_csv(index=False))


def write_graphml(circuit: Circuit, path: str | Path, edges: pd.DataFrame | None = None) -> None:
    """`Circuit.to_networkx` as GraphML, which Gephi, Cytoscape and networkx read.

    Args:
        circuit: the circuit.
        path: the file.
        edges: measured edges, see `Circuit.to_networkx`.
    """
    import networkx

    graph = circuit.to_networkx(edges)
    # GraphML has no empty value: what is unknown is left out.
    for _, held in [*graph.nodes(data=True), *((None, data) for *_, data in graph.edges(data=True))]:
        for name in [k for k, v in held.items() if v is None or (isinstance(v, float) and math.isnan(v))]:
            del held[name]
    artefacts.write_text(path, "\n".join(networkx.generate_graphml(graph)) + "\n")


def write_mib_json(circuit: Circuit, path: str | Path) -> None:
    """The circuit in the JSON layout of the MIB benchmark's circuit track (Mueller et al., 2025, arXiv 2504.13151).

    An object with three entries:

    - ``cfg``: ``n_layers``, ``n_heads``, ``d_model``, ``parallel_attn_mlp``;
    - ``nodes``: ``"input"``, ``"a{layer}.h{head}"``, ``"m{layer}"`` and ``"logits"``, each with ``in_graph`` and, where
      it is known, ``score``;
    - ``edges``: ``"{from}->{to}"`` with ``in_graph`` and ``score``; into heads once for each of ``<q>``, ``<k>`` and
      ``<v>``. An edge is in the graph when both of its ends are, its score is the smaller of theirs.

    MIB knows no MLP neurons: ``m{layer}`` is in the graph when any of the layer's neurons is, with the sum of their
    scores, and the neurons are listed in the additional entry ``mlp_neurons``, which MIB's readers ignore. (Its own
    ``neurons`` are coordinates of a node's output, which is something else.)
    """
    nodes = _mib_nodes(circuit)
    dims = circuit.dims
    cfg = {
        "n_layers": dims.n_layers, "n_heads": dims.n_heads, "d_model": dims.d_model, "parallel_attn_mlp": False,
    }  # fmt: skip
    content = {"cfg": cfg, "nodes": nodes, "edges": _mib_edges(circuit, nodes)}
    artefacts.write_text(path, json.dumps(content, allow_nan=False))


def _mib_nodes(circuit: Circuit) -> dict[str, dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {"input": {"in_graph": True}}
    for layer in range(circuit.dims.n_layers):
        for head in range(circuit.dims.n_heads):
            inside = bool(circuit.nodes.heads[layer, head])
            nodes[f"a{layer}.h{head}"] = {"in_graph": inside} | _score(float(circuit.scores.heads[layer, head]))
        units = circuit.nodes.neurons[layer].nonzero().flatten()
        score = float(circuit.scores.neurons[layer, units].sum())
        nodes[f"m{layer}"] = {"in_graph": len(units) > 0} | _score(score) | {"mlp_neurons": units.tolist()}
    return nodes | {"logits": {"in_graph": True}}


def _score(value: float) -> dict[str, float]:
    return {"score": value} if math.isfinite(value) else {}


def _mib_edges(circuit: Circuit, nodes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    edges: dict[str, dict[str, Any]] = {}

    def join(source: str, to: str, ports: tuple[str, ...] = ("",)) -> None:
        inside = nodes[source]["in_graph"] and nodes[to]["in_graph"]
        score = min(nodes[end].get("score", 0.0) for end in (source, to))
        edges.update({f"{source}->{to}{port}": {"score": score, "in_graph": inside} for port in ports})

    before = ["input"]
    for layer in range(circuit.dims.n_layers):
        heads = [f"a{layer}.h{head}" for head in range(circuit.dims.n_heads)]
        for source in before:
            for head in heads:
                join(source, head, ("<q>", "<k>", "<v>"))
        for source in (*before, *heads):
            join(source, f"m{layer}")
        before += [*heads, f"m{layer}"]
    for source in before:
        join(source, "logits")
    return edges
