"""How well a ranking, a set of nodes or a set of edges agrees with the truth."""

from __future__ import annotations

from collections.abc import Collection

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.types import NodeKind


def average_precision(scores: Float[Tensor, " node"], truth: Bool[Tensor, " node"]) -> float:
    r"""Mean over the true nodes of the precision at their rank.

    .. math:: \frac{1}{|T|} \sum_{i \in T} |T_{\le i}| / r_i

    Ties fall to the lower index. 1 means that every true node outranks every other; NaN if nothing is true.
    """
    hits = truth[scores.argsort(descending=True, stable=True)].double()
    if not bool(hits.any()):
        return float("nan")
    ranks = torch.arange(1, len(hits) + 1, dtype=torch.float64)
    return float(((hits.cumsum(0) / ranks) * hits).sum() / hits.sum())


def recall(found: NodeSet, truth: NodeSet) -> float:
    """Share of the true nodes that were found."""
    return len(found & truth) / len(truth) if len(truth) else float("nan")


def precision(found: NodeSet, truth: NodeSet) -> float:
    """Share of what was found that is true."""
    return len(found & truth) / len(found) if len(found) else float("nan")


def edge_recall(found: Collection[tuple[object, object]], truth: Collection[tuple[object, object]]) -> float:
    """Share of the true edges that were found; edges are pairs of nodes or of their names."""
    names = {(str(a), str(b)) for a, b in found}
    true = {(str(a), str(b)) for a, b in truth}
    return len(names & true) / len(true) if true else float("nan")


def of_ranking(values: NodeValues, truth: NodeSet, kinds: tuple[NodeKind, ...]) -> dict[str, dict[str, float]]:
    """Recall at the true size, precision there, and average precision, by kind.

    With both kinds there also is ``"node"``: both kinds together, each ranked for itself, since their scores need
    not share a unit. At the true size precision equals recall.
    """
    result, hits, area = {}, 0.0, 0.0
    for kind in kinds:
        true = truth.only(kind)
        found = recall(values.top(len(true), kind), true)
        ap = average_precision(values.values(kind).flatten().float(), truth.mask(kind).flatten())
        result[kind] = {"recall": found, "precision": found, "average_precision": ap}
        hits, area = hits + found * len(true), area + ap * len(true)
    if len(kinds) == 2:
        whole = hits / len(truth)
        result["node"] = {"recall": whole, "precision": whole, "average_precision": area / len(truth)}
    return result


def of_set(found: NodeSet, truth: NodeSet) -> dict[str, dict[str, float]]:
    """Recall and precision of a set of nodes; there is no ranking to average over."""
    parts = {"node": (found, truth), "neuron": (found.only("neuron"), truth.only("neuron"))}
    parts["head"] = (found.only("head"), truth.only("head"))
    nan = float("nan")
    return {
        kind: {"recall": recall(f, t), "precision": precision(f, t), "average_precision": nan}
        for kind, (f, t) in parts.items()
    }
