"""Decoding one batch by Hugging Face's ``generate``, with nothing left to the checkpoint's own settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Cache
from transformers import GenerationConfig as HFGenerationConfig
from transformers.generation.streamers import BaseStreamer

from emotion_circuits.generation.choice import processors
from emotion_circuits.generation.config import GenerationConfig
from emotion_circuits.model import HookedModel, TokenBatch


@torch.no_grad()
def decode(
    model: HookedModel,
    batch: TokenBatch,
    config: GenerationConfig,
    prefix: Cache | None = None,
    streamer: BaseStreamer | None = None,
) -> list[list[int]]:
    """The tokens of every row's reply, its end token included.

    Args:
        model: the model, with whatever patches are in force.
        batch: the prompts.
        config: how to decode.
        prefix: keys and values of all prompt tokens but the last, see `shared_prefix`.
        streamer: given each step's tokens.
    """
    settings = HFGenerationConfig(
        max_new_tokens=config.max_new_tokens,
        min_new_tokens=config.min_new_tokens or None,
        do_sample=False,
        repetition_penalty=1.0,  # this and n-grams are ours, see Repetition
        no_repeat_ngram_size=0,
        eos_token_id=end_tokens(model),
        pad_token_id=model.tokenizer.pad_token_id,
        stop_strings=list(config.stop) or None,
    )
    with _instead_of_theirs(model.hf, settings):
        model.announce(batch)
        out = model.hf.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask.long(),
            past_key_values=prefix,
            generation_config=settings,
            logits_processor=processors(config, batch),
            tokenizer=model.tokenizer if config.stop else None,
            streamer=streamer,
        )
    ends = Ends.of(model, config)
    return [ends.cut(row) for row in out[:, batch.ids.shape[1] :].tolist()]


@torch.no_grad()
def shared_prefix(model: HookedModel, batch: TokenBatch) -> Cache | None:
    """Keys and values of all prompt tokens but the last, computed once for each different prompt of the batch.

    None when there is nothing to share. Many emotions and strengths are tried on the same prompts; they differ only
    from the last prompt token on.
    """
    rows = torch.cat([batch.ids, batch.mask.long()], dim=1)
    different, place = torch.unique(rows, dim=0, return_inverse=True)
    width = batch.ids.shape[1]
    if 2 * len(different) > len(rows) or width < 2:
        return None
    first = torch.stack([(place == i).nonzero()[0, 0] for i in range(len(different))])
    head = {name: value[first, :-1] for name, value in batch.inputs().items()}
    cache = model.hf.base_model(**head, use_cache=True).past_key_values
    cache.batch_select_indices(place)
    return cache


def end_tokens(model: HookedModel) -> list[int]:
    """Every token that ends a reply: the checkpoint's list and the tokenizer's."""
    listed = getattr(model.hf.generation_config, "eos_token_id", None)
    listed = listed if isinstance(listed, list) else [listed]
    return sorted({i for i in [*listed, model.tokenizer.eos_token_id] if i is not None})


class Ends:
    """Where replies end.

    Args:
        tokens: each of them ends a reply.
        padding: fills up a row that a stop string ended, until the longest row of its batch is done; None without
            stop strings.
    """

    def __init__(self, tokens: set[int], padding: int | None) -> None:
        self._tokens, self._padding = tokens, padding

    @classmethod
    def of(cls, model: HookedModel, config: GenerationConfig) -> Ends:
        """Those of a model."""
        return cls(set(end_tokens(model)), model.tokenizer.pad_token_id if config.stop else None)

    def cut(self, tokens: list[int]) -> list[int]:
        """The reply's own tokens, up to its end token."""
        for i, token in enumerate(tokens):
            if token in self._tokens:
                return tokens[: i + 1]
        while tokens and tokens[-1] == self._padding:
            tokens = tokens[:-1]
        return tokens


@contextmanager
def _instead_of_theirs(hf: Any, settings: HFGenerationConfig) -> Iterator[None]:
    # Whatever we leave unset, Hugging Face would fill in from the checkpoint's generation_config.
    theirs, hf.generation_config = hf.generation_config, settings
    try:
        yield
    finally:
        hf.generation_config = theirs
