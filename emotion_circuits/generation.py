"""Generation under patches (method.md, stages 3 and 7).

1. Prompts are batched by length, equal ones together, padded on the left, and decoded by Hugging Face's ``generate``
   with a key-value cache; patches act through hooks and know prompt tokens from generated ones. What equal prompts
   share, the tokens before the last, is computed once.
2. Sampling adds Gumbel noise to the scores and takes the maximum, which is exact sampling. The noise of a row
   depends on the seed, the row and the step only, so a text does not depend on the batch that it was made in.
3. Repetition penalty, end tokens and the rest are always set here, never taken from the checkpoint's own
   ``generation_config``, which would make "greedy" mean something else for each model. What looks at earlier tokens
   looks at a row's own ones: padding is no repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Cache,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopPLogitsWarper,
)
from transformers import GenerationConfig as HFGenerationConfig

from emotion_circuits.data.prompts import Prompt, as_prompts
from emotion_circuits.errors import PatchError
from emotion_circuits.interventions import Patch
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.progress import progress
from emotion_circuits.replies import Replies, Reply

OnReply = Callable[[int, Reply], None]
"""Called with a prompt's index and its reply as soon as its batch is done."""


@dataclass(frozen=True)
class GenerationConfig:
    """How replies are decoded.

    Attributes:
        max_new_tokens: longest reply.
        min_new_tokens: the end token is impossible before.
        temperature: 0 is greedy.
        top_p: nucleus of the distribution that is sampled from.
        repetition_penalty: 1 is none; the reference modulates at 1.1.
        no_repeat_ngram_size: 0 is none; the reference modulates at 3.
        stop: strings that end a reply.
        seed: of sampling.
    """

    max_new_tokens: int = 100
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0

    @classmethod
    def preset(cls, name: str) -> GenerationConfig:
        """``"default"``, or ``"paper"``: what the reference modulates with (method.md, stage 7)."""
        if name == "paper":
            return cls(min_new_tokens=10, repetition_penalty=1.1, no_repeat_ngram_size=3)
        return cls()


_FROM_LAST_PROMPT = ("last_prompt", "last", "generated")


def generate(
    model: HookedModel,
    prompts: object,
    patch: Patch | Sequence[Patch] | None = None,
    config: GenerationConfig | None = None,
    *,
    emotion: str | None = None,
    method: str = "",
    batch_size: int | None = None,
    on_reply: OnReply | None = None,
) -> Replies:
    """Replies to prompts, under patches.

    Args:
        model: the model.
        prompts: a SEV (its uninstructed prompts), prompts, or strings.
        patch: acts while generating; several act together. ``Patch.rows`` gives rows patches of their own.
        config: how to decode; greedy by default.
        emotion: the emotion wanted, noted in each reply; the prompt's own by default.
        method: noted in each reply.
        batch_size: rows in a batch.
        on_reply: called with every reply as it is done.

    Returns:
        One reply per prompt, in the prompts' order.

    Raises:
        PatchError: a patch does not fit the model, or names a row that is not there.

    Example:
        >>> import emotion_circuits as ec
        >>> model = ec.HookedModel.demo()
        >>> ec.generate(model, ["I cleaned my desk"]).texts  # doctest: +SKIP
    """
    asked = as_prompts(prompts)
    config = config or GenerationConfig()
    patches = [] if patch is None else [patch] if isinstance(patch, Patch) else list(patch)
    _check_rows(patches, len(asked))
    replies: dict[int, Reply] = {}

    # Patches that leave the earlier prompt tokens alone leave their keys and values alone, too.
    untouched = all(isinstance(p.positions, str) and p.positions in _FROM_LAST_PROMPT for p in patches)

    def decode(batch: TokenBatch) -> list[list[int]]:
        prefix = shared_prefix(model, batch) if untouched else None
        with model.patched(*patches, samples=batch.samples):
            return _decode(model, batch, config, prefix)

    with progress("generate", len(asked)) as advance:
        for batch, new in model.run_batches(
            asked, decode, batch_size, stage="generate", reply_tokens=config.max_new_tokens
        ):
            for index, tokens in zip(batch.samples.tolist(), new, strict=True):
                replies[index] = _reply(model, asked[index], tokens, config, emotion, method)
                if on_reply:
                    on_reply(index, replies[index])
            advance(len(batch))
    return Replies(tuple(replies[i] for i in range(len(asked))))


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


@torch.no_grad()
def _decode(model: HookedModel, batch: TokenBatch, config: GenerationConfig, prefix: Cache | None) -> list[list[int]]:
    settings = HFGenerationConfig(
        max_new_tokens=config.max_new_tokens,
        min_new_tokens=config.min_new_tokens or None,
        do_sample=False,
        repetition_penalty=1.0,  # this and n-grams are ours, see _Repetition
        no_repeat_ngram_size=0,
        eos_token_id=end_tokens(model),
        pad_token_id=model.tokenizer.pad_token_id,
        stop_strings=list(config.stop) or None,
    )
    processors = LogitsProcessorList([_Repetition(config, batch)])
    if config.temperature > 0:
        processors.append(_Sampler(config, batch.samples))
    with _instead_of_theirs(model.hf, settings):
        model.announce(batch)
        out = model.hf.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask.long(),
            past_key_values=prefix,
            generation_config=settings,
            logits_processor=processors,
            tokenizer=model.tokenizer if config.stop else None,
        )
    ends = set(end_tokens(model))
    padding = model.tokenizer.pad_token_id if config.stop else None
    return [_until_end(row, ends, padding) for row in out[:, batch.ids.shape[1] :].tolist()]


@contextmanager
def _instead_of_theirs(hf: Any, settings: HFGenerationConfig) -> Iterator[None]:
    # Whatever we leave unset, Hugging Face would fill in from the checkpoint's generation_config.
    theirs, hf.generation_config = hf.generation_config, settings
    try:
        yield
    finally:
        hf.generation_config = theirs


def end_tokens(model: HookedModel) -> list[int]:
    """Every token that ends a reply: the checkpoint's list and the tokenizer's."""
    listed = getattr(model.hf.generation_config, "eos_token_id", None)
    listed = listed if isinstance(listed, list) else [listed]
    return sorted({i for i in [*listed, model.tokenizer.eos_token_id] if i is not None})


class _Repetition(LogitsProcessor):
    """Hugging Face's repetition penalty and n-gram ban, on each row without its padding."""

    def __init__(self, config: GenerationConfig, batch: TokenBatch) -> None:
        self._parts: list[LogitsProcessor] = []
        if config.repetition_penalty != 1.0:
            self._parts.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
        if config.no_repeat_ngram_size > 0:
            self._parts.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
        self._rows: dict[int, list[int]] = {}
        for row, n_padding in enumerate((~batch.mask).sum(dim=1).tolist()):
            self._rows.setdefault(n_padding, []).append(row)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if not self._parts:
            return scores
        scores = scores.clone()
        for n_padding, rows in self._rows.items():
            held = scores[rows]
            for part in self._parts:
                held = part(input_ids[rows, n_padding:], held)
            scores[rows] = held
        return scores


class _Sampler(LogitsProcessor):
    """Makes the greedy choice a sample: temperature, nucleus, then Gumbel noise of each row's own."""

    def __init__(self, config: GenerationConfig, samples: Tensor) -> None:
        self._temperature = config.temperature
        self._nucleus = TopPLogitsWarper(config.top_p) if config.top_p < 1 else None
        seeds = [(config.seed * 1_000_003 + sample) % 2**63 for sample in samples.tolist()]
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores = scores.float() / self._temperature
        if self._nucleus:
            scores = self._nucleus(input_ids, scores)
        noise = torch.stack([torch.rand(scores.shape[1], generator=g) for g in self._generators])
        gumbel = -torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))
        return scores + gumbel.to(scores.device)


def _until_end(tokens: list[int], ends: set[int], padding: int | None) -> list[int]:
    for i, token in enumerate(tokens):
        if token in ends:
            return tokens[: i + 1]
    # A row that a stop string ended is filled up until the longest row of its batch is done.
    while tokens and tokens[-1] == padding:
        tokens = tokens[:-1]
    return tokens


def _reply(
    model: HookedModel, prompt: Prompt, tokens: list[int], config: GenerationConfig, emotion: str | None, method: str
) -> Reply:
    text = model.tokenizer.decode(tokens, skip_special_tokens=True)
    for stop in config.stop:
        text = text.split(stop)[0]
    return Reply(prompt, text.strip(), tuple(tokens), emotion or prompt.emotion, method)


def _check_rows(patches: Sequence[Patch], n_prompts: int) -> None:
    for patch in patches:
        wrong = [row for row in patch.rows or () if not 0 <= row < n_prompts]
        if wrong:
            raise PatchError(
                f"a patch names row {wrong[0]}, but there are {n_prompts} prompts (rows 0 to {n_prompts - 1})"
            )


def relabelled(replies: Replies, *, emotion: str | None, method: str) -> Replies:
    """The same replies, noted as an attempt at ``emotion`` by ``method``."""
    return Replies(tuple(replace(reply, emotion=emotion, method=method) for reply in replies))
