r"""Writes: what neurons and heads add to the residual, read off the weights.

1. An output projection (``down_proj``, ``o_proj``) has one row per unit: what a unit of activation writes. Quantised
   projections are dequantised one layer at a time.
2. Most models add the projection's output to the residual as it is. Gemma 2 and 3 norm it first:
   :math:`w_\text{post} \odot o / \mathrm{rms}(o)` with :math:`o = \sum_n a_n W_n` (+ bias). With the rms frozen at
   its value for the sample, the units' writes still sum to what was added, so
   :math:`a_n\,(W_n \odot w_\text{post}) / \mathrm{rms}(o)` is unit n's share (`unit_writes`, `write_scale`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from emotion_circuits.errors import ModelError
from emotion_circuits.types import NodeKind, Sublayer

if TYPE_CHECKING:
    from emotion_circuits.model.hooked_model import HookedModel

SUBLAYER_OF: dict[NodeKind, Sublayer] = {"neuron": "mlp", "head": "attention"}

_BITSANDBYTES = ("Params4bit", "Int8Params")


def projection_weight(module: nn.Module) -> Float[Tensor, "unit d_model"]:
    """The weight of an output projection with one row per input unit.

    Raises:
        ModelError: the weight is quantised in a way that cannot be undone here.
    """
    weight = dequantised(module)
    # GPT-2's Conv1D stores [in, out], a Linear [out, in].
    return weight if type(module).__name__ == "Conv1D" else weight.T


def dequantised(module: nn.Module) -> Float[Tensor, "out in"]:
    """A projection's weight in floating point; only the copy of a quantised one costs memory.

    Raises:
        ModelError: it is quantised and bitsandbytes is not installed, or by another library.
    """
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and type(weight).__name__ in _BITSANDBYTES:
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        try:
            return dequantize_bnb_weight(weight, getattr(module, "state", None))  # pyright: ignore[reportArgumentType]
        except (ImportError, NameError, AttributeError) as error:
            raise ModelError(
                "the weights are 8-bit or 4-bit, and reading what nodes write needs bitsandbytes to dequantise them; "
                "install it, or load the model with dtype='bfloat16'"
            ) from error
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.itemsize < 2:
        held = f"weights of type {weight.dtype}" if isinstance(weight, Tensor) else "no plain weight"
        raise ModelError(
            f"{type(module).__name__} has {held}, so what its units write cannot be read; only bitsandbytes' 8-bit and "
            "4-bit weights are dequantised. Load the model with dtype='bfloat16'"
        )
    return weight


def unit_writes(model: HookedModel, kind: NodeKind, layer: int) -> Float[Tensor, "unit d_model"]:
    """`projection_weight` with the weight of the norm that the write passes, if there is one.

    A head has ``d_head`` units. Times a sample's `write_scale` and the activations, this is what is added.
    """
    weight = projection_weight(model.sites.port(kind, layer).module)
    norm = model.sites.write_norm(SUBLAYER_OF[kind], layer)
    if norm is None:
        return weight
    _check_rms(norm)
    return weight * norm_weight(norm).to(weight)


def write_scale(
    model: HookedModel, kind: NodeKind, layer: int, activation: Float[Tensor, "*batch unit"]
) -> Float[Tensor, "*batch"] | None:
    """One over the rms that a write norm divides by, given all the activations of a sublayer; None without a norm."""
    norm = model.sites.write_norm(SUBLAYER_OF[kind], layer)
    if norm is None:
        return None
    projection = model.sites.port(kind, layer).module
    raw = projection(activation.to(device=_device(projection), dtype=model.dtype))
    raw = raw.double() if raw.dtype == torch.float64 else raw.float()
    return (raw.square().mean(dim=-1) + _check_rms(norm)).rsqrt().to(activation.device)


def norm_weight(norm: nn.Module) -> Float[Tensor, " d_model"]:
    """The factor by which a norm scales each coordinate, apart from its division by the rms."""
    weight: Tensor = norm.weight  # type: ignore[assignment]
    return 1.0 + weight if "Gemma" in type(norm).__name__ else weight


def without_heads(
    model: HookedModel,
    layer: int,
    resid_mid: Float[Tensor, "batch d_model"],
    z: Float[Tensor, "batch head d_head"],
) -> Float[Tensor, "batch head d_model"]:
    """The residual after attention if one head had written nothing, for every head, in float32 or better."""
    weight = precise(model.writes("head", layer))
    z, resid_mid = z.to(weight), resid_mid.to(weight)
    write = einsum(z, weight, "batch head d_head, head d_head d_model -> batch head d_model")
    norm = model.sites.write_norm("attention", layer)
    if norm is None:
        return resid_mid[:, None] - write
    # Removing a head also changes the scale of the others, so the norm is applied anew.
    raw = precisely(model.sites.port("head", layer).module, z.flatten(-2))
    return resid_mid[:, None] - precisely(norm, raw)[:, None] + precisely(norm, raw[:, None] - write)


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is when it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def precisely(module: nn.Module, x: Tensor) -> Tensor:
    """A module's output in float32 or better: the small difference of two outputs would drown in bfloat16."""
    parameters = {name: precise(value) for name, value in module.named_parameters()}
    if any(value.is_meta for value in parameters.values()):
        return module(x)  # offloaded weights are only there while the module itself is called
    return torch.func.functional_call(module, parameters, (precise(x),))


def _check_rms(norm: nn.Module) -> float:
    """The norm's epsilon, once it is known to be an RMS norm: only then is the write linear in a frozen scale."""
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if epsilon is None or isinstance(norm, nn.LayerNorm) or getattr(norm, "bias", None) is not None:
        raise ModelError(
            f"writes of this model pass a {type(norm).__name__}, which is not an RMS norm, so closed-form scores have "
            "no exact form; use ActivationPatching or AttributionPatching"
        )
    return float(epsilon)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
