r"""The cost of a job on a device.

A forward call of B rows with q new tokens each, after c tokens that are in the cache, takes per layer

FLOPs    :math:`B q\,(2 P + 4 h\,(c + q))`, with P the layer's parameters and h its heads' width; a logit adds 2 d
bytes    the layer's weights, what norms, rotations, activation functions and sums read and write (`_Call.passing`),
         and the keys and values of every row
seconds  max(FLOPs / rate, weights / bandwidth) for the products, + the other bytes / the rate of element-wise
         operations (of attention to a cache, for its bytes), + exponentials of softmax and activation function / their
         rate; and the host's time to get it all under way, patches included, which adds to that on a CPU and hides
         behind it on a GPU

Generation is one call for the prompts and one for every further token, each with the host's work between two calls.
Prompts that several rows share are read once. A suffix job is one call for the prompts and, for the variants, half of
the layers in calls of up to 2,048 rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from emotion_circuits.model.ascent import GROUP
from emotion_circuits.model.suffix import ROWS
from emotion_circuits.planning.devices import Device
from emotion_circuits.planning.shapes import ModelShape
from emotion_circuits.planning.workload import Job
from emotion_circuits.types import ModelDims


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
    rows, call = job.n / batches, _Call(shape, device, itemsize, job.patched)
    one = {"read": _read, "score": _score, "generate": _generate, "suffix": _suffix}[job.kind](call, job, rows)
    return one * batches + Cost(seconds=job.n * device.prompt_seconds)


def _read(call: _Call, job: Job, rows: float) -> Cost:
    return call(rows, job.tokens) + (call.removals(rows) if job.heads else Cost())


def _score(call: _Call, job: Job, rows: float) -> Cost:
    return call(rows, job.tokens + job.new) + call.logits(rows * job.new)


def _generate(call: _Call, job: Job, rows: float) -> Cost:
    different = max(1.0, rows / job.repeats)
    first = call(rows, job.tokens)
    if job.repeats > 1:
        first = call(different, job.tokens - 1) + call(rows, 1, job.tokens - 1)
    step = call(rows, 1, job.tokens + job.new / 2) * max(0, job.new - 1)
    return first + step + (call.logits(rows) + call.choice(rows, job.sampled)) * job.new


def _suffix(call: _Call, job: Job, rows: float) -> Cost:
    calls = ceil(rows * job.variants / ROWS)
    variants = call(rows * job.variants / calls, 1, job.tokens, together=GROUP)
    return call(rows, job.tokens) + variants * (calls / 2)


def cache_bytes(dims: ModelDims, itemsize: int, rows: float, tokens: float, context: float) -> float:
    """Bytes that a layer's keys and values take: new ones are joined to the old, which copies both (4), and read (2).

    Several query tokens read a copy for every head where heads share keys.
    """
    queries, keys = dims.n_heads * dims.d_head, dims.n_key_value_heads * dims.d_head
    copies = 2 * (queries + keys) if tokens > 1 and queries > keys else 0
    return itemsize * rows * (context + tokens) * ((4 if context else 0) * keys + 2 * keys + copies)


@dataclass(frozen=True)
class _Call:
    """A forward pass through all layers."""

    shape: ModelShape
    device: Device
    itemsize: int
    patched: bool = False

    def __call__(self, rows: float, tokens: float, context: float = 0.0, *, together: float = 1.0) -> Cost:
        """``together`` rows have one cache between them, and each other as masked keys."""
        d, new = self.shape.dims, rows * tokens
        seen = context + tokens * together
        scores = new * d.n_heads * seen
        moved = new * self.passing
        cached = cache_bytes(d, self.itemsize, rows / together, tokens * together, context)
        layer = (
            self._product(2 * new * self.shape.layer + 4 * scores * d.d_head, self.itemsize * self.shape.layer)
            + Cost(bytes=moved, seconds=moved / self.device.passing)
            + Cost(bytes=cached, seconds=cached / (self.device.caching if context else self.device.passing))
            + Cost(seconds=(scores + new * d.d_mlp) / self.device.exponentials)
        )
        host = self.device.layer_seconds + (self.device.patch_seconds if self.patched else 0.0)
        return self._with_host(layer, host) * d.n_layers

    @property
    def passing(self) -> float:
        """Bytes that a layer's element-wise operations read and write per token.

        Two norms in float32 (square, mean, scaling, weight: 7 each), two sums with the residual (3 each), the rotation
        of queries and keys (10), the heads' output put together (2), activation function and gate (5).
        """
        d = self.shape.dims
        queries, keys = d.n_heads * d.d_head, d.n_key_value_heads * d.d_head
        return 4 * 14 * d.d_model + self.itemsize * (6 * d.d_model + 10 * (queries + keys) + 2 * queries + 5 * d.d_mlp)

    def logits(self, n: float) -> Cost:
        """Logits of ``n`` tokens, as float32, and their softmax or the search for the largest."""
        size = n * self.shape.dims.d_vocab
        made = self._product(2 * n * self.shape.unembedding, self.itemsize * self.shape.unembedding)
        moved = (2 * self.itemsize + 8) * size
        return made + Cost(0, moved, moved / self.device.passing + size / self.device.exponentials)

    def choice(self, rows: float, sampled: bool) -> Cost:
        """The host's work between two decoding steps; noise is drawn there for each row by itself."""
        noise = rows * self.shape.dims.d_vocab * self.device.noise_seconds if sampled else 0.0
        return Cost(seconds=self.device.step_seconds + noise)

    def removals(self, rows: float) -> Cost:
        """Every head's removal: its own write, a norm and a projection, in float32."""
        d = self.shape.dims
        written, moved = 2 * rows * d.n_heads * d.d_head * d.d_model, rows * d.n_heads * d.d_model * 4 * 10
        layer = self._product(written, 0.0) + Cost(bytes=moved, seconds=moved / self.device.passing)
        return self._with_host(layer, self.device.layer_seconds) * d.n_layers

    def _product(self, flops: float, weights: float) -> Cost:
        return Cost(flops, weights, max(flops / self.device.flops, weights / self.device.bandwidth))

    def _with_host(self, work: Cost, host: float) -> Cost:
        seconds = max(work.seconds, host) if self.device.overlaps else work.seconds + host
        return Cost(work.flops, work.bytes, seconds)
