r"""Edges: how much one group of nodes acts on the target directly, and through another group (path patching).

A group is some heads of one layer's attention, or some neurons of one layer's MLP. For source A and receiver B above
it, at the last prompt token, with all else held at its unchanged value:

1. The intervention on A changes what A writes by :math:`\Delta_A = \sum_{i \in A} (a'_i - a_i) W_i`.
2. Only B sees it: B's sublayer reads its unchanged residual plus :math:`\Delta_A`, which gives B new activations.
3. Those activations are put into B, everything above B follows, and the edge's effect is the change of the target.

The edge from A to ``"target"`` is the change when the readout alone sees :math:`\Delta_A`. Exact, since every step is
an intervention (two suffix passes per receiver, all sources in each); effects are not additive.

For all pairs of a large model there is a fast approximation, `attribute_edges`.

Reference: Wang et al., 2023 (arXiv 2211.00593); Goldowsky-Dill et al., 2023 (arXiv 2304.05969).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.groups import READS, EdgeList, Group, unflat, written
from emotion_circuits.interventions import Intervention
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.suffix import Edit, SuffixRun
from emotion_circuits.nodes import NodeSet
from emotion_circuits.targets import Target

if TYPE_CHECKING:
    import pandas as pd


def circuit_edges(
    model: HookedModel, groups: Circuit | NodeSet | Mapping[str, NodeSet], prompts: object, target: Target,
    intervention: Intervention, *, batch_size: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Direct effects between groups of nodes, and of each group on the target.

    Args:
        model: without norms after its sublayers (so not Gemma 2 or 3).
        groups: each within one sublayer; a circuit or node set stands for `groups_of` it.
        prompts: a SEV (its items are instructed with the target's emotion), or prompts.
        target: what is measured.
        intervention: what is done to each source.
        batch_size: rows in a batch.

    Returns:
        One row per pair, largest magnitude first: ``source, target, effect, low, high, intervention``, for
        `Circuit.to_networkx`; ``target`` is ``"target"`` for the direct path to the readout. A negative effect of an
        ablation means that the path carries the target. Intervals are 95 %, bootstrap over scenarios.

    Raises:
        NodeError: a group is empty or spans several sublayers.
        ModelError: the model norms what its sublayers write.
    """
    edges = EdgeList.between(model, groups, target)
    work = _Work(model, target, intervention, edges)
    return edges.measure(model, work, prompts, target, intervention, batch_size)


class _Work:
    """All edges on one batch: ``[row, pair]``, receivers from below to above, then the direct paths to the target."""

    def __init__(self, model: HookedModel, target: Target, intervention: Intervention, edges: EdgeList) -> None:
        self.model, self.target, self.intervention = model, target, intervention
        self.groups, self.reached = edges.groups, edges.reached

    @torch.no_grad()
    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch pair"]:
        run = SuffixRun(self.model, batch)
        pushes = [written(self.model, run, group, self.intervention) for group in self.groups]
        readout = self.target.readout
        base = run.base(readout)
        before = self.target(self.model, base)[:, None].double()
        parts = [base.new_zeros(len(base), 0).double()]
        for receiver in self.groups:
            below = [push for push, group in zip(pushes, self.groups, strict=True) if group.height < receiver.height]
            if below:
                seen = self._seen(run, receiver, torch.stack(below, dim=1))
                after = self._followed(run, receiver, seen)
                parts.append(self.target(self.model, after).double() - before)
        for i in self.reached:
            parts.append(self.target(self.model, base + pushes[i]).double()[:, None] - before)
        return torch.cat(parts, dim=1).cpu()

    def _seen(self, run: SuffixRun, receiver: Group, pushes: Tensor) -> Tensor:
        """Step 2: the receiver's activations when it alone sees the pushes, ``[batch, source, unit (, d_head)]``."""
        n, site = pushes.shape[1], READS[receiver.kind]
        edit = Edit(site, receiver.layer, n, lambda resid, variants: resid + pushes[:, variants])
        place = (receiver.kind, receiver.layer)
        parts: list[Tensor | None] = [None] * n
        for variants, read in run.read([edit], [place]):
            for i, variant in enumerate(variants.tolist()):
                parts[variant] = read[place][:, i]
        found = torch.stack([part for part in parts if part is not None], dim=1)
        return unflat(self.model, receiver, found)[:, :, receiver.units.to(found.device)]

    def _followed(self, run: SuffixRun, receiver: Group, seen: Tensor) -> Float[Tensor, "batch source d_model"]:
        """Step 3: the readout's residual when the receiver has those activations and everything above follows."""
        units, readout = receiver.units.to(seen.device), self.target.readout

        def put(activation: Tensor, variants: Tensor) -> Tensor:
            return activation.index_copy(2, units, seen[:, variants].to(activation.dtype))

        result = run.base(readout)[:, None].repeat(1, seen.shape[1], 1)
        for variants, read in run.read([Edit(receiver.kind, receiver.layer, seen.shape[1], put)], [readout]):
            result[:, variants] = read[readout]
        return result
