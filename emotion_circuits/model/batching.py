"""Batching: run work on prompts, batch by batch, and survive a batch that is too large.

The batch size, when nobody gave one, is what the free memory allows (`emotion_circuits.model.estimates`). When the
device still runs out of memory, the batch is halved and tried again, and later batches start at the smaller size.
Work must leave no traces before it returns; then nothing is lost and nothing is counted twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from emotion_circuits.errors import DeviceError
from emotion_circuits.model.estimates import Stage, fitting_rows
from emotion_circuits.model.memory import is_out_of_memory
from emotion_circuits.model.tokens import TokenBatch, batches_of, check_length, pad

if TYPE_CHECKING:
    from emotion_circuits.model.hooked_model import HookedModel

Result = TypeVar("Result")

_TOO_LARGE: Any = object()


def token_batches(
    model: HookedModel, prompts: object, batch_size: int | None, sort: bool, stage: Stage, reply_tokens: int
) -> Iterator[TokenBatch]:
    """Left-padded batches on the model's device; see `HookedModel.batches`."""
    sequences = model.tokens(prompts)
    replies = [list(r.tokens) for r in prompts] if hasattr(prompts, "texts") else [[]] * len(sequences)  # type: ignore[attr-defined]
    for index, (sequence, reply) in enumerate(zip(sequences, replies, strict=True)):
        check_length(index, len(sequence), len(reply) + reply_tokens, model.context)
    full = [[*s, *r] for s, r in zip(sequences, replies, strict=True)]
    if batch_size is None:
        longest, reply = (max(map(len, held), default=1) for held in (sequences, replies))
        batch_size = fitting_rows(model, stage, longest, max(reply, reply_tokens))
    pad_id = model.tokenizer.pad_token_id or 0
    for chosen in batches_of(full, batch_size, sort=sort):
        batch = pad([full[i] for i in chosen], chosen, pad_id, [len(replies[i]) for i in chosen])
        yield batch.to(model.device)


def run_batches(
    batches: Iterable[TokenBatch], work: Callable[[TokenBatch], Result]
) -> Iterator[tuple[TokenBatch, Result]]:
    """Each batch, or the parts that it had to be split into, with what ``work`` made of it.

    Args:
        batches: from `HookedModel.batches`.
        work: called with a batch; called again with each half when memory did not suffice.

    Raises:
        DeviceError: a single row does not fit.
    """
    limit: int | None = None
    for batch in batches:
        queue = deque(batch.split(limit))
        while queue:
            part = queue.popleft()
            result = _attempt(work, part)
            if result is _TOO_LARGE:
                limit = (len(part) + 1) // 2
                queue = deque(smaller for held in (part, *queue) for smaller in held.split(limit))
            else:
                yield part, result


def _attempt(work: Callable[[TokenBatch], Result], batch: TokenBatch) -> Result:
    try:
        return work(batch)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1:
            raise DeviceError(
                f"one row of {batch.ids.shape[1]} tokens does not fit into the memory of {batch.ids.device}; use a "
                "smaller dtype, shorter prompts, or device_map='auto'"
            ) from error
    # Outside the handler, where the error's traceback no longer holds the failed pass's tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return _TOO_LARGE
