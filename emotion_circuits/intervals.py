"""Intervals and paired tests for proportions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch

Z95 = 1.959963984540054


def wilson(successes: float | int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95 % by default; (0, 1) when nothing was observed."""
    if n == 0:
        return 0.0, 1.0
    p, zz = successes / n, z * z
    centre = (p + zz / (2 * n)) / (1 + zz / n)
    half = z / (1 + zz / n) * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered(
    successes: Sequence[bool | int | float], clusters: Sequence[Hashable], *, n_draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of a mean when items come in clusters, which are drawn whole.

    With fewer than two clusters there is nothing to draw from, and both ends are NaN.

    Args:
        successes: one value per item.
        clusters: the cluster of each item, e.g. its scenario.
        n_draws: bootstrap draws.
        seed: of the draws.
    """
    names = {c: i for i, c in enumerate(dict.fromkeys(clusters))}
    if len(names) < 2:
        return math.nan, math.nan
    sums, counts = torch.zeros(len(names), dtype=torch.float64), torch.zeros(len(names), dtype=torch.float64)
    for value, cluster in zip(successes, clusters, strict=True):
        sums[names[cluster]] += float(value)
        counts[names[cluster]] += 1
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(names), (n_draws, len(names)), generator=generator)
    means = sums[drawn].sum(dim=1) / counts[drawn].sum(dim=1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def interval_text(low: float, high: float, form: str = ".3f") -> str:
    """An interval as a repr shows it: ``"[low, high]"``, or that there is none; ``form`` is of both numbers."""
    return "no interval (one scenario)" if math.isnan(low) else f"[{low:{form}}, {high:{form}}]"


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int, float]:
    """McNemar's exact test of two methods on the same items.

    Returns:
        Items that only the first got right, items that only the second did, and the two-sided p-value.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return only_first, only_second, min(1.0, 2 * tail)
