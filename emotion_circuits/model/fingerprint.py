"""A model's fingerprint: a hash of a sample of its weights, cheap enough to be taken with every result.

1. From every parameter, in the order of their names, take `SAMPLES` values at even distances.
2. Round them to bfloat16, so that a checkpoint has one fingerprint whether it is loaded in bfloat16 or in float32.
3. Hash names, shapes and values.

A fine-tuned model differs from its base in nearly every weight that was trained, so a sample is enough to tell them
apart. Quantised weights, and float16 made from float32, have fingerprints of their own.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

SAMPLES = 64


@torch.no_grad()
def fingerprint(module: nn.Module) -> str | None:
    """16 hexadecimal digits, or None where weights are not in memory (offloaded ones)."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        if parameter.is_meta:
            return None
        flat = parameter.detach().reshape(-1)
        held = flat[:: max(1, len(flat) // SAMPLES)][:SAMPLES].to("cpu", torch.bfloat16)
        digest.update(f"{name} {tuple(parameter.shape)} ".encode())
        digest.update(held.contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
