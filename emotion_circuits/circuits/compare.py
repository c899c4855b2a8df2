r"""Comparing circuits, and mixing them.

`compare_circuits`  how far two circuits are the same: overlap (Jaccard index :math:`|A \cap B| / |A \cup B|`) of each
                    kind and in each layer, the shared core, and the rank correlation of their scores.
`overlap`           the same index between all pairs of several circuits. The paper reports means of 0.056 for neurons
                    and 0.454 for heads between emotions.
`mix`               one circuit of several, each with its weight: a blend of emotions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.activations import Activations, Contrast
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.matching import IDENTITY
from emotion_circuits.errors import EmotionError, NodeError
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.types import KINDS, NodeKind

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class CircuitComparison:
    """How far two circuits are the same.

    Attributes:
        names: the two circuits' emotions.
        core: nodes that both have.
        first_only: nodes that only the first has.
        second_only: nodes that only the second has.
        rank_correlation: Spearman's, of the scores of all nodes of a kind; NaN where one of them is constant.
    """

    names: tuple[str, str]
    core: NodeSet
    first_only: NodeSet
    second_only: NodeSet
    rank_correlation: Mapping[NodeKind, float]

    def jaccard(self, kind: NodeKind | None = None) -> float:
        """Nodes that both have, as a share of those that any has; of one kind or of all. NaN if there are none."""
        either = self.core | self.first_only | self.second_only
        counts = [len(held) if kind is None else int(held.mask(kind).sum()) for held in (self.core, either)]
        return counts[0] / counts[1] if counts[1] else float("nan")

    def by_layer(self, kind: NodeKind) -> Float[Tensor, " layer"]:
        """`jaccard` of one kind in each layer; NaN where neither circuit has a node of it."""
        shared = self.core.mask(kind).sum(dim=1)
        return shared / (self.core | self.first_only | self.second_only).mask(kind).sum(dim=1)

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and kind, then one per kind: ``layer, kind, shared, first_only, second_only, jaccard``."""
        import pandas as pd

        held = (self.core, self.first_only, self.second_only)
        rows = []
        for kind in KINDS:
            for layer, share in enumerate(self.by_layer(kind).tolist()):
                rows.append([layer, kind, *(int(nodes.mask(kind)[layer].sum()) for nodes in held), share])
        for kind in KINDS:
            rows.append([None, kind, *(int(nodes.mask(kind).sum()) for nodes in held), self.jaccard(kind)])
        table = pd.DataFrame(rows, columns=["layer", "kind", "shared", "first_only", "second_only", "jaccard"])
        return table.astype({"layer": "Int64"})

    def __repr__(self) -> str:
        parts = [f"{kind}s {self.jaccard(kind):.3f}" for kind in KINDS]
        return f"CircuitComparison({' / '.join(self.names)}: {len(self.core)} shared nodes, Jaccard {', '.join(parts)})"


def compare_circuits(a: Circuit, b: Circuit) -> CircuitComparison:
    """Compare two circuits of one model.

    Args:
        a: one of them.
        b: the other.

    Raises:
        NodeError: they are of models of different shapes.
    """
    correlation: dict[NodeKind, float] = {
        kind: _spearman(a.scores.values(kind), b.scores.values(kind)) for kind in _same_model([a, b])
    }
    return CircuitComparison(
        (a.emotion, b.emotion), a.nodes & b.nodes, a.nodes - b.nodes, b.nodes - a.nodes, correlation
    )


def overlap(circuits: Mapping[str, Circuit], kind: NodeKind) -> pd.DataFrame:
    """Jaccard index between all pairs of circuits, for nodes of one kind; names are rows and columns."""
    import pandas as pd

    names = list(circuits)
    held = [[compare_circuits(circuits[a], circuits[b]).jaccard(kind) for b in names] for a in names]
    return pd.DataFrame(held, index=names, columns=names)


def mix(circuits: Sequence[Circuit], weights: Sequence[float | int]) -> Circuit:
    """A blend of emotions: all circuits' nodes, each adding its own contrast times its weight.

    What is added to a node is the weighted sum over the circuits *that have the node*, so that ``Enhancement`` of the
    mixture equals the circuits' own enhancements, with the weights as strengths, added up.

    Args:
        circuits: of one model; all with a contrast of one baseline, or all without.
        weights: one per circuit; negative ones suppress.

    Raises:
        NodeError: the circuits are of models of different shapes, or the weights do not fit them.
        EmotionError: some have a contrast and some have none, or baselines differ.
    """
    if not circuits or len(circuits) != len(weights):
        raise NodeError(f"cannot mix {len(circuits)} circuits with {len(weights)} weights; give one weight per circuit")
    _same_model(circuits)
    nodes = NodeSet.empty(circuits[0])
    for circuit in circuits:
        nodes = nodes | circuit.nodes
    pairs = list(zip(circuits, weights, strict=True))
    influences = [c.influence * w for c, w in pairs if c.influence is not None]
    name = " + ".join(f"{weight:g} {circuit.emotion}" for circuit, weight in pairs)
    return Circuit(
        emotion=name,
        nodes=nodes,
        dims=circuits[0].dims,
        scores=NodeValues(*(_sum([w * c.scores.values(kind) for c, w in pairs]) for kind in KINDS)),
        influence=_sum(influences) if len(influences) == len(pairs) else None,
        contrast=_mixed_contrast(pairs, name),
        provenance={
            **_shared([c.provenance for c in circuits]),
            "mixture": [{"emotion": c.emotion, "weight": w, **c.provenance} for c, w in pairs],
        },
        flags=tuple(f"{circuit.emotion}, {flag}" for circuit in circuits for flag in circuit.flags),
    )


def _mixed_contrast(pairs: Sequence[tuple[Circuit, float | int]], name: str) -> Contrast | None:
    contrasts = [circuit.contrast for circuit, _ in pairs]
    held = [contrast for contrast in contrasts if contrast is not None]
    if not held:
        return None
    baselines = {contrast.baseline for contrast in held}
    if len(held) < len(contrasts) or len(baselines) > 1:
        raise EmotionError(
            f"cannot mix contrasts: {len(held)} of {len(contrasts)} circuits have one, with baselines "
            f"{', '.join(sorted(baselines))}; give every circuit one of the same baseline (circuit.with_contrast)"
        )
    prompt = _total([_own(c, contrast.prompt) * w for (c, w), contrast in zip(pairs, held, strict=True)])
    if all(contrast.reply is None for contrast in held):
        return Contrast(name, held[0].baseline, prompt)
    parts = [contrast.prompt if contrast.reply is None else contrast.reply for contrast in held]
    reply = _total([_own(c, part) * w for (c, w), part in zip(pairs, parts, strict=True)])
    return Contrast(name, held[0].baseline, prompt, reply)


def _shared(provenances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What they all say of the model."""
    first, *others = provenances
    return {k: first[k] for k in IDENTITY if k in first and all(other.get(k) == first[k] for other in others)}


def _own(circuit: Circuit, held: Activations) -> Activations:
    """The part of some activations at a circuit's nodes; zero elsewhere."""
    nodes = circuit.nodes
    neurons = None if held.neurons is None else held.neurons * nodes.neurons
    return Activations(neurons, None if held.heads is None else held.heads * nodes.heads[..., None])


def _total(parts: Sequence[Activations]) -> Activations:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(dim=0)


def _same_model(circuits: Sequence[Circuit]) -> tuple[NodeKind, NodeKind]:
    first = circuits[0]
    for other in circuits[1:]:
        if other.dims != first.dims:
            raise NodeError(
                f"the circuits of {first.emotion!r} and {other.emotion!r} are of different models: {first.dims} and "
                f"{other.dims}; compare and mix circuits of one model"
            )
    return KINDS


def _spearman(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of the ranks, ties sharing their mean rank."""
    ranks = torch.stack([_ranks(a.flatten()), _ranks(b.flatten())])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: Tensor) -> Float[Tensor, " node"]:
    _, place, counts = values.double().unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[place]
