"""Recording: keep the activations that were asked for, and nothing else.

The hook selects the positions and reduces over them before it stores anything, so memory grows with what is kept
and not with layers x tokens. No logits are computed for tokens that nobody asked about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.errors import PromptError
from emotion_circuits.model.estimates import Stage
from emotion_circuits.model.tokens import TokenBatch
from emotion_circuits.types import Position, Site

if TYPE_CHECKING:
    from emotion_circuits.model.hooked_model import HookedModel


def statistics_dtype(like: Tensor) -> torch.dtype:
    """float64 for float64, else float32: statistics are never kept in half precision."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32


@torch.no_grad()
def stream(
    model: HookedModel,
    prompts: object,
    sites: Sequence[Site],
    layers: Sequence[int],
    positions: Position,
    batch_size: int | None,
    *,
    sort: bool = True,
    shared: bool = False,
) -> Iterator[tuple[TokenBatch, dict[Site, Float[Tensor, "layer batch *unit"]]]]:
    """Batches with their activations at each site."""

    def work(batch: TokenBatch) -> dict[Site, Tensor]:
        return record_batch(model, batch, sites, layers, positions)

    yield from model.run_batches(prompts, work, batch_size, sort=sort, stage=_stage(sites), shared=shared)


@torch.no_grad()
def record_batch(
    model: HookedModel,
    batch: TokenBatch,
    sites: Sequence[Site],
    layers: Sequence[int] | None = None,
    positions: Position = "last_prompt",
) -> dict[Site, Float[Tensor, "layer batch *unit"]]:
    """One batch's activations at each site, of all layers by default, on the model's device."""
    layers = range(model.dims.n_layers) if layers is None else layers
    kept: dict[Site, list[Tensor | None]] = {site: [None] * len(layers) for site in sites}
    weights = position_weights(batch, positions)
    with ExitStack() as stack:
        for site in sites:
            for slot, layer in enumerate(layers):
                hook = _keeper(kept[site], slot, weights)
                stack.callback(model.sites.port(site, layer).attach(hook).remove)
        # The decoder without its unembedding: logits are nobody's business here.
        model.announce(batch)
        model.hf.base_model(**batch.inputs(), use_cache=False)
    return {site: _stacked(model, site, values) for site, values in kept.items()}


def _stage(sites: Sequence[Site]) -> Stage:
    return "record" if len(sites) == 1 else "attribute" if "neuron" in sites else "directions"


@torch.no_grad()
def read(model: HookedModel, batch: TokenBatch, site: Site, layer: int) -> Float[Tensor, "batch d_model"]:
    """The last token's residual of one batch at one site."""
    kept: list[Tensor] = []
    handle = model.sites.port(site, layer).attach(lambda activation: kept.append(activation[:, -1].clone()))
    model.announce(batch)
    try:
        model.hf.base_model(**batch.inputs(), use_cache=False)
    finally:
        handle.remove()
    return kept[0]


@torch.no_grad()
def project(
    model: HookedModel, batch: TokenBatch, site: Site, vectors: Float[Tensor, "layer direction d_model"]
) -> Float[Tensor, "layer batch pos direction"]:
    """Every token's residual on some vectors of its layer, on the CPU; the residuals themselves are not kept."""
    kept: list[Tensor | None] = [None] * len(vectors)

    def projector(layer: int):
        def hook(activation: Tensor) -> None:
            onto = vectors[layer].to(device=activation.device, dtype=statistics_dtype(activation))
            kept[layer] = (activation.to(onto.dtype) @ onto.T).cpu()

        return hook

    with ExitStack() as stack:
        for layer in range(len(vectors)):
            stack.callback(model.sites.port(site, layer).attach(projector(layer)).remove)
        model.announce(batch)
        model.hf.base_model(**batch.inputs(), use_cache=False)
    return torch.stack([value for value in kept if value is not None])


def record(
    model: HookedModel,
    prompts: object,
    site: Site,
    layers: Sequence[int],
    positions: Position,
    batch_size: int | None,
) -> Float[Tensor, "layer sample *unit"]:
    """One site's activations of all prompts, in their order, on the CPU."""
    parts, samples = [], []
    for batch, values in stream(model, prompts, (site,), layers, positions, batch_size):
        held = values[site]
        parts.append(held.to(statistics_dtype(held)).cpu())
        samples.append(batch.samples.cpu())
    if not parts:
        raise PromptError("there are no prompts to record; give at least one")
    return torch.cat(parts, dim=1)[:, torch.cat(samples).argsort()]


def position_weights(batch: TokenBatch, positions: Position) -> Float[Tensor, "batch pos"] | None:
    """Weight of each token in the mean over ``positions``; None means the last column alone.

    Raises:
        PromptError: a row has no token at these positions.
    """
    column = torch.arange(batch.ids.shape[1], device=batch.ids.device)[None]
    last = batch.last_prompt[:, None]
    if positions in ("last_prompt", "last") and not bool(batch.reply.any()):
        return None
    chosen = {
        "last_prompt": column == last,
        "prompt": column <= last,
        "generated": column > last,
        "last": column >= last,
        "all": column >= 0,
    }[positions] & batch.mask
    count = chosen.sum(dim=1, keepdim=True)
    if not bool(count.all()):
        raise PromptError(f"a prompt has no token at positions {positions!r}; give replies with at least one token")
    return chosen.float() / count


def _keeper(values: list[Tensor | None], slot: int, weights: Tensor | None):
    def hook(activation: Tensor) -> None:
        if weights is None:
            # A clone, so that the full activation is not kept alive by a view.
            values[slot] = activation[:, -1].clone()
        else:
            w = weights.to(device=activation.device, dtype=statistics_dtype(activation))
            values[slot] = torch.einsum("bp,bpu->bu", w, activation.to(w.dtype))

    return hook


def _stacked(model: HookedModel, site: Site, values: list[Tensor | None]) -> Tensor:
    held = [v for v in values if v is not None]
    assert len(held) == len(values), f"site {site} was not reached in every layer"
    stacked = torch.stack([v.to(held[0].device) for v in held])
    return stacked.unflatten(-1, (model.dims.n_heads, model.dims.d_head)) if site == "head" else stacked
