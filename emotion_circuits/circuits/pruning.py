r"""The smallest circuit that keeps a wanted share of the target.

1. Rank the nodes; :math:`C_k` are the best k, f their faithfulness (`emotion_circuits.circuits.metrics`).
2. Measure f at a grid of sizes that grow by a factor of two, all in one pass, and take the first that is enough.
3. Between it and the last that is not, narrow down: each round measures a grid of sizes between the two.
4. Optionally prune greedily: leave out the nodes whose removal costs least, while what is left is enough.

f need not grow with k: some nodes work against the target. Step 3 finds a size at which f crosses the wanted share,
the first one on the grids that it looked at; it does not try every smaller size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.attribution.result import Attribution
from emotion_circuits.circuits.controls import USUAL, Controls
from emotion_circuits.circuits.metrics import CircuitScore, faithfulness
from emotion_circuits.circuits.node_sets import kept_shares, prompts_for
from emotion_circuits.errors import NodeError
from emotion_circuits.interventions import Intervention
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import Node, NodeSet, NodeValues
from emotion_circuits.targets import Target

_POINTS = 15  # sizes measured together in one round of narrowing down


@dataclass(frozen=True, eq=False)
class SmallestCircuit:
    """What `smallest_circuit` found.

    Attributes:
        nodes: the circuit.
        faithfulness: of the circuit, with its interval and its controls.
        wanted: the faithfulness that was asked for.
        tried: every size that was measured on the way, and its faithfulness.
    """

    nodes: NodeSet
    faithfulness: CircuitScore
    wanted: float
    tried: dict[int, float]

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return f"SmallestCircuit({len(self)} nodes for {self.wanted:g}: {self.faithfulness})"


def smallest_circuit(
    model: HookedModel, scores: Attribution | NodeValues, prompts: object, target: Target, ablation: Intervention,
    wanted: float = 0.8, *, greedy: bool = False, controls: Controls = USUAL, batch_size: int | None = None,
) -> SmallestCircuit:  # fmt: skip
    """The smallest top-k circuit with a faithfulness of at least ``wanted``.

    Args:
        model: the model.
        scores: ranks the nodes; neurons and heads together.
        prompts: a SEV (its items are instructed with the target's emotion), or prompts. A circuit chosen and measured
            on the same prompts looks better than it is: measure it on others with `faithfulness`.
        target: what the circuit is to make.
        ablation: what is done to all other nodes, at the last prompt token.
        wanted: faithfulness to keep.
        greedy: also leave out members that are not needed.
        controls: circuits of the same make-up beside it.
        batch_size: rows in a batch.

    Raises:
        NodeError: no circuit of the ranked nodes is as faithful as that.
    """
    asked = prompts_for(prompts, target.emotion)

    def measured(sets: Sequence[NodeSet]) -> list[float]:
        return kept_shares(model, sets, asked, target, ablation, batch_size)[0].tolist()

    tried: dict[int, float] = {}

    def measure(sizes: Sequence[int]) -> None:
        new = [size for size in sizes if size not in tried]
        tried.update(zip(new, measured([scores.top(size) for size in new]), strict=True) if new else ())

    most = len(scores.top(model.dims.n_nodes))
    measure([min(2**i, most) for i in range(most.bit_length() + 1)])
    while True:
        enough = [size for size in sorted(tried) if tried[size] >= wanted]
        if not enough:
            raise NodeError(
                f"no circuit of up to {most} ranked nodes has a faithfulness of {wanted:g}; the best has "
                f"{max(tried.values()):.3f}: ask for less, or rank by another method"
            )
        below = max((size for size in tried if size < enough[0]), default=0)
        if enough[0] - below <= 1:
            break
        step = (enough[0] - below) / (_POINTS + 1)
        inside = {below + max(1, round(step * i)) for i in range(1, _POINTS + 1)}
        measure(sorted(size for size in inside if below < size < enough[0]))
    nodes = scores.top(enough[0])
    if greedy:
        nodes = _pruned(nodes, measured, wanted)
    score = faithfulness(model, nodes, asked, target, ablation, controls=controls, batch_size=batch_size)
    return SmallestCircuit(nodes, score, wanted, dict(sorted(tried.items())))


def _pruned(nodes: NodeSet, measured: Callable[[Sequence[NodeSet]], list[float]], wanted: float) -> NodeSet:
    """``nodes`` without as many as possible of those whose removal costs least, while the rest is enough.

    Each round ranks the members by what the rest is worth without them, and takes out the longest beginning of that
    ranking (of lengths 1, 2, 4, ...) whose removal together leaves enough; it stops when not even the first one can go.
    """
    while len(nodes) > 1:
        members = list(nodes)
        single = [_only(nodes, [member]) for member in members]
        without: Float[Tensor, " node"] = torch.tensor(measured([nodes - one for one in single]))
        order = without.argsort(descending=True, stable=True).tolist()
        lengths = [2**i for i in range((len(members) - 1).bit_length())]
        smaller = [nodes - _only(nodes, [members[i] for i in order[:length]]) for length in lengths]
        kept = [held for held, f in zip(smaller, measured(smaller), strict=True) if f >= wanted]
        if not kept:
            break
        nodes = min(kept, key=len)
    return nodes


def _only(like: NodeSet, members: Sequence[Node]) -> NodeSet:
    """The set of some nodes, in the shape of another set."""
    result = NodeSet(torch.zeros_like(like.neurons), torch.zeros_like(like.heads))
    for node in members:
        result.mask(node.kind)[node.layer, node.index] = True
    return result
