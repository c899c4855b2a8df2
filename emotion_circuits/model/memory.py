"""Memory: how much of it is free, and whether an error says that there is none left."""

from __future__ import annotations

import sys
from typing import Any

import torch

_EXHAUSTED = ("out of memory", "can't allocate memory", "cannot allocate memory")


def free_memory(device: torch.device | str) -> int:
    """Bytes that can still be had on a device; a very large number where nobody can tell, as on the meta device."""
    device = torch.device(device)
    if device.type == "cuda":
        # What torch holds in reserve is not free for others, but is for us.
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    if device.type == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    return sys.maxsize


def free_for(module: Any) -> int:
    """`free_memory` where a module's parameters are; the least, when they are on several devices."""
    return min(free_memory(device) for device in {parameter.device for parameter in module.parameters()})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory, or the machine's, is used up."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _EXHAUSTED)
