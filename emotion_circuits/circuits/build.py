"""Building circuits: from scores and influence to nodes (method.md, stage 6)."""

from __future__ import annotations

from emotion_circuits.activations import Contrast
from emotion_circuits.attribution.influence import Influence
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.circuits.builders import Builder, Quota, describe
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.errors import NodeError
from emotion_circuits.types import NodeKind


def build_circuit(
    scores: Attribution,
    influence: Influence | None = None,
    *,
    neurons: float = 0.7,
    heads: float = 0.3,
    size: int = 560,
    method: Builder | None = None,
    contrast: Contrast | None = None,
) -> Circuit:
    """A circuit of one emotion.

    Args:
        scores: ranks the nodes.
        influence: of every sublayer; `Quota` gives every layer the same weight without it.
        neurons: share of ``size`` given to neurons.
        heads: share given to heads.
        size: nodes in the circuit; fewer where the model has not that many of a kind.
        method: how nodes are chosen; `Quota` with the reference's settings by default.
        contrast: what `Enhancement` adds; the one that came with ``scores`` by default.

    Raises:
        NodeError: the shares do not add up, the scores name no emotion, or do not rank a kind that is asked for.
    """
    if scores.emotion is None:
        raise NodeError(
            "these scores are of no emotion; attribute a target that has one, e.g. directions.target('anger')"
        )
    if not 0 <= neurons <= 1 or abs(neurons + heads - 1) > 1e-9:
        raise NodeError(f"the shares of neurons ({neurons}) and heads ({heads}) must be in [0, 1] and add up to 1")
    method = method or Quota()
    n_heads = round(heads * size)
    wanted: dict[NodeKind, int] = {
        "head": min(n_heads, scores.values.heads.numel()),
        "neuron": min(size - n_heads, scores.values.neurons.numel()),
    }
    unranked = [kind for kind, n in wanted.items() if n and kind not in scores.kinds]
    if unranked:
        raise NodeError(
            f"{scores.method} does not score {unranked[0]}s; set {unranked[0]}s=0, or join two scores: "
            "direct.with_heads(head_importance)"
        )
    weights = None if influence is None else influence.of(scores.emotion)
    return Circuit(
        emotion=scores.emotion,
        nodes=method(scores.values, weights, wanted),
        dims=scores.dims,
        scores=scores.values,
        influence=weights,
        contrast=contrast or scores.contrast,
        provenance={**scores.provenance, "builder": {**describe(method), "wanted": wanted}},
        flags=scores.flags,
    )
