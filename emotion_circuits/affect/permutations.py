"""Permutations of labels, and the p-values that they give.

With six emotions there are only 720 orders, so they are all tried and the p-value is exact; it can then not be smaller
than 1/720, and for a statistic that does not change when a circle is turned or mirrored not smaller than 12/720.
"""

from __future__ import annotations

from itertools import permutations
from math import factorial

import torch
from jaxtyping import Float, Int
from torch import Tensor

MOST = 40320
"""Up to so many orders (eight labels) all are tried; beyond it, random ones are."""


def orders(n: int, n_draws: int = 5000, seed: int = 0) -> Int[Tensor, "order n"]:
    """All orders of n labels, the identity first; or, where they are too many, the identity and random ones."""
    if factorial(n) <= MOST:
        return torch.tensor(list(permutations(range(n))))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n_draws, n, generator=generator).argsort(dim=1)
    return torch.cat([torch.arange(n)[None], drawn])


def p_value(statistics: Float[Tensor, " order"]) -> float:
    """Share of orders whose statistic is at least that of the first, which counts itself."""
    # Equal up to rounding is equal: turned circles give the same sum in another sequence.
    return float((statistics >= statistics[0] - 1e-9 * max(1.0, abs(float(statistics[0])))).double().mean())
