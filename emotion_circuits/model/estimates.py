"""Memory and time of a stage, from the model's sizes alone, and the batch size that fits.

Peak memory is the sum of five parts, in bytes (b: bytes of a weight, B: rows in a batch, T: tokens of a row):

weights       all parameters
activations   what one layer holds while it runs: B T (3 d_mlp + 4 d_model) b, the norm's float32 copies, and a mask
kept          what the stage keeps of every layer: the units that it records, and their float32 copies
logits        B d_vocab, in b and twice in float32; when replies are scored, for every token of a reply
cache         keys and values: 2 B T n_layers n_key_value_heads d_head b

Time is the number of floating-point operations over the rate of the device, but at least one reading of all weights
for every forward pass, which is what decoding waits for. Rates are measured on the model (`Rate.measured`) or given.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch

from emotion_circuits.errors import ModelError
from emotion_circuits.model.ascent import GROUP
from emotion_circuits.model.memory import free_for
from emotion_circuits.model.suffix import ROWS
from emotion_circuits.types import ModelDims

if TYPE_CHECKING:
    import pandas as pd

    from emotion_circuits.model.hooked_model import HookedModel

Stage = Literal["record", "directions", "attribute", "heads", "influence", "generate", "score"]
"""What is run: `record` of one site, `fit_directions`, `DirectAttribution`, `HeadImportance`, `sublayer_influence`,
generation (also `elicit`), or the log-likelihood of replies (fluency)."""

STAGES: tuple[str, ...] = get_args(Stage)
MAX_ROWS = {"cpu": 128}
"""Beyond these rows nothing gets faster; other devices take up to 256."""

_USABLE = 0.85  # of the free memory; allocators lose some to fragmentation
_EMOTIONS, _STRENGTHS = 6, 4  # of a usual influence table


@dataclass(frozen=True)
class Rate:
    """How fast a device runs a model.

    Attributes:
        flops: floating-point operations per second reached in large matrix products.
        bandwidth: bytes of weights read per second when a single token is run.
    """

    flops: float
    bandwidth: float

    @classmethod
    def measured(cls, model: HookedModel, tokens: int = 256) -> Rate:
        """The rates that ``model`` reaches here, from a few short forward passes (a second or so)."""
        if model.device.type == "meta":
            raise ModelError("a model on the meta device cannot be timed; give estimate(..., rate=Rate(...))")
        tokens = min(tokens, model.context or tokens)
        one, many = (_seconds(model, n) for n in (1, tokens))
        return cls(tokens * 2 * _body(model) / many, _bytes(model) / one)


@dataclass(frozen=True)
class Estimate:
    """What a stage will take.

    Attributes:
        stage: the stage.
        batch_size: rows in a batch that the figures are for.
        parts: peak memory in bytes, by what it is for.
        available: bytes that the model and its activations may take; None when unknown.
        largest_batch_size: most rows that fit; 0 when not even one does.
        seconds: predicted time; None without a rate.
    """

    stage: str
    batch_size: int
    parts: dict[str, int]
    available: int | None
    largest_batch_size: int | None
    seconds: float | None

    @property
    def peak(self) -> int:
        """Peak memory in bytes."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the peak stays below what is available."""
        return self.available is None or self.peak <= self.available

    def to_frame(self) -> pd.DataFrame:
        """One row per part: ``part, bytes``."""
        import pandas as pd

        return pd.DataFrame({"part": list(self.parts), "bytes": list(self.parts.values())})

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {readable(size)}" for name, size in self.parts.items())
        lines = [f"{self.stage}, batches of {self.batch_size}: {readable(self.peak)} ({parts})"]
        if self.available is not None:
            verdict = "fits into" if self.fits else "does not fit into"
            lines.append(f"{verdict} {readable(self.available)}; {self._advice()}")
        if self.seconds is not None:
            lines.append(f"about {readable_time(self.seconds)}")
        return "\n".join(lines)

    def _advice(self) -> str:
        if self.largest_batch_size and self.fits:
            return f"batches of up to {self.largest_batch_size} do"
        if self.largest_batch_size:
            return f"batch_size={self.largest_batch_size} is the largest that does, with some memory in reserve"
        return "not even one row does: use a smaller dtype, device_map='auto' over several devices, or shorter prompts"


def estimate(
    model: HookedModel,
    stage: str,
    n_prompts: int,
    prompt_tokens: int,
    reply_tokens: int = 0,
    batch_size: int | None = None,
    *,
    available: int | None = None,
    rate: Rate | None = None,
) -> Estimate:
    """Peak memory and time of a stage, before it is run.

    Args:
        model: the model; may be on the meta device.
        stage: one of `STAGES`.
        n_prompts: prompts in all.
        prompt_tokens: tokens of the longest prompt.
        reply_tokens: tokens of the longest reply.
        batch_size: rows in a batch; what would be chosen by itself by default.
        available: bytes that may be used, weights included; by default what is free on the model's device, and what
            its weights take.
        rate: the device's speed; measured on the model by default (not on the meta device).

    Raises:
        ModelError: there is no such stage.
    """
    if stage not in STAGES:
        raise ModelError(f"unknown stage {stage!r}; the stages are {', '.join(STAGES)}")
    weights = _bytes(model)
    if available is None:
        available = None if model.device.type == "meta" else free_for(model.hf) + weights
    fixed, row = _parts(model, stage, 0, prompt_tokens, reply_tokens), _row(model, stage, prompt_tokens, reply_tokens)
    largest = None if available is None else int(_USABLE * max(0, available - weights - sum(fixed.values()))) // row
    wanted = batch_size or min(max_rows(model), n_prompts, max(1, largest if largest is not None else n_prompts))
    parts = {"weights": weights} | _parts(model, stage, wanted, prompt_tokens, reply_tokens)
    if rate is None and model.device.type != "meta":
        rate = Rate.measured(model)
    seconds = None if rate is None else _time(model, stage, n_prompts, prompt_tokens, reply_tokens, wanted, rate)
    return Estimate(stage, wanted, parts, available, largest, seconds)


def fitting_rows(model: HookedModel, stage: str, prompt_tokens: int, reply_tokens: int = 0) -> int:
    """Rows of a batch that the free memory allows, at least one and at most `max_rows`."""
    usable = int(_USABLE * free_for(model.hf))
    return max(1, min(max_rows(model), usable // _row(model, stage, prompt_tokens, reply_tokens)))


def max_rows(model: HookedModel) -> int:
    """Rows beyond which a batch gains nothing on the model's device."""
    return MAX_ROWS.get(model.device.type, 256)


def _row(model: HookedModel, stage: str, prompt_tokens: int, reply_tokens: int) -> int:
    one, none = (sum(_parts(model, stage, rows, prompt_tokens, reply_tokens).values()) for rows in (1, 0))
    return max(1, one - none)


def _parts(model: HookedModel, stage: str, rows: int, prompt_tokens: int, reply_tokens: int) -> dict[str, int]:
    return batch_bytes(model.dims, model.dtype.itemsize, stage, rows, prompt_tokens, reply_tokens)


def batch_bytes(
    dims: ModelDims, itemsize: int, stage: str, rows: int, prompt_tokens: int, reply_tokens: int
) -> dict[str, int]:
    """Bytes of a batch of ``rows``, without the weights, of which each takes ``itemsize``."""
    d, b = dims, itemsize
    total = prompt_tokens + reply_tokens
    width = prompt_tokens if stage == "generate" else total
    per_token = b * (3 * max(d.d_mlp, d.d_model) + 4 * d.d_model) + 8 * d.d_model
    heads = d.n_heads * d.d_head
    kept = {
        "record": d.n_layers * max(d.d_mlp, heads, d.d_model) * (2 * b + 4),
        "directions": 2 * d.n_layers * d.d_model * (2 * b + 16),
        "attribute": d.n_layers * (d.d_mlp + heads) * (2 * b + 12),
        "heads": d.n_layers * (d.d_model + heads) * 2 * b + d.n_heads * d.d_model * (3 * b + 12),
        "influence": d.n_layers * d.d_model * b,
    }.get(stage, 0)
    logits = {"generate": 1, "score": reply_tokens + 1}.get(stage, 0)
    cached = {"generate": total, "influence": total}.get(stage, 0)
    parts = {
        "activations": rows * (width * per_token + width * width * b),
        "kept": rows * kept,
        "logits": rows * logits * d.d_vocab * (b + 8),
        "cache": rows * 2 * cached * d.n_layers * d.n_key_value_heads * d.d_head * b,
    }
    if stage == "influence":  # variants of all rows share one layer call; groups of them share keys and a mask
        parts["kept"] += ROWS * (per_token + (GROUP + width) * b)
        parts["kept"] += ROWS // GROUP * 2 * width * d.n_key_value_heads * d.d_head * b
    return parts


def _time(
    model: HookedModel, stage: str, n: int, prompt_tokens: int, reply_tokens: int, batch_size: int, rate: Rate
) -> float:
    d, batches = model.dims, -(-n // batch_size)

    def passes(tokens: int | float, calls: int | float, context: int | float) -> float:
        attention = 4 * d.n_layers * d.n_heads * d.d_head * context
        return max(tokens * (2 * _body(model) + attention) / rate.flops, calls * _bytes(model) / rate.bandwidth)

    width = prompt_tokens if stage == "generate" else prompt_tokens + reply_tokens
    seconds = passes(n * width, batches, width / 2)
    if stage == "generate":
        seconds += passes(n * reply_tokens, batches * reply_tokens, prompt_tokens + reply_tokens / 2)
    if stage == "influence":  # a variant runs half of the layers on average, for one token
        variants = 2 * d.n_layers * _EMOTIONS * _STRENGTHS
        seconds += passes(n * variants / 2, n * variants / ROWS, width)
    return seconds


@torch.no_grad()
def _seconds(model: HookedModel, tokens: int) -> float:
    ids = torch.zeros(1, tokens, dtype=torch.long, device=model.device)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        model.hf.base_model(input_ids=ids, use_cache=False)
        if ids.device.type == "cuda":
            torch.cuda.synchronize(ids.device)
        best = min(best, time.perf_counter() - start)
    return best


def _bytes(model: HookedModel) -> int:
    return sum(p.numel() * p.itemsize for p in model.hf.parameters())


def _body(model: HookedModel) -> int:
    """Parameters that every token is multiplied with: all but the embeddings."""
    embeddings = (model.hf.get_input_embeddings(), model.hf.get_output_embeddings())
    apart = {id(p): p.numel() for module in embeddings if module is not None for p in module.parameters()}
    return sum(p.numel() for p in model.hf.parameters()) - sum(apart.values())


def readable(size: int) -> str:
    """Bytes, in words."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def readable_time(seconds: float) -> str:
    """Seconds, in words."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"
