"""Generation under patches (method.md, stages 3 and 7).

1. Prompts are batched by length, padded on the left, and decoded by Hugging Face's ``generate`` with a key-value
   cache; patches act through hooks and know prompt tokens from generated ones.
2. Sampling adds Gumbel noise to the scores and takes the maximum, which is exact sampling. The noise of a row
   depends on the seed, the row and the step only, so a text does not depend on the batch that it was made in.
3. Repetition penalty, end tokens and the rest are always set here, never taken from the checkpoint's own
   ``generation_config``, which would make "greedy" mean something else for each model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig as HFGenerationConfig
from transformers import LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

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
    with progress("generate", len(asked)) as advance:
        for batch in model.batches(asked, batch_size):
            with model.patched(*patches, samples=batch.samples):
                new = _decode(model, batch, config)
            for index, tokens in zip(batch.samples.tolist(), new, strict=True):
                replies[index] = _reply(model, asked[index], tokens, config, emotion, method)
                if on_reply:
                    on_reply(index, replies[index])
            advance(len(batch))
    return Replies(tuple(replies[i] for i in range(len(asked))))


@torch.no_grad()
def _decode(model: HookedModel, batch: TokenBatch, config: GenerationConfig) -> list[list[int]]:
    settings = HFGenerationConfig(
        max_new_tokens=config.max_new_tokens,
        min_new_tokens=config.min_new_tokens or None,
        do_sample=False,
        repetition_penalty=config.repetition_penalty,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        eos_token_id=end_tokens(model),
        pad_token_id=model.tokenizer.pad_token_id,
        stop_strings=list(config.stop) or None,
    )
    processors = LogitsProcessorList([_Sampler(config, batch.samples)] if config.temperature > 0 else [])
    out = model.hf.generate(
        input_ids=batch.ids,
        attention_mask=batch.mask.long(),
        generation_config=settings,
        logits_processor=processors,
        tokenizer=model.tokenizer if config.stop else None,
    )
    ends = set(end_tokens(model))
    return [_until_end(row, ends) for row in out[:, batch.ids.shape[1] :].tolist()]


def end_tokens(model: HookedModel) -> list[int]:
    """Every token that ends a reply: the checkpoint's list and the tokenizer's."""
    listed = getattr(model.hf.generation_config, "eos_token_id", None)
    listed = listed if isinstance(listed, list) else [listed]
    return sorted({i for i in [*listed, model.tokenizer.eos_token_id] if i is not None})


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


def _until_end(tokens: list[int], ends: set[int]) -> list[int]:
    for i, token in enumerate(tokens):
        if token in ends:
            return tokens[: i + 1]
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
