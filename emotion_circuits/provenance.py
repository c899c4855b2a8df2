"""Provenance: where a result came from, so that it can be made again and is not mixed up with another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from emotion_circuits.data.prompts import Prompt

_PACKAGES = ("emotion-circuits", "torch", "transformers", "transformer-lens")


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """Hash of the prompts' content and order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(repr((prompt.messages, prompt.text, prompt.emotion)).encode())
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
