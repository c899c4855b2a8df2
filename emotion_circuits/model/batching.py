"""Batching: run work on prompts, batch by batch, and survive a batch that is too large.

The batch size, when nobody gave one, is what the free memory allows (`emotion_circuits.model.estimates`). When the
device still runs out of memory, the batch is halved and tried again, and later batches start at the smaller size.
Work must leave no traces before it returns; then nothing is lost and nothing is counted twice.

Batches that are shared go to several processes (`emotion_circuits.distributed`). They are the very batches that one
process would run, since rounding depends on what a batch is made up of; so there should be more batches than processes.
"""

from __future__ import annotations

import logging
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from emotion_circuits import distributed
from emotion_circuits.errors import DeviceError
from emotion_circuits.model.estimates import Stage, fitting_rows
from emotion_circuits.model.memory import is_out_of_memory
from emotion_circuits.model.tokens import TokenBatch, batches_of, check_length, pad

if TYPE_CHECKING:
    from emotion_circuits.model.hooked_model import HookedModel

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

_TOO_LARGE: Any = object()


def token_batches(
    model: HookedModel,
    prompts: object,
    batch_size: int | None,
    sort: bool,
    stage: Stage,
    reply_tokens: int,
    done: Set[int] = frozenset(),
    shared: bool = False,
) -> Iterator[TokenBatch]:
    """Left-padded batches on the model's device; see `HookedModel.batches`."""
    full, replies = _sequences(model, prompts, reply_tokens)
    if batch_size is None:
        longest = max((len(s) - n for s, n in zip(full, replies, strict=True)), default=1)
        reply = max(replies, default=1)
        batch_size = fitting_rows(model, stage, longest, max(reply, reply_tokens))
        batch_size = distributed.least(batch_size) if shared else batch_size
    pad_id = model.tokenizer.pad_token_id or 0
    made_up = list(batches_of(full, batch_size, sort=sort))
    for chosen in distributed.share(made_up, neighbours=not sort) if shared else made_up:
        if done >= set(chosen):
            continue
        batch = pad([full[i] for i in chosen], chosen, pad_id, [replies[i] for i in chosen])
        yield batch.to(model.device)


def _sequences(model: HookedModel, prompts: object, reply_tokens: int) -> tuple[list[array[int]], list[int]]:
    """Token ids of every prompt with its reply, and how many are the reply's."""
    full, replies = [], []
    made = [reply.tokens for reply in prompts] if hasattr(prompts, "texts") else repeat(())  # type: ignore[attr-defined]
    for index, (sequence, reply) in enumerate(zip(model.iterate_tokens(prompts), made, strict=False)):
        check_length(index, len(sequence), len(reply) + reply_tokens, model.context)
        full.append(array("i", (*sequence, *reply)))  # a tenth of what a list of numbers takes
        replies.append(len(reply))
    return full, replies


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
                logger.warning("a batch of %d rows does not fit into memory; going on with %d", len(part), limit)
                queue = deque(smaller for held in (part, *queue) for smaller in held.split(limit))
            else:
                yield part, result


def by_sample(
    results: Iterable[tuple[TokenBatch, Iterable[Tensor]]], advance: Callable[[int], None] = lambda n: None
) -> list[Tensor]:
    """What was found for each sample, in the samples' order: a row of each result for each row of its batch.

    Batches that were shared among processes are put together; afterwards every process has all.

    Args:
        results: from `run_batches`, with one tensor per row.
        advance: told how many rows were done.
    """
    found: dict[int, Tensor] = {}
    for batch, rows in results:
        found.update(zip(batch.samples.tolist(), rows, strict=True))
        advance(len(batch))
    found = distributed.merge(found)
    return [found[i] for i in sorted(found)]


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
