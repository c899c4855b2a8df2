r"""Patches as intervention specs of TransformerLens's vLLM source.

1. Each part of a patch becomes a transform :math:`x \leftarrow f x + v` of its activations (`affine`).
2. vLLM can be changed at three places of a layer: where attention, the MLP and the layer hand on their output. What
   lies before an output projection is carried through it, with its rows W of the selected units and its bias b:
   a shift of some units is a shift by :math:`v W` behind it; a factor of **all** units is a factor behind it, with
   the shift :math:`v W + (1 - f) b`. A factor of some units cannot be seen from there, and is refused.
3. ``resid_pre`` is the output of the layer before; a shift of ``resid_mid`` is one of the attention's output.
4. Transforms that meet at one place are put together, in the order in which the sites come in the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from emotion_circuits.backends.affine import Affine, affine_of
from emotion_circuits.errors import PatchError
from emotion_circuits.interventions import Patch, Where
from emotion_circuits.model import HookedModel, patching
from emotion_circuits.types import NodeKind, Position, Site

Spec = dict[str, Any]
Tokens = tuple[int, ...] | None
"""Which tokens of the one prompt that is run; None for every token of every request."""

# In the order in which a layer computes them; resid_pre counts as the end of the layer before.
_ORDER: tuple[Site, ...] = ("resid_pre", "head", "attn_out", "resid_mid", "neuron", "mlp_out", "resid_post")
_PLACE: dict[Site, str] = {
    "head": "attn.hook_out", "attn_out": "attn.hook_out", "resid_mid": "attn.hook_out",
    "neuron": "mlp.hook_out", "mlp_out": "mlp.hook_out", "resid_post": "hook_out",
}  # fmt: skip
_NORMED = {"attn_out": "attention", "resid_mid": "attention", "mlp_out": "mlp"}


def compile_patches(
    patches: Patch | Iterable[Patch], model: HookedModel, prompt_tokens: int | None = None
) -> dict[str, Spec]:
    """The specs that do what ``patches`` do, by TransformerLens hook name.

    Args:
        patches: several act together.
        model: the model; the specs depend on what its nodes write.
        prompt_tokens: length of the one prompt that is run forward with them. None when replies are made to many:
            then only ``positions="all"`` can be expressed.

    Returns:
        What ``RemoteBridge.forward(ids, intervene=...)`` and its workers take; values are ``d_model`` numbers.

    Raises:
        PatchError: a patch cannot be expressed; says which and why.

    Example:
        >>> import emotion_circuits as ec
        >>> from emotion_circuits.backends import compile_patches
        >>> model = ec.HookedModel.demo()
        >>> compile_patches(ec.Patch(ec.Residual.of(model, 1), ec.Scale(0.5), "all"), model)
        {'blocks.1.hook_out': {'op': 'scale', 'factor': 0.5}}
    """
    held = [patches] if isinstance(patches, Patch) else list(patches)
    for patch in held:
        if patch.rows is not None:
            raise PatchError("vLLM applies one transform to all requests; run the rows of this patch by themselves")
    parts = patching.compile_patches(held, model.dims)
    places: dict[str, tuple[Affine, Tokens]] = {}
    for site, layer in sorted(parts, key=lambda place: (place[1], _ORDER.index(place[0]))):
        name = _place(site, layer)
        for part in parts[site, layer]:
            tokens = _tokens(part.patch.positions, prompt_tokens)
            if tokens == ():
                continue
            affine = _behind_the_site(part.patch, part.where, model, replying=prompt_tokens is None)
            before, others = places.get(name, (None, tokens))
            if others != tokens:
                raise PatchError(f"patches with different positions meet at {name}, where vLLM can hold only one spec")
            places[name] = (affine if before is None else before.then(affine)), tokens
    return {
        name: affine.spec() | ({} if tokens is None else {"pos": list(tokens)})
        for name, (affine, tokens) in places.items()
    }


def _place(site: Site, layer: int) -> str:
    if site == "resid_pre":
        if layer == 0:
            raise PatchError("vLLM has no place before layer 0 that is the residual in every architecture; patch later")
        return _place("resid_post", layer - 1)
    return f"blocks.{layer}.{_PLACE[site]}"


def _tokens(positions: Position | Tensor, prompt_tokens: int | None) -> Tokens:
    """Which tokens are meant; an empty tuple for none."""
    if isinstance(positions, str) and positions == "all":
        return None
    if prompt_tokens is None:
        said = repr(positions) if isinstance(positions, str) else "given by a mask"
        raise PatchError(
            f"positions {said} cannot be expressed while replies are made: vLLM's transforms act on every token of "
            "every request, the prompt's too; use positions='all' (choose the strength for it), or generate with hooks"
        )
    if isinstance(positions, Tensor):
        if len(positions) != 1:
            raise PatchError(f"positions are a mask for {len(positions)} prompts; vLLM is given one at a time")
        chosen = positions[0, -prompt_tokens:].nonzero().flatten()
        return tuple((chosen + max(0, prompt_tokens - positions.shape[1])).tolist())
    if positions == "prompt":
        return None
    return (prompt_tokens - 1,) if positions in ("last", "last_prompt") else ()


def _behind_the_site(patch: Patch, where: Where, model: HookedModel, *, replying: bool) -> Affine:
    """What a part of a patch does to the output that vLLM can change."""
    site, layer = where.site, where.layer
    shape = model.dims.unit_shape(site)
    if where.units is not None:
        affine = affine_of(patch.intervention, where, (len(where.units), *shape[1:]), replying=replying)
        return _through_projection(affine, where, model, whole=len(where.units) == shape[0])
    affine = affine_of(patch.intervention, where, shape, replying=replying)
    if site in _NORMED and model.sites.write_norm(_NORMED[site], layer) is not None:  # pyright: ignore[reportArgumentType]
        raise PatchError(f"this architecture norms what the sublayer writes, and vLLM cannot change {site} behind it")
    if site == "resid_mid" and affine.factor != 1.0:
        raise PatchError(
            "vLLM never holds resid_mid, to which only a shift can be added; use resid_post, or generate with hooks"
        )
    return affine


def _through_projection(affine: Affine, where: Where, model: HookedModel, *, whole: bool) -> Affine:
    """A transform of nodes, as one of what their output projection gives."""
    kind: NodeKind = "head" if where.site == "head" else "neuron"
    assert where.units is not None
    if affine.factor != 1.0 and not whole:
        raise PatchError(
            f"{len(where.units)} {kind}s of layer {where.layer} are ablated or scaled, but vLLM computes {kind}s "
            "inside a fused kernel: a constant can be added to some of them, and only all of them can be ablated or "
            "scaled; generate with hooks instead"
        )
    weight = model.writes(kind, where.layer)
    rows = weight[where.units.to(weight.device)].detach().double().cpu()
    shift = affine.shift.flatten() @ rows.reshape(-1, rows.shape[-1])
    bias = model.sites.port(kind, where.layer).module.bias
    if isinstance(bias, Tensor) and affine.factor != 1.0:
        shift = shift + (1.0 - affine.factor) * bias.detach().double().cpu()
    return Affine(affine.factor, torch.as_tensor(shift))
