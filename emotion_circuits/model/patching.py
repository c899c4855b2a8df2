"""Patching: turn `Patch` objects into hooks on one model.

1. `compile_patches` checks each patch against the model and sorts its parts by (site, layer).
2. At a call, the hook of a site gathers the activations of the selected nodes, gives them to the intervention, and
   puts what it returns in their place at the selected tokens. Several patches at one site act one after the other.
3. Patches that only add constants are added together (see `emotion_circuits.model.fusing`).
4. A patch on ``resid_mid`` is applied to ``resid_pre + attn_out`` and written back through ``attn_out`` (see
   `emotion_circuits.model.sites`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from emotion_circuits.errors import PatchError
from emotion_circuits.interventions import Patch, Where, check_fit
from emotion_circuits.model.frames import Frame
from emotion_circuits.model.fusing import FusedParts
from emotion_circuits.model.sites import Hook, Port, SiteMap
from emotion_circuits.nodes import NodeSet
from emotion_circuits.types import ModelDims, Site

FrameSource = Callable[[], Frame]


@dataclass
class Part:
    """One patch's share in one site of one layer."""

    patch: Patch
    where: Where

    def __call__(self, activation: Tensor, frame: Frame) -> Tensor:
        """``activation`` with this patch applied; the tensor given is left as it is."""
        frame = frame.for_rows(len(activation))
        tokens = frame.select(self.patch.positions)
        rows = self.rows(frame, len(activation))
        if tokens is False or (rows is not None and not len(rows)):
            return activation
        part = activation if rows is None else activation[rows.to(activation.device)]
        new = self._intervene(part, frame, rows)
        if isinstance(tokens, Tensor):
            tokens = tokens if rows is None else _rows_of(tokens, rows)
            tokens = tokens.to(part.device).view(*tokens.shape, *[1] * (part.ndim - 2))
            new = torch.where(tokens, new, part)
        return new if rows is None else activation.index_copy(0, rows.to(activation.device), new)

    def _intervene(self, activation: Tensor, frame: Frame, rows: Tensor | None) -> Tensor:
        where, units = self.where, self.where.units
        generated, step = frame.generated, frame.step
        where.generated = generated if isinstance(generated, bool) or rows is None else _rows_of(generated, rows)
        where.step = step if isinstance(step, int) or rows is None else _rows_of(step, rows)
        samples = torch.arange(len(activation)) if frame.samples is None and rows is None else frame.samples
        where.samples = rows if samples is None else samples if rows is None else samples[rows.to(samples.device)]
        if units is None:
            return self._fitted(self.patch.intervention(activation, where), activation)
        units = units.to(activation.device)
        selected = activation.index_select(2, units)
        return activation.index_copy(2, units, self._fitted(self.patch.intervention(selected, where), selected))

    def _fitted(self, new: Tensor, old: Tensor) -> Tensor:
        if new.shape != old.shape:
            name = type(self.patch.intervention).__name__
            raise PatchError(f"{name} returned shape {tuple(new.shape)} for activations of shape {tuple(old.shape)}")
        return new.to(old.dtype)

    def rows(self, frame: Frame, batch: int) -> Tensor | None:
        """The rows of the batch that the patch acts on; None for all of them."""
        if self.patch.rows is None:
            return None
        wanted = torch.tensor(self.patch.rows, dtype=torch.long)
        samples = torch.arange(batch) if frame.samples is None else frame.samples.cpu()
        return torch.isin(samples, wanted).nonzero().flatten()


def compile_patches(patches: Iterable[Patch], dims: ModelDims) -> dict[tuple[Site, int], list[Part]]:
    """The patches' parts by (site, layer).

    Raises:
        PatchError: a patch was made for a model of another shape, or what its intervention holds does not fit.
        NodeError: an intervention holds nothing at a site where it is to act.
    """
    parts: dict[tuple[Site, int], list[Part]] = defaultdict(list)
    for patch in patches:
        if isinstance(patch.nodes, NodeSet):
            _check_shape(patch.nodes, dims)
            for kind in ("neuron", "head"):
                mask = patch.nodes.mask(kind)
                layers = mask.any(dim=1).nonzero().flatten().tolist()
                check_fit(patch.intervention, dims, kind, layers)
                for layer in layers:
                    where = Where(kind, layer, mask[layer].nonzero().flatten())
                    parts[kind, layer].append(Part(patch, where))
        else:
            for layer in patch.nodes.layers:
                if not 0 <= layer < dims.n_layers:
                    raise PatchError(f"a patch names layer {layer}; the model has layers 0 to {dims.n_layers - 1}")
            check_fit(patch.intervention, dims, patch.nodes.site, patch.nodes.layers)
            for layer in patch.nodes.layers:
                parts[patch.nodes.site, layer].append(Part(patch, Where(patch.nodes.site, layer, None)))
    return dict(parts)


def hooks_of(
    patches: Iterable[Patch], sites: SiteMap, dims: ModelDims, frame: FrameSource, *, twin: bool = False
) -> Iterator[tuple[Port, Hook]]:
    """Every hook that the patches need, and where it goes; ``twin`` adds those of the TransformerLens twin."""
    for (site, layer), parts in compile_patches(patches, dims).items():
        sites.port(site, layer)  # raises where the architecture has no such site
        for port in (sites.port, sites.twin_port) if twin else (sites.port,):
            if site == "resid_mid":
                keep, write = resid_mid_hooks(parts, frame)
                yield port("resid_pre", layer), keep
                yield port("attn_out", layer), write
            else:
                heads = (dims.n_heads, dims.d_head) if site == "head" else None
                yield port(site, layer), site_hook(parts, frame, heads)


def site_hook(parts: list[Part], frame: FrameSource, heads: tuple[int, int] | None) -> Hook:
    """The hook that applies ``parts``; ``heads`` unflattens a head site's activations to head x d_head."""
    fused = FusedParts.of(parts)

    def hook(activation: Tensor) -> Tensor:
        new = fused(activation, frame()) if fused else None
        if new is not None:
            return new
        flat = heads is not None and activation.shape[-1] == heads[0] * heads[1]
        new = activation.unflatten(-1, heads) if flat and heads is not None else activation
        for part in parts:
            new = part(new, frame())
        return new.flatten(-2) if flat else new

    return hook


def resid_mid_hooks(parts: list[Part], frame: FrameSource) -> tuple[Hook, Hook]:
    """The pair of hooks, on ``resid_pre`` and on ``attn_out``, that together apply ``parts`` to ``resid_mid``."""
    held: list[Tensor] = []
    apply = site_hook(parts, frame, None)

    def keep(resid_pre: Tensor) -> None:
        held[:] = [resid_pre]

    def write(attn_out: Tensor) -> Tensor:
        resid_mid = held.pop().to(attn_out.device) + attn_out
        new = apply(resid_mid)
        return attn_out if new is None or new is resid_mid else attn_out + (new - resid_mid)

    return keep, write


def _rows_of(mask: Tensor, rows: Tensor) -> Tensor:
    # A mask that is the same for all rows is stored with one row.
    return mask if len(mask) == 1 else mask[rows.to(mask.device)]


def _check_shape(nodes: NodeSet, dims: ModelDims) -> None:
    expected = ((dims.n_layers, dims.d_mlp), (dims.n_layers, dims.n_heads))
    given = (tuple(nodes.neurons.shape), tuple(nodes.heads.shape))
    if given != expected:
        raise PatchError(
            f"the patch's nodes are of a model with (layers, neurons), (layers, heads) = {given[0]}, {given[1]}, but "
            f"this model has {expected[0]}, {expected[1]}; build the node set with this model"
        )
