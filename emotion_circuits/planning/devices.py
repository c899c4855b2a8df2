"""Devices: what they could do, and what a run gets of it.

A layer call takes the time of its matrix products (or of reading their weights), that of its element-wise operations
and exponentials, and the time in which Python and the libraries get it under way. All rates and times are measured by
themselves where the device is at hand (`measured_device`: a product, an addition, a softmax, a forward pass of one
token, ...), and otherwise assumed (`assumed_device`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from statistics import median
from typing import Any

from emotion_circuits.errors import DeviceError

FLOPS_SHARE, BANDWIDTH_SHARE = 0.45, 0.6
"""Assumed of a GPU that was not measured: what is reached of its peaks."""
LAUNCH, KERNELS = 10e-6, 45
"""Seconds for one kernel to get under way from Python, assumed; and kernels of a Qwen2 layer, counted (`test_plan`)."""
STEP, PROMPT, NOISE = 2e-3, 4e-4, 3e-9
"""Seconds of the host, assumed: between two decoding steps, per prompt, and per number drawn in sampling."""


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: its name.
        flops: floating-point operations per second that matrix products reach.
        bandwidth: bytes per second at which weights are read.
        memory: in bytes.
        passing: bytes per second that element-wise operations read and write.
        exponentials: per second, in a softmax.
        layer_seconds: the host's time to get one layer call under way.
        step_seconds: the host's time between two decoding steps.
        prompt_seconds: the host's time for one prompt: its template, its tokens, its place in a batch.
        noise_seconds: the host's time for one random number, of which sampling takes one for each token that could be.
        overlaps: whether the host gets the next operation under way while one runs, as it does for a GPU.
        assumed: whether rates are shares of a data sheet's, and not measured.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float
    passing: float
    exponentials: float
    layer_seconds: float = 0.0
    step_seconds: float = 0.0
    prompt_seconds: float = 0.0
    noise_seconds: float = 0.0
    overlaps: bool = False
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
            return assumed_device(known, flops, memory, bandwidth)
    raise DeviceError(f"unknown device {name!r}; use cpu (measured here), or one of {', '.join(table)}")


def assumed_device(name: str, flops: float, memory: float, bandwidth: float) -> Device:
    """A GPU by its data sheet: peak FLOP/s, memory in bytes, peak bytes/s."""
    reached = BANDWIDTH_SHARE * bandwidth
    return Device(
        name, FLOPS_SHARE * flops, reached, memory, reached, reached / 8, LAUNCH * KERNELS, STEP, PROMPT, NOISE,
        overlaps=True,
    )  # fmt: skip


def measured_device(clock: Callable[[], float] = time.perf_counter) -> Device:
    """This machine's CPU with its present number of threads, in float32; takes some ten seconds.

    Args:
        clock: ``time.process_time`` on a machine that is shared, with one thread.
    """
    import psutil
    import torch

    wide, tall = torch.randn(512, 1024), torch.randn(1024, 4096)
    row, matrix = torch.randn(1, 4096), torch.randn(4096, 4096)
    some, scores = torch.randn(1024, 1024), torch.randn(512, 2048)
    noise = torch.Generator().manual_seed(0)
    device = Device(
        "cpu",
        flops=2 * 512 * 1024 * 4096 / _usual(lambda: wide @ tall, clock),
        bandwidth=matrix.nbytes / _usual(lambda: row @ matrix, clock),
        memory=psutil.virtual_memory().total,
        passing=3 * some.nbytes / _usual(lambda: some + some, clock),
        exponentials=scores.numel() / _usual(lambda: scores.log_softmax(dim=-1), clock),
        noise_seconds=_usual(lambda: torch.rand(2048, generator=noise).log_().log_(), clock) / 2048,
        assumed=False,
    )
    return replace(device, **_host_times(clock))


def _host_times(clock: Callable[[], float]) -> dict[str, float]:
    """The host's part of a layer call, a decoding step and a prompt, on the demo model, whose matrices take little."""
    import torch

    from emotion_circuits.data.sev import load_sev
    from emotion_circuits.generation import GenerationConfig, generate
    from emotion_circuits.model import HookedModel

    model, prompts = HookedModel.demo(), load_sev("demo")[0].prompts("anger")
    one = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        forward = _usual(lambda: model.hf.base_model(input_ids=one, use_cache=False), clock)

    def seconds(tokens: int) -> float:
        config = GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens)
        return _usual(lambda: generate(model, prompts[:1], config=config), clock, runs=3)

    step = (seconds(24) - seconds(4)) / 20
    return {
        "layer_seconds": forward / model.dims.n_layers,
        "step_seconds": max(0.0, step - forward),
        "prompt_seconds": _usual(lambda: model.tokens(prompts), clock, runs=3) / len(prompts),
    }


def _usual(work: Callable[[], Any], clock: Callable[[], float], runs: int = 7) -> float:
    """The median of several runs, each long enough for the clock; a plan is of what is usual, not of the best."""
    times = []
    for _ in range(runs):
        start, n = clock(), 0
        while clock() - start < 0.05 or n == 0:
            work()
            n += 1
        times.append((clock() - start) / n)
    return median(times)
