r"""The cost of a job on a device.

A forward call of B rows with q new tokens each, after c tokens that are in the cache, takes per layer

FLOPs    :math:`B q\,(2 P + 4 h\,(c + q/2))`, with P the layer's parameters and h its heads' width; a logit adds 2 d
bytes    the layer's weights once, what activations write and read, and the cache of every row
seconds  max(FLOPs / rate, bytes / bandwidth) + the host's time for the call

Generation is one call for the prompts and one for every further token; a suffix job one for the prompts and, for the
variants, half of the layers in calls of up to 2,048 rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from emotion_circuits.model.suffix import ROWS
from emotion_circuits.planning.devices import Device
from emotion_circuits.planning.shapes import ModelShape
from emotion_circuits.planning.workload import Job


@dataclass(frozen=True)
class Cost:
    """FLOPs, bytes moved, and seconds."""

    flops: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes, self.seconds + other.seconds)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.flops * times, self.bytes * times, self.seconds * times)


def batches_of(job: Job, batch_size: int) -> int:
    """Batches of a job; its calls do not share any."""
    return job.calls * ceil(job.n / job.calls / min(batch_size, job.rows)) if job.n else 0


def cost_of(job: Job, shape: ModelShape, device: Device, itemsize: int, batch_size: int) -> Cost:
    """What a job costs on one device.

    Args:
        job: what is run.
        shape: of the model.
        device: where.
        itemsize: bytes of a weight.
        batch_size: rows in a batch.
    """
    batches = batches_of(job, batch_size)
    if not batches:
        return Cost()
    call = _Call(shape, device, itemsize)
    rows = job.n / batches
    read = job.tokens + (job.new if job.kind == "score" else 0)
    one = call(rows, read, logits=job.new if job.kind == "score" else 1 if job.kind == "generate" else 0)
    if job.kind == "generate":
        one += call(rows, 1, job.tokens + job.new / 2, logits=1) * max(0, job.new - 1)
    if job.kind == "suffix":
        calls = ceil(rows * job.variants / ROWS)
        one += call(rows * job.variants / calls, 1, job.tokens, shared=job.variants) * (calls / 2)
    if job.heads:
        one += call.removals(rows)
    return one * batches + Cost(seconds=job.n * device.prompt_seconds)


@dataclass(frozen=True)
class _Call:
    shape: ModelShape
    device: Device
    itemsize: int

    def __call__(
        self, rows: float, tokens: float, context: float = 0.0, *, logits: float = 0.0, shared: float = 1.0
    ) -> Cost:
        """One forward pass through all layers; ``shared`` rows have one cache between them."""
        d, shape = self.dims, self.shape
        heads = d.n_heads * d.d_head
        flops = rows * tokens * (2 * shape.layer + 4 * heads * (context + tokens / 2))
        cache = 2 * d.n_key_value_heads * d.d_head * (context + tokens) * rows / min(shared, rows or 1)
        passing = rows * tokens * (8 * d.d_model + 5 * d.d_mlp + 4 * heads)
        moved = self.itemsize * (shape.layer + cache + passing)
        layers = self._timed(flops, moved, self.device.layer_seconds) * d.n_layers
        # Logits are also made into log-probabilities or compared, in float32.
        out = self.itemsize * shape.unembedding + 16 * rows * logits * d.d_vocab
        return layers + self._timed(2 * rows * logits * shape.unembedding, out if logits else 0.0, 0.0)

    def removals(self, rows: float) -> Cost:
        """Every head's removal: its own write, a norm and a projection, in float32."""
        d = self.dims
        flops = rows * 2 * d.n_heads * d.d_head * d.d_model
        return self._timed(flops, rows * d.n_heads * d.d_model * 4 * 10, self.device.layer_seconds) * d.n_layers

    @property
    def dims(self):
        return self.shape.dims

    def _timed(self, flops: float, moved: float, host: float) -> Cost:
        return Cost(flops, moved, max(flops / self.device.flops, moved / self.device.bandwidth) + host)
