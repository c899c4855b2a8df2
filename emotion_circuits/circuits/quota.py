"""Quotas: how many nodes each layer gives to a circuit (method.md, stage 6).

1. Weights are positive influence, normalised over layers.
2. Each layer gets its minimum; what is left is shared as ``floor(weight * rest)``.
3. The remainder goes out one by one, by largest fractional part.
4. No layer's plan exceeds ``cap`` of the whole, nor what the layer has; what is cut flows to the layers with the
   largest plan that still have room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from emotion_circuits.errors import NodeError


def allocate_quota(
    weights: Sequence[float | int], *, size: int, minimum: int, cap: float, available: int | Sequence[int] | None = None
) -> list[int]:
    """Nodes per layer.

    Args:
        weights: influence of each layer; negative ones count as zero.
        size: nodes to give out.
        minimum: nodes that every layer gets.
        cap: largest share of ``size`` in one layer.
        available: nodes that each layer has; no bound by default.

    Returns:
        One count per layer; they sum to ``size``, unless the bounds leave no room for that many.

    Raises:
        NodeError: the numbers contradict each other.
    """
    n = len(weights)
    if n == 0 or size < 0 or minimum < 0 or not 0 < cap <= 1:
        raise NodeError(
            f"cannot allocate {size} nodes over {n} layers with minimum {minimum} and cap {cap}; size and minimum must "
            "not be negative and cap must lie in (0, 1]"
        )
    if not all(math.isfinite(w) for w in weights):
        raise NodeError(f"cannot allocate nodes by the weights {list(weights)}; every weight must be a finite number")
    held = [size] * n if available is None else [available] * n if isinstance(available, int) else list(available)
    limit = [min(max(math.floor(cap * size + 1e-9), minimum), room) for room in held]
    minimum = min(minimum, size // n)
    positive = [max(float(w), 0.0) for w in weights]
    total = sum(positive)
    shares = [w / total for w in positive] if total > 0 else [1.0 / n] * n
    rest = size - minimum * n
    exact = [share * rest for share in shares]
    plan = [minimum + math.floor(x) for x in exact]
    by_fraction = sorted(range(n), key=lambda i: (-(exact[i] - math.floor(exact[i])), i))
    for i in by_fraction[: size - sum(plan)]:
        plan[i] += 1
    return _within(plan, limit, size)


def _within(plan: list[int], limit: list[int], size: int) -> list[int]:
    result = [min(p, most) for p, most in zip(plan, limit, strict=True)]
    order = sorted(range(len(plan)), key=lambda i: (-plan[i], i))
    while sum(result) < size:
        room = [i for i in order if result[i] < limit[i]]
        if not room:
            break
        for i in room[: size - sum(result)]:
            result[i] += 1
    return result
