"""Devices: what they could do, and what a run gets of it.

A layer call takes the time of its matrix products (or of reading their weights), that of its element-wise operations
and exponentials, of attending to what is in the cache, and the time in which Python and the libraries get it under way.
All rates and times are measured by themselves where the device is at hand (`measured_device`), and otherwise assumed
(`assumed_device`).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from emotion_circuits.errors import DeviceError

FLOPS_SHARE, BANDWIDTH_SHARE = 0.45, 0.6
"""Assumed of a GPU that was not measured: what is reached of its peaks."""
LAUNCH, KERNELS = 10e-6, 45
"""Seconds for one kernel to get under way from Python, assumed; and kernels of a Qwen2 layer, counted (`test_plan`)."""
PATCH_KERNELS = 3
"""Kernels that the circuits of a batch add to a layer, counted (`test_plan`)."""
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
        caching: bytes per second of keys and values that decoding joins to a cache and reads from it.
        layer_seconds: the host's time to get one layer call under way.
        patch_seconds: the host's time more for a layer call with a circuit's patches.
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
    caching: float = float("inf")
    layer_seconds: float = 0.0
    patch_seconds: float = 0.0
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
        from emotion_circuits.planning.measuring import measured_device

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
        name, FLOPS_SHARE * flops, reached, memory, reached, reached / 8, reached, LAUNCH * KERNELS,
        LAUNCH * PATCH_KERNELS, STEP, PROMPT, NOISE, overlaps=True,
    )  # fmt: skip
