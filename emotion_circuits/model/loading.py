"""Loading: a Hugging Face model, its tokenizer, and the TransformerLens twin that shares every weight.

The twin is a deep copy in which tensors are not copied, so it costs no memory and an edit of a weight shows in
both. TransformerLens rewrites the model that it is given (attention implementation, submodules); the twin takes
that, and the Hugging Face model stays untouched.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from emotion_circuits.errors import DeviceError, ModelError
from emotion_circuits.model.sites import SiteMap
from emotion_circuits.types import ModelDims

DTYPES: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64,
}  # fmt: skip


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype of that name."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def as_device(device: str | torch.device | None) -> torch.device:
    """The device, once it is known to be there; None picks CUDA, then Apple's MPS, then the CPU."""
    if device is None or str(device) == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"unknown device {device!r}; use cpu, cuda, cuda:1 or mps") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "device 'cuda' was asked for, but torch sees no CUDA GPU; use --device cpu, or install a CUDA build"
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {device!r} was asked for, but there are {torch.cuda.device_count()} CUDA GPUs")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' was asked for, but it is not available here; use --device cpu")
    return chosen


def load_hf(
    name_or_folder: str | Path,
    dtype: torch.dtype,
    device: torch.device | None,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
    **options: Any,
) -> tuple[Any, Any]:
    """The Hugging Face model and tokenizer of a hub name or a local folder.

    Raises:
        ModelError: there is no such model, or its files cannot be read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name, common = str(name_or_folder), {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", **common)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **common, **options)
    except Exception as error:  # transformers, huggingface_hub, safetensors and tokenizers each raise their own
        raise ModelError(f"cannot load the model {name!r}: {_first_line(error)}{_hint(name)}") from error
    # device_map has placed the model already
    return (model if device is None else model.to(device)), tokenizer  # pyright: ignore[reportArgumentType]


def twin_of(hf: Any) -> Any:
    """The TransformerBridge of a weight-sharing copy of ``hf``.

    Raises:
        ModelError: TransformerLens does not know the architecture.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    hf.config.architectures = hf.config.architectures or [type(hf).__name__]
    shared = {id(tensor): tensor for tensor in (*hf.parameters(), *hf.buffers())}
    twin = copy.deepcopy(hf, shared)
    try:
        # TransformerLens reads attention patterns, which only the eager implementation returns.
        twin.set_attn_implementation("eager")
        return build_bridge_from_module(twin, hf.config.architectures[0], hf_config=twin.config)
    except Exception as error:
        raise ModelError(
            f"TransformerLens cannot wrap {hf.config.architectures[0]}: {_first_line(error)}. It supports most "
            "decoder-only architectures; see its model table"
        ) from error


def prepare_tokenizer(tokenizer: Any) -> Any:
    """A tokenizer of our own with a padding token; the one given stays as it is."""
    if tokenizer is None:
        return None
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def dims_from(cfg: Any, hf: Any, sites: SiteMap) -> ModelDims:
    """The sizes, from TransformerLens's configuration; a model whose MLPs are not dense counts no neurons."""
    text_config = hf.config.get_text_config()
    dense = all(sites.has("neuron", layer) for layer in range(cfg.n_layers))
    return ModelDims(
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        n_key_value_heads=getattr(cfg, "n_key_value_heads", None) or cfg.n_heads,
        d_model=cfg.d_model,
        d_head=cfg.d_head,
        d_mlp=(cfg.d_mlp or text_config.intermediate_size) if dense else 0,
        d_vocab=text_config.vocab_size,
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _hint(name: str) -> str:
    if Path(name).is_dir():
        return ". The folder must hold config.json, safetensors weights and a tokenizer"
    return (
        ". Give a Hugging Face name such as 'Qwen/Qwen2.5-7B-Instruct' (needs network, or a filled cache), a local "
        "folder, or 'demo'"
    )
