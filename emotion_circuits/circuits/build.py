"""Building circuits: from scores and influence to nodes (method.md, stage 6)."""

from __future__ import annotations

from emotion_circuits.activations import Contrast
from emotion_circuits.attribution.influence import Influence
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.circuits.builders import Builder, Quota, describe
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.errors import EmotionError, NodeError
from emotion_circuits.types import KINDS, NodeKind


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
        size: nodes in the circuit; fewer where not that many of a kind were scored.
        method: how nodes are chosen; `Quota` with the reference's settings by default.
        contrast: what `Enhancement` adds; the one that came with ``scores`` by default.

    Raises:
        NodeError: the shares do not add up, the scores name no emotion, do not rank a kind that is asked for, or are
            not all finite.
        EmotionError: ``contrast`` or ``influence`` is not of the scores' emotion.
    """
    if scores.emotion is None:
        raise NodeError(
            "these scores are of no emotion; attribute a target that has one, e.g. directions.target('anger')"
        )
    if not 0 <= neurons <= 1 or abs(neurons + heads - 1) > 1e-9:
        raise NodeError(f"the shares of neurons ({neurons}) and heads ({heads}) must be in [0, 1] and add up to 1")
    method = method or Quota()
    if contrast is not None and contrast.emotion != scores.emotion:
        raise EmotionError(
            f"the contrast is of {contrast.emotion} and the scores are of {scores.emotion}; give the contrast of the "
            "same emotion"
        )
    n_heads, scored = round(heads * size), scores.nodes
    asked: dict[NodeKind, int] = {"head": n_heads, "neuron": size - n_heads}
    wanted: dict[NodeKind, int] = {kind: min(n, int(scored.mask(kind).sum())) for kind, n in asked.items()}
    unranked = [kind for kind, n in asked.items() if n and kind not in scores.kinds]
    if unranked:
        raise NodeError(
            f"{scores.method} does not score {unranked[0]}s; set {unranked[0]}s=0, or join two scores: "
            "direct.with_heads(head_importance)"
        )
    _check_finite(scores)
    weights = None if influence is None else influence.of(scores.emotion)
    return Circuit(
        emotion=scores.emotion,
        nodes=method(scores.ranking, weights, wanted),
        dims=scores.dims,
        scores=scores.values,
        influence=weights,
        contrast=contrast or scores.contrast,
        provenance={**scores.provenance, "builder": {**describe(method), "wanted": wanted}},
        flags=scores.flags,
    )


def _check_finite(scores: Attribution) -> None:
    for kind in KINDS:
        wrong = int((~scores.values.values(kind)[scores.nodes.mask(kind)].isfinite()).sum())
        if wrong:
            raise NodeError(
                f"the scores of {wrong} {kind}s are not finite, so they cannot be ranked; look for overflow in the "
                "model's dtype (load it in float32 or bfloat16), or leave these nodes out"
            )
