r"""Baking: a circuit's modulation as biases of an ordinary checkpoint (method.md, stage 7).

A constant that is added to activations at every position is a bias one matrix later:

.. math:: b_O[l] = s \sum_{h \in C} \Delta z[l,h]\, W_O[l,h]
.. math:: b_\text{down}[l] = s \sum_{n \in C} \Delta a[l,n]\, W_\text{down}[l,n]

1. Compute both from the circuit C, the contrast and the strength s.
2. Qwen2, Llama and Mistral checkpoints become a plain ``LlamaForCausalLM`` with ``attention_bias`` and ``mlp_bias``,
   which has a place for both; biases that the model had (Qwen2: q, k, v) are kept, those it lacked are zero.
3. Qwen3 normalises queries and keys, which no stock architecture with MLP biases does; its own ``attention_bias``
   has a place for heads alone.

The result needs no hooks and none of this package. It acts on prompt tokens too, as a patch with positions ``all``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from emotion_circuits.activations import Activations, Contrast
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.errors import ArtefactError, ModelError, PatchError
from emotion_circuits.interventions import Enhancement
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import NodeSet
from emotion_circuits.provenance import versions
from emotion_circuits.types import NodeKind

Phase = Literal["prompt", "reply"]
"""Which part of a contrast; one constant can hold only one of them."""

_MODULES: dict[NodeKind, str] = {"head": "self_attn.o_proj", "neuron": "mlp.down_proj"}
_AS_LLAMA = ("llama", "mistral", "qwen2")
_KEPT = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_parameters",
    "initializer_range", "attention_dropout", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip


def bake(
    model: HookedModel, circuit: Circuit | NodeSet, enhancement: Enhancement, folder: str | Path, *,
    phase: Phase = "reply", allow_mismatch: bool = False,
) -> Path:  # fmt: skip
    """Write a standard checkpoint that behaves like the model with ``Patch(circuit.nodes, enhancement, "all")``.

    Args:
        model: the model, with its tokenizer.
        circuit: the nodes; a `Circuit` must be of this model.
        enhancement: what is added to them.
        folder: a new or empty folder; loads with ``AutoModelForCausalLM.from_pretrained(folder)``.
        phase: the part of a `Contrast` that is added everywhere. ``"reply"`` (the one measured over reply tokens, and
            the prompt part where there is none) suits most tokens that are generated.
        allow_mismatch: accept a circuit of another model of the same sizes.

    Returns:
        The folder. ``emotion_circuit.json`` in it says what was baked.

    Raises:
        ModelError: no stock architecture can hold this modulation of this model.
        PatchError: the nodes are of a model of another shape.
        ArtefactError: the circuit is of another model; or the folder is not empty, or cannot be written.

    Example:
        >>> import tempfile, emotion_circuits as ec
        >>> model = ec.HookedModel.demo()
        >>> add = ec.Enhancement(ec.Activations(neurons=torch.ones(model.dims.n_layers, model.dims.d_mlp)), 0.1)
        >>> path = ec.bake(model, ec.NodeSet.of(model, "L1N3"), add, tempfile.mkdtemp())
        >>> (path / "config.json").exists()
        True
    """
    nodes = circuit.nodes if isinstance(circuit, Circuit) else circuit
    if isinstance(circuit, Circuit):
        circuit.check(model, what="what is to be baked", allow_mismatch=allow_mismatch)
    config = _config(model, nodes)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtefactError(f"{folder} exists and is not an empty folder; give a new one")
    baked = _build(model, config, biases(model, nodes, enhancement, phase))
    half = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(half, ignore_errors=True)
        baked.save_pretrained(half)
        model.tokenizer.save_pretrained(half)
        record = json.dumps(_record(model, circuit, nodes, enhancement, phase), indent=2, ensure_ascii=False)
        (half / "emotion_circuit.json").write_text(record + "\n", encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        half.rename(folder)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
        raise ArtefactError(f"cannot write {folder}: {error}") from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return folder


def biases(
    model: HookedModel, nodes: NodeSet, enhancement: Enhancement, phase: Phase = "reply"
) -> dict[NodeKind, Float[Tensor, "layer d_model"]]:
    """What the modulation adds to the residual in every layer, by the heads and by the neurons; in float64.

    Raises:
        PatchError: the nodes are of a model of another shape.
    """
    empty = NodeSet.empty(model)
    if nodes.neurons.shape != empty.neurons.shape or nodes.heads.shape != empty.heads.shape:
        raise PatchError(
            f"the circuit has shape {tuple(nodes.neurons.shape)} and {tuple(nodes.heads.shape)}, the model "
            f"{tuple(empty.neurons.shape)} and {tuple(empty.heads.shape)} (neurons, heads); bake it into its own model"
        )
    added = added_activations(enhancement, phase)
    kinds: tuple[NodeKind, ...] = ("head", "neuron")
    result: dict[NodeKind, Tensor] = {}
    for kind in kinds:
        rows = torch.zeros(model.dims.n_layers, model.dims.d_model, dtype=torch.float64)
        for layer in nodes.mask(kind).any(dim=1).nonzero().flatten().tolist():
            units = nodes.mask(kind)[layer].nonzero().flatten()
            change = added.at(kind, layer)[units].double().flatten()
            weight = model.writes(kind, layer)
            written = weight[units.to(weight.device)].double().cpu().reshape(len(change), -1)
            rows[layer] = enhancement.strength * change @ written
        result[kind] = rows
    return result


def added_activations(enhancement: Enhancement, phase: Phase = "reply") -> Activations:
    """The activations that a baked enhancement adds at strength 1: one part of its contrast."""
    contrast = enhancement.contrast
    if not isinstance(contrast, Contrast):
        return contrast
    return contrast.reply if phase == "reply" and contrast.reply is not None else contrast.prompt


def _config(model: HookedModel, nodes: NodeSet) -> Any:
    """Configuration of the checkpoint that can hold the modulation, or a `ModelError` that says why there is none."""
    from transformers import LlamaConfig, Qwen3Config

    if getattr(model.hf.config, "quantization_config", None) is not None:
        raise ModelError(f"cannot bake into {model.name}: its weights are quantised; load it unquantised, then bake")
    old, kind = model.hf.config, model.hf.config.model_type
    if kind == "qwen3":
        if nodes.n_neurons:
            raise ModelError(
                f"cannot bake {nodes.n_neurons} neurons into {model.name}: Qwen3 normalises queries and keys, and no "
                "stock architecture does so and has MLP biases; bake the heads alone (nodes.only('head')), or generate "
                "with hooks"
            )
        return Qwen3Config.from_dict({**old.to_dict(), "attention_bias": True})
    if kind not in _AS_LLAMA:
        raise ModelError(
            f"cannot bake into {model.name}, of architecture {kind!r}: a stock checkpoint can hold the modulation of "
            f"{', '.join(_AS_LLAMA)} and, for heads, qwen3; generate with hooks instead"
        )
    window = getattr(old, "sliding_window", None) if getattr(old, "use_sliding_window", True) else None
    if window is not None and window < old.max_position_embeddings:
        raise ModelError(
            f"cannot bake into {model.name}: it attends to the last {window} tokens only, and Llama, whose checkpoint "
            "has a place for the biases, to all; set sliding_window=None in its config if prompts and replies stay "
            "shorter than that"
        )
    kept = {name: getattr(old, name) for name in _KEPT if getattr(old, name, None) is not None}
    kept |= {"bos_token_id": old.bos_token_id, "head_dim": model.dims.d_head}  # Llama's own defaults are others
    return LlamaConfig(**kept, attention_bias=True, mlp_bias=True)


def _build(model: HookedModel, config: Any, added: Mapping[NodeKind, Tensor]) -> Any:
    """The new model on the old weights, with its biases; shares memory with the old one."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        baked = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    held = dict(model.hf.state_dict())
    for name, parameter in baked.state_dict().items():
        if name not in held:
            if not name.endswith("_proj.bias"):
                raise ModelError(f"cannot bake into {model.name}: it lacks the weight {name!r} that Llama has")
            held[name] = torch.zeros(parameter.shape, dtype=model.dtype)
    for layer in range(model.dims.n_layers):
        for kind, module in _MODULES.items():
            name = f"model.layers.{layer}.{module}.bias"
            if name in held:
                held[name] = (held[name].double().cpu() + added[kind][layer]).to(model.dtype)
    baked.load_state_dict(held, assign=True)
    baked.tie_weights()
    if model.hf.generation_config is not None:
        baked.generation_config = model.hf.generation_config
    return baked


def _record(
    model: HookedModel, circuit: Circuit | NodeSet, nodes: NodeSet, enhancement: Enhancement, phase: Phase
) -> dict[str, Any]:
    contrast = enhancement.contrast
    return {
        "schema": "emotion_circuits.baked/1",
        "model": model.name,
        "revision": model.revision,
        "emotion": circuit.emotion if isinstance(circuit, Circuit) else getattr(contrast, "emotion", None),
        "baseline": getattr(contrast, "baseline", None),
        "strength": enhancement.strength,
        "phase": phase,
        "positions": "all",
        "n_neurons": nodes.n_neurons,
        "n_heads": nodes.n_heads,
        "versions": versions(),
        "circuit": dict(circuit.provenance) if isinstance(circuit, Circuit) else {},
    }
