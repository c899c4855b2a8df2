r"""Strength as a share of the residual's norm, which is comparable between methods and models.

1. Run the replies under the patches, and note every patched site just before and just after each patch.
2. What the change writes into the residual is :math:`w = \sum_l f_l(a'_l) - f_l(a_l)`, summed over the patched sites;
   :math:`f` is the sublayer's output projection (with the norm after it, where there is one), and nothing for a
   residual. What later layers make of it does not count.
3. The share is :math:`\lVert w \rVert / \lVert r \rVert`, with r the unmodulated residual after the last patched layer:
   the mean over the tokens where the patches act, from the last prompt token on.

For `Steering` at one layer this is its ``strength``; at several layers it adds up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.interventions import Patch, Where
from emotion_circuits.interventions.base import Place
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.batching import by_sample
from emotion_circuits.model.writes import SUBLAYER_OF, precise, precisely
from emotion_circuits.nodes import NodeSet, Residual
from emotion_circuits.replies import Replies
from emotion_circuits.types import Site


def residual_share(
    model: HookedModel, patches: Sequence[Patch], replies: Replies, *, batch_size: int | None = None
) -> Float[Tensor, " sample"]:
    """How much the patches write, as a share of the residual's norm, for each reply; see the module's docstring.

    Args:
        model: the model.
        patches: as they acted while the replies were made; their rows are places in ``replies``.
        replies: the replies; each needs its prompt.
        batch_size: rows in a batch.

    Returns:
        0 where no patch acts.
    """
    shares = partial(_shares, model, patches)
    found = by_sample(model.run_batches(replies, shares, batch_size, stage="score", shared=True))
    return torch.stack(found) if found else torch.zeros(0)


@dataclass(frozen=True, eq=False)
class _Note:
    """Changes nothing, and keeps what it is shown."""

    kept: dict[tuple[Site, int], Tensor] = field(default_factory=dict)
    acts_on: ClassVar[tuple[Place, ...]] = ("nodes", "residual")

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        self.kept[where.site, where.layer] = activation
        return activation


@torch.no_grad()
def _shares(model: HookedModel, patches: Sequence[Patch], batch: TokenBatch) -> Float[Tensor, " batch"]:
    notes = [(_Note(), patch, _Note()) for patch in patches]
    around = [p for before, patch, after in notes for p in (_noting(patch, before), patch, _noting(patch, after))]
    with model.patched(*around, samples=batch.samples):
        model.run(batch)
    written = torch.zeros(*batch.ids.shape, model.dims.d_model, dtype=torch.float32, device=batch.ids.device)
    last = torch.zeros(len(batch), dtype=torch.long)
    for before, patch, after in notes:
        rows = _rows(patch, batch)
        if len(rows):
            last[rows] = last[rows].clamp(min=max(layer for _, layer in after.kept))
            written[rows] += sum(_write(model, *place, before.kept[place], a) for place, a in after.kept.items())
    share = written.norm(dim=-1) / _residual_norms(model, batch, last)
    acting = (share > 0) & (torch.arange(batch.ids.shape[1]) >= batch.last_prompt.cpu()[:, None]).to(share.device)
    return ((share * acting).sum(dim=1) / acting.sum(dim=1).clamp(min=1)).float().cpu()


def _noting(patch: Patch, note: _Note) -> Patch:
    """``note`` at every unit of the sublayers that the patch touches, for the patch's rows."""
    nodes = patch.nodes
    if isinstance(nodes, NodeSet):
        masks = (mask.any(dim=1, keepdim=True).expand_as(mask) for mask in (nodes.neurons, nodes.heads))
        nodes = NodeSet(*masks)
    return replace(patch, nodes=nodes, intervention=note, positions="all")


def _rows(patch: Patch, batch: TokenBatch) -> Tensor:
    samples = batch.samples.cpu()
    wanted = samples if patch.rows is None else torch.tensor(patch.rows, dtype=torch.long)
    return torch.isin(samples, wanted).nonzero().flatten()


def _write(model: HookedModel, site: Site, layer: int, before: Tensor, after: Tensor) -> Tensor:
    """The difference in the residual that a difference at one site makes by itself."""
    if site not in ("neuron", "head"):
        return precise(after) - precise(before)
    projection, norm = model.sites.port(site, layer).module, model.sites.write_norm(SUBLAYER_OF[site], layer)
    before, after = (a.flatten(-2) if site == "head" else a for a in (before, after))
    if norm is None:
        return precisely(projection, after) - precisely(projection, before)
    return precisely(norm, precisely(projection, after)) - precisely(norm, precisely(projection, before))


def _residual_norms(model: HookedModel, batch: TokenBatch, last: Tensor) -> Float[Tensor, "batch pos"]:
    """Norm of the unmodulated residual after each row's layer ``last``."""
    note = _Note()
    with model.patched(Patch(Residual(tuple(last.unique().tolist())), note, "all"), samples=batch.samples):
        model.run(batch)
    return torch.stack(
        [precise(note.kept["resid_post", layer][row]).norm(dim=-1) for row, layer in enumerate(last.tolist())]
    )
