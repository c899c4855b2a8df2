"""The ascent: one chunk of a suffix pass's variants, from the first changed layer up to what is read.

Between two layers (a boundary) and inside a layer these things happen, in this order:

1. at the boundary below layer l, the variants that begin there join, with the unchanged residual;
2. changes of ``resid_post`` of layer l - 1 act; that residual is read; changes of ``resid_pre`` of layer l act;
3. layer l is called once with all variants that have begun: as query tokens that see the kept keys and values and
   themselves. Changes of its inner sites act in hooks on their columns, and inner residuals are read.

The mask over the variants is the identity, and most of it is wasted work when they are many. So variants are folded
into groups of `GROUP` columns, each group one row of the layer's batch; hooks see them unfolded.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache

from emotion_circuits.types import Site, as_layer

if TYPE_CHECKING:
    from emotion_circuits.model.suffix import Change, Edit, Readout, SuffixRun

GROUP = 64
"""Variants of a prompt that share one copy of its keys and values, and one identity mask."""

_BOUNDARY = ("resid_pre", "resid_post")


@dataclass
class Prefix:
    """A stand-in for the key-value cache: joins the kept keys and values to those of the variants, keeps nothing."""

    keys: Tensor | None
    values: Tensor | None

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.keys is None or self.values is None:
            return keys, values
        return _joined(self.keys, keys), _joined(self.values, values)

    def get_seq_length(self, *args: Any) -> int:
        return 0 if self.keys is None else self.keys.shape[-2]


@dataclass
class Call:
    """How one layer was called for the last token."""

    kwargs: dict[str, Any] = field(default_factory=dict)
    prefix: Prefix = field(default_factory=lambda: Prefix(None, None))


@dataclass
class Member:
    """Some variants of one edit, and the column at which they start."""

    edit: Edit
    variants: list[int]
    start: int = 0

    @property
    def columns(self) -> slice:
        """Their columns in the chunk."""
        return slice(self.start, self.start + len(self.variants))

    def apply(self, change: Change, activation: Tensor) -> Tensor:
        """``activation`` (of all columns) with this change made in the member's columns."""
        index = torch.tensor(self.variants, device=activation.device)
        new = change.function(activation[:, self.columns], index).to(activation.dtype)
        if len(self.variants) == activation.shape[1]:
            return new
        return torch.cat([activation[:, : self.start], new, activation[:, self.columns.stop :]], dim=1)


def ascend(run: SuffixRun, members: list[Member], readouts: Sequence[Readout]) -> dict:
    """The residual at each readout, for the variants of ``members``, which are sorted by their first layer.

    Returns:
        ``[batch, variant, d_model]`` for each readout.
    """
    n_layers = len(run.layers)
    at: dict[Readout, Readout] = {readout: (readout[0], as_layer(readout[1], n_layers)) for readout in readouts}
    wanted: set[Readout] = set(at.values())
    kept: dict[Readout, Tensor] = {}
    stop = 1 + max(layer for _, layer in wanted)
    begun: list[Member] = []
    pending, x = list(members), run.resid[0][:, :0]
    for layer in range(min(pending[0].edit.first_layer, stop), stop + 1):
        x = _join(run, layer, x, begun, pending)
        x = _boundary(x, begun, "resid_post", layer - 1)
        if ("resid_post", layer - 1) in wanted:
            kept["resid_post", layer - 1] = x
        x = _boundary(x, begun, "resid_pre", layer)
        if ("resid_pre", layer) in wanted:
            kept["resid_pre", layer] = x
        if layer < stop and x.shape[1]:
            inner: list[Site] = [site for site, at_layer in wanted if at_layer == layer and site not in _BOUNDARY]
            x = _layer(run, layer, x, begun, inner, kept)
    width = sum(len(member.variants) for member in members)
    return {readout: _filled(run, place, kept.get(place), width) for readout, place in at.items()}


def _join(run: SuffixRun, layer: int, x: Tensor, begun: list[Member], pending: list[Member]) -> Tensor:
    while pending and pending[0].edit.first_layer == layer:
        member = pending.pop(0)
        member.start = x.shape[1]
        begun.append(member)
        base = run.resid[layer]  # on another device than x was, when layers are spread over several
        x = torch.cat([x.to(base.device), base.expand(-1, len(member.variants), -1)], dim=1)
    return x


def _boundary(x: Tensor, begun: list[Member], site: Site, layer: int) -> Tensor:
    for member in begun:
        for change in member.edit.changes:
            if (change.site, change.layer) == (site, layer):
                x = member.apply(change, x)
    return x


def _filled(run: SuffixRun, place: Readout, held: Tensor | None, width: int) -> Float[Tensor, "batch variant d_model"]:
    """Variants that begin above a readout do not change it."""
    if held is not None and held.shape[1] == width:
        return held
    base = run.base(place)[:, None]
    if held is None:
        return base.expand(-1, width, -1)
    return torch.cat([held, base.expand(-1, width - held.shape[1], -1)], dim=1)


def _layer(
    run: SuffixRun, layer: int, x: Tensor, begun: list[Member], inner: list[Site], kept: dict[Readout, Tensor]
) -> Tensor:
    call, (batch, width, _) = run.calls[layer], x.shape
    n_groups = -(-width // GROUP)
    columns = -(-width // n_groups)
    fold = _Fold(batch, n_groups, columns, width)
    kwargs = {name: fold.widen(value) for name, value in call.kwargs.items()}
    kwargs["attention_mask"] = _mask(call, fold, x)
    kwargs |= {name: call.prefix for name, value in call.kwargs.items() if isinstance(value, Cache)}
    with ExitStack() as stack:
        for member in begun:
            for change in member.edit.changes:
                if change.layer == layer and change.site not in _BOUNDARY:
                    _attach(stack, run, member, change, fold, x)
        for site in inner:
            stack.callback(run.model.sites.port(site, layer).attach(_keeper(kept, (site, layer), fold)).remove)
        out = run.layers[layer](fold.fold(x), **kwargs)
    return fold.unfold(out[0] if isinstance(out, tuple) else out)


def _keeper(kept: dict[Readout, Tensor], place: Readout, fold: _Fold):
    def hook(activation: Tensor) -> None:
        kept[place] = fold.unfold(activation)

    return hook


def _attach(stack: ExitStack, run: SuffixRun, member: Member, change: Change, fold: _Fold, x: Tensor) -> None:
    heads = (run.model.dims.n_heads, run.model.dims.d_head)

    def hook(folded: Tensor) -> Tensor:
        activation = fold.unfold(folded)
        if change.site == "resid_mid":
            # resid_mid is written through attn_out: what is added to one is added to the other.
            mid = x + activation
            new = activation + (member.apply(change, mid) - mid)
        elif change.site == "head":
            new = member.apply(change, activation.unflatten(-1, heads)).flatten(-2)
        else:
            new = member.apply(change, activation)
        return fold.fold(new)

    site: Site = "attn_out" if change.site == "resid_mid" else change.site
    stack.callback(run.model.sites.port(site, change.layer).attach(hook).remove)


@dataclass(frozen=True)
class _Fold:
    """``width`` columns of each prompt, as ``n_groups`` rows of ``columns`` columns; the last are padding."""

    batch: int
    n_groups: int
    columns: int
    width: int

    def fold(self, x: Tensor) -> Tensor:
        if self.n_groups == 1:
            return x
        missing = self.n_groups * self.columns - self.width
        if missing:
            x = torch.cat([x, x[:, -1:].expand(-1, missing, *x.shape[2:])], dim=1)
        return x.reshape(self.batch * self.n_groups, self.columns, *x.shape[2:])

    def unfold(self, x: Tensor) -> Tensor:
        if self.n_groups == 1:
            return x
        return x.reshape(self.batch, self.n_groups * self.columns, *x.shape[2:])[:, : self.width]

    def repeat(self, x: Tensor) -> Tensor:
        """One row per prompt, to one per group."""
        if self.n_groups == 1 or len(x) != self.batch:
            return x
        return x[:, None].expand(-1, self.n_groups, *x.shape[1:]).flatten(0, 1)

    def widen(self, value: Any) -> Any:
        """An argument for one token, as one for all columns: positions and their embeddings."""
        if isinstance(value, tuple):
            return tuple(self.widen(v) for v in value)
        if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == 1:
            return self.repeat(value.expand(value.shape[0], self.columns, *value.shape[2:]))
        return value


def _mask(call: Call, fold: _Fold, x: Tensor) -> Tensor:
    n_prefix, n = call.prefix.get_seq_length(), fold.columns
    given = call.kwargs.get("attention_mask")
    if given is None:
        given = torch.ones(len(x), 1, 1, n_prefix + 1, dtype=torch.bool, device=x.device)
    rows = fold.batch * fold.n_groups
    earlier = fold.repeat(given.to(x.device)[..., -1:, :n_prefix]).expand(rows, given.shape[1], n, n_prefix)
    itself = torch.eye(n, dtype=torch.bool, device=x.device)
    if given.dtype != torch.bool:
        itself = torch.zeros(n, n, dtype=given.dtype, device=x.device).masked_fill(
            ~itself, torch.finfo(given.dtype).min
        )
    return torch.cat([earlier, itself.expand(rows, given.shape[1], n, n)], dim=-1)


def _joined(kept: Tensor, new: Tensor) -> Tensor:
    """Kept keys (one row per prompt) in front of the variants' (one row per group)."""
    if len(kept) != len(new):
        kept = kept[:, None].expand(-1, len(new) // len(kept), *kept.shape[1:]).flatten(0, 1)
    return torch.cat([kept, new], dim=-2)
