r"""Edge attribution patching: every edge at once from gradients, as an approximation of `circuit_edges`.

For source A and receiver B above it, at the last prompt token:

.. math:: e_{A \to B} = \Delta_A \cdot g_B, \qquad
          g_B = \left(\frac{\partial a_B}{\partial r_B}\right)^{\!\top} \frac{\partial t}{\partial a_B}

with :math:`\Delta_A` what the intervention changes in A's write, :math:`r_B` the residual that B reads, :math:`a_B` its
activations and t the target: path patching to first order, in both of its steps.

1. One pass with its graph gives :math:`\partial t / \partial a` of all nodes (as for `AttributionPatching`).
2. For every sublayer, one pass with a copy of the residual per receiver; its backward gives each :math:`g_B`.
3. All effects are one product of the :math:`\Delta_A` with the :math:`g_B`.

The cost grows with the number of groups, not of pairs. The edge to ``"target"`` uses :math:`\partial t / \partial r` at
the readout, and is exact for a projection. The approximation is good where activations change little; verify the edges
that matter with `circuit_edges`.

Reference: Syed et al., "Attribution Patching Outperforms Automated Circuit Discovery", 2023 (arXiv 2310.10348), whose
edges into a head are split by query, key and value; here a head is one receiver.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.attribution.edits import Place
from emotion_circuits.attribution.gradient import CleanPass, with_gradients
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.groups import READS, TARGET, EdgeList, Group, written
from emotion_circuits.interventions import Intervention
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.suffix import Edit, SuffixRun
from emotion_circuits.nodes import NodeSet
from emotion_circuits.targets import Target

if TYPE_CHECKING:
    import pandas as pd


@with_gradients()
def attribute_edges(
    model: HookedModel, groups: Circuit | NodeSet | Mapping[str, NodeSet], prompts: object, target: Target,
    intervention: Intervention, *, batch_size: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Approximate direct effects between all groups of nodes, and of each group on the target.

    Arguments, result and errors are those of `circuit_edges`. ``groups_of(NodeSet.all(model), "sublayer")`` names every
    sublayer, ``groups_of(NodeSet.all(model))`` every head and every layer's neurons.
    """
    edges = EdgeList.between(model, groups, target)
    held, reached = edges.groups, edges.reached
    ends = torch.tensor(edges.pairs, dtype=torch.long).view(-1, 2).T

    def effects(batch: TokenBatch) -> Float[Tensor, "batch edge"]:
        run = SuffixRun(model, batch)
        with torch.no_grad():
            pushes = torch.stack([written(model, run, group, intervention) for group in held], dim=1)
        slopes = torch.stack(list(_slopes(model, run, held, target)), dim=1)
        pairs = einsum(pushes, slopes, "batch source d_model, batch receiver d_model -> batch source receiver")
        direct = einsum(pushes[:, reached], _at_readout(model, run, target), "batch source d, batch d -> batch source")
        return torch.cat([pairs[:, ends[0], ends[1]], direct], dim=1).double().cpu()

    return edges.measure(model, effects, prompts, target, intervention, batch_size)


def _slopes(
    model: HookedModel, run: SuffixRun, groups: Sequence[Group], target: Target
) -> Iterator[Float[Tensor, "batch d_model"]]:
    """:math:`g_B` of every group, in their order."""
    every = NodeSet.empty(model)
    for group in groups:
        every.mask(group.kind)[group.layer, group.units] = True
    clean = CleanPass(run, every, {TARGET: target})
    gradients = clean.gradients(target, torch.arange(len(run.batch), device=run.final().device))
    units = {(kind, layer): held for kind, layer, held in clean.places}
    for place, members in groupby(groups, key=lambda group: (group.kind, group.layer)):
        receivers = list(members)
        if place not in gradients:  # it lies above the readout
            yield from torch.zeros_like(run.final()).expand(len(receivers), -1, -1)
            continue
        weights = _weights(receivers, gradients[place], units[place], clean.activations[place])
        yield from _pulled_back(run, place, weights).unbind(dim=1)


def _weights(
    receivers: Sequence[Group], gradient: Tensor, units: Tensor, activations: Tensor
) -> Float[Tensor, "batch receiver unit"]:
    """Every receiver's part of a place's gradient, zero elsewhere; a head's dimensions flattened."""
    whole = torch.zeros_like(activations).index_copy(1, units.to(activations.device), gradient)
    result = whole.new_zeros(len(whole), len(receivers), *whole.shape[1:])
    for k, receiver in enumerate(receivers):
        mine = receiver.units.to(whole.device)
        result[:, k, mine] = whole[:, mine]
    return result.flatten(2)


def _pulled_back(
    run: SuffixRun, place: Place, weights: Float[Tensor, "batch receiver unit"]
) -> Float[Tensor, "batch receiver d_model"]:
    """Gradients at a place's activations, taken back through its sublayer to the residual that it reads."""
    leaves: list[Tensor] = []

    def copies(resid: Tensor, variants: Tensor) -> Tensor:
        leaves.append(resid.detach().clone().requires_grad_())
        return leaves[-1]

    kind, layer = place
    edit = Edit(READS[kind], layer, weights.shape[1], copies)
    result = torch.zeros(*weights.shape[:2], run.model.dims.d_model, dtype=weights.dtype, device=weights.device)
    with torch.enable_grad():
        for variants, read in run.read([edit], [place]):
            total = (read[place] * weights[:, variants]).sum()
            result[:, variants] = torch.autograd.grad(total, leaves.pop())[0]
    return result


def _at_readout(model: HookedModel, run: SuffixRun, target: Target) -> Float[Tensor, "batch d_model"]:
    """Gradient of the target at its own readout."""
    leaf = run.base(target.readout).detach().clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(target(model, leaf).sum(), leaf)[0]
