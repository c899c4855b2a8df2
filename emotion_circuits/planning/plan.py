"""The plan of a run: cost of every stage, how the model and the batches fit the devices, and how long it takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from emotion_circuits.errors import DeviceError
from emotion_circuits.model.estimates import batch_bytes, readable, readable_time
from emotion_circuits.planning.cost import Cost, batches_of, cost_of
from emotion_circuits.planning.devices import Device
from emotion_circuits.planning.shapes import ModelShape
from emotion_circuits.planning.workload import Lengths, Scale, workload

if TYPE_CHECKING:
    import pandas as pd

_USABLE = 0.85  # of a device's memory
MAX_ROWS = 256


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        shape: the model's.
        device: one device.
        n_devices: how many there are.
        devices_per_copy: over which one copy of the model is spread.
        batch_size: rows in a batch.
        rows_that_fit: most rows that the memory takes.
        costs: of every stage, all processes together.
        elapsed: seconds of every stage with all copies at work.
        weights: bytes of one copy.
    """

    shape: ModelShape
    device: Device
    n_devices: int
    devices_per_copy: int
    batch_size: int
    rows_that_fit: int
    costs: dict[str, Cost]
    elapsed: dict[str, float]
    weights: int

    @property
    def copies(self) -> int:
        """Processes, each with a copy of the model."""
        return self.n_devices // self.devices_per_copy

    @property
    def seconds(self) -> float:
        """How long the run takes."""
        return sum(self.elapsed.values())

    @property
    def efficiency(self) -> float:
        """Share of the processes' time in which they work; the rest they wait for others' last batches."""
        return sum(cost.seconds for cost in self.costs.values()) / max(1e-12, self.copies * self.seconds)

    def to_frame(self) -> pd.DataFrame:
        """One row per stage: ``stage, flops, bytes, device_seconds, seconds``; the last one is the sum."""
        import pandas as pd

        rows = [
            {"stage": s, "flops": c.flops, "bytes": c.bytes, "device_seconds": c.seconds * self.devices_per_copy,
             "seconds": self.elapsed[s]}
            for s, c in self.costs.items()
        ]  # fmt: skip
        frame = pd.DataFrame(rows)
        total = pd.DataFrame([{"stage": "all", **frame.drop(columns="stage").sum()}])
        return pd.concat([frame, total], ignore_index=True)

    def __str__(self) -> str:
        rates = "assumed shares of its data sheet" if self.device.assumed else "measured here"
        spread = f", each over {self.devices_per_copy} devices" if self.devices_per_copy > 1 else ""
        return "\n".join(
            [
                f"{self.shape.name}: {self.shape.parameters / 1e9:.3g} B parameters, {readable(self.weights)}",
                f"{self.n_devices} x {self.device.name} ({self.device.flops:.3g} FLOP/s and "
                f"{self.device.bandwidth:.3g} bytes/s reached: {rates}): {self.copies} "
                f"process{'es' if self.copies > 1 else ''} with a copy of the model{spread}",
                f"batches of {self.batch_size} (up to {self.rows_that_fit} fit); processes work "
                f"{100 * self.efficiency:.0f} % of the time",
                f"about {readable_time(self.seconds)}",
            ]
        )


def plan(
    shape: ModelShape,
    scale: Scale,
    lengths: Lengths,
    device: Device,
    n_devices: int | None = None,
    *,
    itemsize: int = 2,
    batch_size: int | None = None,
) -> Plan:
    """The cost of a whole run.

    Args:
        shape: of the model.
        scale: how much data.
        lengths: tokens of prompts and replies.
        device: one device.
        n_devices: how many there are; by default the fewest that hold a copy of the model.
        itemsize: bytes of a weight: 2 in bfloat16.
        batch_size: rows in a batch; by default what fits, but few enough for every process to get one.

    Raises:
        DeviceError: one copy of the model needs more devices than ``n_devices``.
    """
    weights = itemsize * shape.parameters
    per_copy = max(1, ceil(weights / (_USABLE * device.memory)))
    while (rows := _rows(shape, lengths, itemsize, per_copy * _USABLE * device.memory - weights)) < 1:
        per_copy += 1
    n_devices = per_copy if n_devices is None else n_devices
    if per_copy > n_devices:
        raise DeviceError(
            f"one copy of {shape.name} takes {per_copy} x {device.name}, and there are {n_devices}; give --devices "
            f"{per_copy} or more, a device with more memory, or a smaller dtype"
        )
    copies, jobs = n_devices // per_copy, workload(shape, scale, lengths)
    # The fewest prompts of one call that generates: every process should get a batch of them.
    share = ceil(min(job.n / job.calls for job in jobs if job.n and job.kind == "generate") / copies)
    chosen = batch_size or max(1, min(MAX_ROWS, rows, share if copies > 1 else rows))
    costs: dict[str, Cost] = {}
    elapsed: dict[str, float] = {}
    for job in jobs:
        cost, batches = cost_of(job, shape, device, itemsize, chosen), batches_of(job, chosen)
        costs[job.stage] = costs.get(job.stage, Cost()) + cost
        rounds = job.calls * ceil(batches / job.calls / copies)
        elapsed[job.stage] = elapsed.get(job.stage, 0.0) + cost.seconds * rounds / max(1, batches)
    return Plan(shape, device, n_devices, per_copy, chosen, rows, costs, elapsed, weights)


def _rows(shape: ModelShape, lengths: Lengths, itemsize: int, free: float) -> int:
    """Rows that fit into ``free`` bytes in every stage."""
    fitting = []
    for stage in ("directions", "attribute", "heads", "influence", "generate", "score"):
        held = (batch_bytes(shape.dims, itemsize, stage, rows, lengths.prompt, lengths.reply) for rows in (0, 1))
        none, one = (sum(parts.values()) for parts in held)
        fitting.append(int((free - none) // max(1, one - none)))
    return min(fitting)
