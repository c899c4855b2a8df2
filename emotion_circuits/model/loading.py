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

from emotion_circuits import distributed
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
    """The device, once it is known to be there; None picks CUDA, then Apple's MPS, then the CPU.

    Of several processes on a machine, each gets a GPU of its own where no number is given.
    """
    mine, processes = distributed.local_place()
    if processes > 1 and torch.cuda.is_available() and (device is None or str(device) == "cuda"):
        return torch.device("cuda", mine % torch.cuda.device_count())
    if device is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"unknown device {device!r}; use cpu, cuda, cuda:1, mps or auto") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "device 'cuda' was asked for, but torch sees no CUDA GPU; use --device cpu, or install a CUDA build"
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {device!r} was asked for, but there are {torch.cuda.device_count()} CUDA GPUs")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' was asked for, but it is not available here; use --device cpu")
    return chosen


def over_all_devices() -> dict[str, Any]:
    """Options of ``from_pretrained`` that spread a model over this machine's GPUs, or this process's part of them.

    Raises:
        DeviceError: there are more processes than GPUs.
    """
    n, (mine, processes) = torch.cuda.device_count(), distributed.local_place()
    if n == 0:
        return {"device_map": "cpu"}
    own = range(n)[mine * n // processes : (mine + 1) * n // processes]
    if not own:
        raise DeviceError(f"{processes} processes cannot spread models over {n} GPUs; start fewer on each machine")
    return {"device_map": "auto", "max_memory": {i: torch.cuda.mem_get_info(i)[0] for i in own}}


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
        ModelError: there is no such model, its files cannot be read, or its layers would be cut into parts.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if cut := sorted({"tp_plan", "tp_size", "distributed_config", "device_mesh"} & options.keys()):
        raise ModelError(
            f"{', '.join(cut)}: tensor parallelism cuts every layer's neurons and heads into parts, of which a process "
            "sees its own alone, so that they can neither be read nor patched; use device='auto', which spreads whole "
            "layers over several GPUs"
        )

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
