r"""Agreement of two attributions: whether to trust an approximation.

Spearman's rank correlation :math:`\rho` (ties share their mean rank) and Pearson's r over the nodes that both scored,
and for each k the share of the one's top k that is among the other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.attribution.result import Attribution
from emotion_circuits.errors import NodeError
from emotion_circuits.types import NodeKind


@dataclass(frozen=True)
class Agreement:
    """How well two attributions agree.

    Attributes:
        methods: their names.
        spearman: rank correlation.
        pearson: linear correlation.
        overlap: for each k the share of the top k that both name; k above ``n_nodes`` is left out.
        chance: the overlap that two random rankings would have on average.
        n_nodes: nodes compared.
    """

    methods: tuple[str, str]
    spearman: float
    pearson: float
    overlap: dict[int, float]
    chance: dict[int, float]
    n_nodes: int

    def __repr__(self) -> str:
        shares = ", ".join(f"top {k}: {share:.0%} (chance {self.chance[k]:.0%})" for k, share in self.overlap.items())
        return (
            f"Agreement({self.methods[0]} with {self.methods[1]}: Spearman {self.spearman:.3f}, "
            f"Pearson {self.pearson:.3f}, {shares}; {self.n_nodes} nodes)"
        )


def compare_attributions(
    first: Attribution, second: Attribution, *, k: Sequence[int] = (10, 50), kind: NodeKind | None = None
) -> Agreement:
    """How far two methods rank the same nodes in the same way, e.g. `AttributionPatching` and `ActivationPatching`.

    Args:
        first: one attribution.
        second: another one of the same model.
        k: sizes of the top sets compared.
        kind: compare only neurons or only heads; all nodes that both scored by default.

    Raises:
        NodeError: fewer than two nodes were scored by both.
    """
    both = first.nodes & second.nodes
    both = both if kind is None else both.only(kind)
    if len(both) < 2:
        raise NodeError(
            f"the two attributions share {len(both)} scored nodes{f' of kind {kind}' if kind else ''}; "
            "give both methods the same nodes"
        )
    a, b = (
        torch.cat([held.values.neurons[both.neurons], held.values.heads[both.heads]]).double()
        for held in (first, second)
    )
    n = len(a)
    sizes = [size for size in k if size <= n]
    return Agreement(
        (first.method, second.method), correlation(ranks(a), ranks(b)), correlation(a, b),
        {size: len(_top(a, size) & _top(b, size)) / size for size in sizes}, {size: size / n for size in sizes}, n,
    )  # fmt: skip


def ranks(values: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[place]


def correlation(a: Float[Tensor, " node"], b: Float[Tensor, " node"]) -> float:
    """Pearson's r; NaN where one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b) / (a.norm() * b.norm()))


def _top(values: Tensor, k: int) -> set[int]:
    return set(values.argsort(descending=True, stable=True)[:k].tolist())
