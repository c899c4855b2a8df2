"""Provenance: where a result came from, so that it can be made again and is not mixed up with another."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from emotion_circuits.data.prompts import Prompt

_PACKAGES = (
    "emotion-circuits", "torch", "transformers", "transformer-lens", "tokenizers", "safetensors", "numpy", "pandas",
    "pyarrow",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def processor() -> str:
    """What computes here, as far as rounding depends on it: the CPU's kind and instructions, and the GPU's name."""
    names = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return ", ".join(names)


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """Hash of the prompts' content and order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(repr((prompt.messages, prompt.text, prompt.emotion)).encode())
    return digest.hexdigest()


def content_hash(value: object) -> str:
    """Hash of what a value holds: numbers, texts, tensors, and collections and dataclasses of them, e.g. patches.

    Anything else counts by its ``repr``, so that two values of unknown kinds are rather taken for different.
    """
    digest, tensors = hashlib.sha256(), {}

    def add(held: object) -> None:
        if isinstance(held, Tensor):
            # Patches of many rows share their tensors.
            if id(held) not in tensors:
                raw = held.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                tensors[id(held)] = f"{tuple(held.shape)} {held.dtype} {hashlib.sha256(raw).hexdigest()}"
            digest.update(tensors[id(held)].encode())
        elif is_dataclass(held) and not isinstance(held, type):
            digest.update(type(held).__qualname__.encode())
            add({field.name: getattr(held, field.name) for field in fields(held)})
        elif isinstance(held, Mapping):
            digest.update(b"{")
            for key, inner in held.items():
                add(key)
                add(inner)
            digest.update(b"}")
        elif isinstance(held, list | tuple):
            digest.update(b"[")
            for inner in held:
                add(inner)
            digest.update(b"]")
        else:
            digest.update(f"{held!r} ".encode())

    add(value)
    return digest.hexdigest()


def provenance(model: Any, prompts: Sequence[Prompt], **settings: Any) -> dict[str, Any]:
    """Model, data, versions and settings, as JSON can hold them."""
    return {
        "model": model.name,
        "revision": model.revision,
        "weights": model.fingerprint(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "prompts_sha256": prompts_hash(prompts),
        "n_prompts": len(prompts),
        "versions": versions(),
        "settings": settings,
    }
