"""Devices: what they could do, and what a run gets of it.

A layer call takes the longest of its matrix products, its reading of memory, and the time in which Python and the
libraries get it under way. The shares of the peak that are reached, and that time, are measured where the device is
at hand (`measured_device`), and otherwise assumed (`SHARES`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from emotion_circuits.errors import DeviceError

SHARES = {"flops": 0.45, "bandwidth": 0.6, "layer_seconds": 5e-4, "prompt_seconds": 4e-4}
"""Assumed of a GPU that was not measured: shares of its peaks, and the host's time per layer call and prompt."""


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: its name.
        flops: floating-point operations per second that matrix products reach.
        bandwidth: bytes per second that are read.
        memory: in bytes.
        layer_seconds: the host's time to get one layer call under way.
        prompt_seconds: the host's time for one prompt: its template, its tokens, its place in a batch.
        assumed: whether rates are shares of a data sheet's, and not measured.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float
    layer_seconds: float
    prompt_seconds: float
    assumed: bool = True


def device_named(name: str) -> Device:
    """A device of the table, by name without regard to case; ``"cpu"`` is measured.

    Raises:
        DeviceError: it is not in the table.
    """
    if name.lower() == "cpu":
        return measured_device()
    import yaml

    table = yaml.safe_load(files("emotion_circuits.planning").joinpath("devices.yaml").read_text(encoding="utf-8"))
    for known, (flops, memory, bandwidth) in table.items():
        if known.lower() == name.lower():
            return Device(
                known, SHARES["flops"] * flops, SHARES["bandwidth"] * bandwidth, memory, SHARES["layer_seconds"],
                SHARES["prompt_seconds"],
            )  # fmt: skip
    raise DeviceError(f"unknown device {name!r}; use cpu (measured here), or one of {', '.join(table)}")


def measured_device(clock: Callable[[], float] = time.perf_counter) -> Device:
    """This machine's CPU with its present number of threads, in float32; takes a few seconds.

    Args:
        clock: ``time.process_time`` on a machine that is shared, with one thread.
    """
    import psutil
    import torch

    wide, tall = torch.randn(512, 1024), torch.randn(1024, 4096)
    flops = 2 * 512 * 1024 * 4096 / _best(lambda: wide @ tall, clock)
    row, matrix = torch.randn(1, 4096), torch.randn(4096, 4096)
    bandwidth = matrix.nbytes / _best(lambda: row @ matrix, clock)
    device = Device("cpu", flops, bandwidth, psutil.virtual_memory().total, 0.0, 0.0, assumed=False)
    return replace(device, **_host_times(clock))


def _host_times(clock: Callable[[], float]) -> dict[str, float]:
    """The host's part of a layer call and of a prompt, on the demo model, whose matrices take next to no time."""
    import torch

    from emotion_circuits.data.sev import load_sev
    from emotion_circuits.model import HookedModel

    model, prompts = HookedModel.demo(), load_sev("demo")[0].prompts("anger")
    one = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        forward = _best(lambda: model.hf.base_model(input_ids=one, use_cache=False), clock)
    return {
        "layer_seconds": forward / model.dims.n_layers,
        "prompt_seconds": _best(lambda: model.tokens(prompts), clock, runs=3) / len(prompts),
    }


def _best(work: Callable[[], Any], clock: Callable[[], float], runs: int = 7) -> float:
    """The shortest of several runs, each long enough for the clock."""
    times = []
    for _ in range(runs):
        start, n = clock(), 0
        while clock() - start < 0.05 or n == 0:
            work()
            n += 1
        times.append((clock() - start) / n)
    return min(times)
