"""`Circuit`: a set of nodes that is claimed to make an emotion, with the evidence attached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from emotion_circuits import artefacts
from emotion_circuits.activations import Activations, Contrast
from emotion_circuits.checked import build, parts
from emotion_circuits.circuits import hub
from emotion_circuits.circuits.matching import check_match
from emotion_circuits.directions.quality import flag_note
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.types import KINDS, ModelDims

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd

    from emotion_circuits.circuits.metrics import CircuitScore


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
        flags: why the emotion's direction is not to be trusted, if it failed a test of its own reliability.
    """

    emotion: str
    nodes: NodeSet
    dims: ModelDims
    scores: NodeValues
    influence: Float[Tensor, "2 layer"] | None = None
    contrast: Contrast | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

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
            "flags": self.flags,
        }  # fmt: skip
        artefacts.save(path, "circuit", tensors, meta)

    @classmethod
    def load(cls, path: str | Path, model: HookedModel | None = None, *, allow_mismatch: bool = False) -> Circuit:
        """Read what `save` wrote.

        Args:
            path: the file.
            model: when given, the circuit must be of this model, see `check`.
            allow_mismatch: accept a model of the same sizes that is not the one that the circuit was found in.

        Raises:
            ArtefactError: the file is damaged, something else, or of another model.
        """
        tensors, meta = artefacts.load(path, "circuit")
        emotion, dims, baseline, provenance = (
            artefacts.field(meta, name, path) for name in ("emotion", "dims", "baseline", "provenance")
        )
        dims = build(ModelDims, path, dims)
        sizes = {"layer": dims.n_layers, "neuron": dims.d_mlp, "head": dims.n_heads}
        contrast = None
        if baseline is not None:
            phases = {phase: parts(phase, tensors) for phase in ("prompt", "reply")}
            held = {p: build(Activations, path, named, **sizes) for p, named in phases.items() if named}
            contrast = build(Contrast, path, {"emotion": emotion, "baseline": baseline, **held})
        held = {
            "emotion": emotion, "dims": dims, "contrast": contrast, "provenance": provenance,
            "nodes": build(NodeSet, path, parts("nodes", tensors), **sizes),
            "scores": build(NodeValues, path, parts("scores", tensors), **sizes),
            "influence": tensors.get("influence"),
            "flags": meta.get("flags", ()),  # files of earlier versions have none
        }  # fmt: skip
        circuit = build(cls, path, held, **sizes)
        if model is not None:
            circuit.check(model, what=str(path), allow_mismatch=allow_mismatch)
        return circuit

    def push_to_hub(
        self, repo: str, scores: Sequence[CircuitScore] = (), *, private: bool | None = None,
        revision: str | None = None, token: str | None = None, message: str | None = None,
    ) -> str:  # fmt: skip
        """Publish the circuit on the Hugging Face hub, with a model card; the repository is made if it is not there.

        Args:
            repo: ``"owner/name"``.
            scores: figures for the card, from `faithfulness` and its like.
            private: of a new repository; the owner's default where it is None.
            revision: branch to write to, made if it is not there; the main one by default.
            token: of an account that may write there; the one of ``hf auth login`` by default.
            message: of the commit.

        Returns:
            The commit's address.

        Raises:
            ArtefactError: the hub cannot be reached, or refuses.
        """
        return hub.push(self, repo, scores, private=private, revision=revision, token=token, message=message)

    @classmethod
    def from_hub(
        cls, repo: str, revision: str | None = None, *, model: HookedModel | None = None, token: str | None = None,
        allow_mismatch: bool = False,
    ) -> Circuit:  # fmt: skip
        """A circuit that `push_to_hub` published; ``provenance["hub"]`` names repository and commit.

        Args:
            repo: ``"owner/name"``.
            revision: branch, tag or commit.
            model: when given, the circuit must be of this model, see `check`.
            token: for private repositories.
            allow_mismatch: see `load`.

        Raises:
            ArtefactError: the hub cannot be reached, there is no such circuit, or it is damaged or of another model.
        """
        path = hub.pull(repo, revision, token)
        circuit = cls.load(path, model, allow_mismatch=allow_mismatch)
        source = {"repo": repo, "commit": path.parent.name}
        return replace(circuit, provenance={**circuit.provenance, "hub": source})

    def check(self, model: HookedModel, *, what: str = "this", allow_mismatch: bool = False) -> None:
        """Raise an `ArtefactError`, with the reason, unless this is a circuit of ``model``.

        Args:
            model: must have the circuit's sizes, and the weights (or, where these are not known, the name) in its
                provenance.
            what: what the message calls the circuit.
            allow_mismatch: accept other weights of the same sizes.
        """
        check_match(self.dims, self.provenance, model, what, allow_mismatch=allow_mismatch)

    def __repr__(self) -> str:
        return (
            f"Circuit({self.emotion}: {self.nodes.n_neurons} neurons, {self.nodes.n_heads} heads, "
            f"{100 * self.share:.2f} % of the model's nodes{flag_note(self.flags)})"
        )


def _sublayer(layer: int, mlp: bool) -> str:
    return f"L{layer} {'mlp' if mlp else 'attention'}"
