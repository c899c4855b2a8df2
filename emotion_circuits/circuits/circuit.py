"""`Circuit`: a set of nodes that is claimed to make an emotion, with the evidence attached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import artefacts
from emotion_circuits.activations import Activations, Contrast
from emotion_circuits.errors import ArtefactError
from emotion_circuits.nodes import HasDims, NodeSet, NodeValues
from emotion_circuits.types import ModelDims, NodeKind

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd


KINDS: tuple[NodeKind, ...] = ("neuron", "head")


@dataclass(frozen=True, eq=False)
class Circuit:
    """Nodes, their scores, what the emotion changes in them, and how much each sublayer matters.

    Attributes:
        emotion: the emotion.
        nodes: the neurons and heads.
        dims: sizes of the model that it belongs to.
        scores: every node's score, from which these were chosen.
        influence: influence of each sublayer (row 0 attention, row 1 MLP), or None.
        contrast: what `Enhancement` adds, or None.
        provenance: model, data, method and settings.
    """

    emotion: str
    nodes: NodeSet
    dims: ModelDims
    scores: NodeValues
    influence: Float[Tensor, "2 layer"] | None = None
    contrast: Contrast | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Share of the model's nodes that are in the circuit."""
        return len(self.nodes) / self.dims.n_nodes

    def with_contrast(self, contrast: Contrast) -> Circuit:
        """The same nodes with another contrast to add."""
        return replace(self, contrast=contrast)

    def with_nodes(self, nodes: NodeSet) -> Circuit:
        """The same scores and contrast on other nodes."""
        return replace(self, nodes=nodes)

    def random_like(self, seed: int = 0) -> Circuit:
        """A control: as many other nodes of each kind, with their own part of the same contrast.

        They lie in the circuit's own layers, unless a layer has not enough nodes of a kind outside the circuit; then
        that kind is drawn from the whole model.
        """
        others, drawn = ~self.nodes, self.nodes - self.nodes
        for kind in KINDS:
            mine = self.nodes.only(kind)
            room = others.mask(kind).sum(dim=1) >= mine.mask(kind).sum(dim=1)
            drawn = drawn | mine.random_like(seed, within=others, match_layers=bool(room.all()))
        return self.with_nodes(drawn)

    def to_frame(self) -> pd.DataFrame:
        """One row per node, best first: ``node, kind, layer, index, score, norm`` (norm of what is added there)."""
        import pandas as pd

        rows = []
        for node in self.nodes:
            values = self.scores.values(node.kind)
            row = {"node": str(node), "kind": node.kind, "layer": node.layer, "index": node.index}
            row["score"] = float(values[node.layer, node.index])
            row["norm"] = self._norm(node.kind, node.layer, node.index)
            rows.append(row)
        columns = ["node", "kind", "layer", "index", "score", "norm"]
        table = pd.DataFrame(rows, columns=columns)
        return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)

    def _norm(self, kind: str, layer: int, index: int) -> float:
        if self.contrast is None:
            return float("nan")
        return float(self.contrast.prompt.at(kind, layer)[index].norm())

    def summary(self) -> str:
        """A few lines: size, where it lies, the best nodes."""
        layers = [
            f"  layer {l}: {int(n.sum())} neurons, {int(h.sum())} heads"
            for l, (n, h) in enumerate(zip(self.nodes.neurons, self.nodes.heads, strict=True))
            if n.any() or h.any()
        ]
        best = ", ".join(self.to_frame()["node"].head(8))
        return "\n".join([repr(self), *layers, f"  best: {best}"])

    def to_networkx(self, edges: pd.DataFrame | None = None) -> nx.DiGraph:
        """The circuit as a directed graph.

        Vertices are the circuit's nodes (``kind, layer, index, score, norm``) and the sublayers that they sit in, such
        as ``"L3 attention"`` (``kind="sublayer", layer, influence``). Edges are ``relation="member"`` from a node to
        its sublayer, ``relation="residual"`` from a sublayer to the next one of these, and measured ones.

        Args:
            edges: measured edges, one row each with ``source, target, effect``; they get ``relation="direct"`` and
                ``weight=effect``.
        """
        import networkx as nx

        graph = nx.DiGraph(emotion=self.emotion, model=str(self.provenance.get("model", "")))
        for row in self.to_frame().to_dict("records"):
            name, held = row.pop("node"), {**row, "layer": int(row["layer"]), "index": int(row["index"])}
            graph.add_node(name, **held)
            graph.add_edge(name, _sublayer(held["layer"], row["kind"] == "neuron"), relation="member")
        chain = sorted({(node.layer, node.kind == "neuron") for node in self.nodes})
        for layer, mlp in chain:
            influence = float("nan") if self.influence is None else float(self.influence[int(mlp), layer])
            graph.add_node(_sublayer(layer, mlp), kind="sublayer", layer=layer, influence=influence)
        for lower, upper in pairwise(chain):
            graph.add_edge(_sublayer(*lower), _sublayer(*upper), relation="residual")
        for row in [] if edges is None else edges.to_dict("records"):
            graph.add_edge(row["source"], row["target"], relation="direct", weight=float(row["effect"]))
        return graph

    def save(self, path: str | Path) -> None:
        """Write one file, tensors and provenance; loads in a process without the model."""
        tensors: dict[str, Tensor | None] = {
            "nodes.neurons": self.nodes.neurons, "nodes.heads": self.nodes.heads,
            "scores.neurons": self.scores.neurons, "scores.heads": self.scores.heads, "influence": self.influence,
        }  # fmt: skip
        baseline = None
        if self.contrast is not None:
            baseline = self.contrast.baseline
            for phase, held in (("prompt", self.contrast.prompt), ("reply", self.contrast.reply)):
                if held is not None:
                    tensors |= {f"{phase}.neurons": held.neurons, f"{phase}.heads": held.heads}
        meta = {
            "emotion": self.emotion, "dims": vars(self.dims), "baseline": baseline, "provenance": dict(self.provenance),
        }  # fmt: skip
        artefacts.save(path, "circuit", tensors, meta)

    @classmethod
    def load(cls, path: str | Path, model: HasDims | None = None) -> Circuit:
        """Read what `save` wrote.

        Args:
            path: the file.
            model: when given, the circuit must be of a model of the same shape.

        Raises:
            ArtefactError: the file is damaged, something else, or of another model.
        """
        tensors, meta = artefacts.load(path, "circuit")
        emotion, dims, baseline, provenance = (
            artefacts.field(meta, name, path) for name in ("emotion", "dims", "baseline", "provenance")
        )
        try:
            dims = ModelDims(**dims)
        except TypeError as error:
            raise ArtefactError(f"{path}: its model sizes are damaged ({error})") from error
        circuit = cls(
            emotion=emotion,
            nodes=NodeSet(*(artefacts.field(tensors, f"nodes.{kind}", path) for kind in ("neurons", "heads"))),
            dims=dims,
            scores=NodeValues(*(artefacts.field(tensors, f"scores.{kind}", path) for kind in ("neurons", "heads"))),
            influence=tensors.get("influence"),
            contrast=_contrast(emotion, baseline, tensors),
            provenance=provenance,
        )
        circuit.check(path, model)
        return circuit

    def check(self, path: str | Path, model: HasDims | None) -> None:
        """Raise an `ArtefactError` unless the tensors fit the sizes, and the sizes the model."""
        d = self.dims
        expected = ((d.n_layers, d.d_mlp), (d.n_layers, d.n_heads))
        given = (tuple(self.nodes.neurons.shape), tuple(self.nodes.heads.shape))
        if given != expected or self.nodes.neurons.dtype != torch.bool:
            raise ArtefactError(
                f"{path}: its nodes have shape {given}, but its model sizes say {expected}; it is damaged"
            )
        if model is not None and model.dims != d:
            raise ArtefactError(
                f"{path} is a circuit of {self.provenance.get('model', 'another model')} ({d}), which does not fit "
                f"this model ({model.dims})"
            )

    def __repr__(self) -> str:
        return (
            f"Circuit({self.emotion}: {self.nodes.n_neurons} neurons, {self.nodes.n_heads} heads, "
            f"{100 * self.share:.2f} % of the model's nodes)"
        )


def _sublayer(layer: int, mlp: bool) -> str:
    return f"L{layer} {'mlp' if mlp else 'attention'}"


def _contrast(emotion: str, baseline: Any, tensors: Mapping[str, Tensor]) -> Contrast | None:
    if baseline is None:
        return None
    parts = {
        phase: Activations(tensors.get(f"{phase}.neurons"), tensors.get(f"{phase}.heads"))
        for phase in ("prompt", "reply")
        if f"{phase}.neurons" in tensors
    }
    return Contrast(emotion, baseline, parts["prompt"], parts.get("reply")) if "prompt" in parts else None
