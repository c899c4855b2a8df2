"""Replies to a list of prompts: batches, patches of each row's own, and callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from emotion_circuits import distributed
from emotion_circuits.data.prompts import Prompt, as_prompts
from emotion_circuits.errors import ModelError, PatchError
from emotion_circuits.generation.backend import Backend, OnReply, replies_of
from emotion_circuits.generation.config import GenerationConfig
from emotion_circuits.generation.decode import decode, shared_prefix
from emotion_circuits.generation.streaming import OnText, TextStream, text_of
from emotion_circuits.interventions import Patch
from emotion_circuits.journal import ReplyJournal
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.progress import progress
from emotion_circuits.replies import Replies, Reply

_FROM_LAST_PROMPT = ("last_prompt", "last", "generated")


def generate(
    model: HookedModel | Backend,
    prompts: object,
    patch: Patch | Sequence[Patch] | None = None,
    config: GenerationConfig | None = None,
    *,
    emotion: str | None = None,
    method: str = "",
    batch_size: int | None = None,
    on_reply: OnReply | None = None,
    on_text: OnText | None = None,
    journal: ReplyJournal | None = None,
) -> Replies:
    """Replies to prompts, under patches.

    Args:
        model: the model, or a backend that replies for it (`emotion_circuits.backends`).
        prompts: a SEV (its uninstructed prompts), prompts, or strings.
        patch: acts while generating; several act together. ``Patch.rows`` gives rows patches of their own.
        config: how to decode; greedy by default.
        emotion: the emotion wanted, noted in each reply; the prompt's own by default.
        method: noted in each reply.
        batch_size: rows in a batch.
        on_reply: called with every reply as it is done.
        on_text: called with every piece of a reply's text as it is made; a reply's pieces, joined, are its text.
        journal: keeps replies as they are made; those that it holds already are not made again.

    Returns:
        One reply per prompt, in the prompts' order.

    Raises:
        PatchError: a patch does not fit the model, or names a row that is not there; or the backend cannot express it.
        ModelError: the backend cannot decode like this.
        PromptError: a prompt is empty or does not fit with its reply, or there is not one seed for each.

    Example:
        >>> import emotion_circuits as ec
        >>> model = ec.HookedModel.demo()
        >>> ec.generate(model, ["I cleaned my desk"]).texts  # doctest: +SKIP
    """
    asked = as_prompts(prompts)
    config = config or GenerationConfig()
    config.check(len(asked))
    patches = [] if patch is None else [patch] if isinstance(patch, Patch) else list(patch)
    _check_rows(patches, len(asked))
    noted: dict[str, Any] = {"emotion": emotion, "method": method}
    kept: dict[str, Any] = {"batch_size": batch_size, "on_reply": on_reply, "journal": journal}
    if isinstance(model, HookedModel):
        return _decoded(model, asked, patches, config, on_text=on_text, **noted, **kept)
    if on_text is not None:
        raise ModelError(f"the backend {model.name} hands on whole replies; leave out on_text, or use on_reply")
    return replies_of(model, asked, patches, config, **noted, **kept)


def _decoded(
    model: HookedModel,
    asked: Sequence[Prompt],
    patches: Sequence[Patch],
    config: GenerationConfig,
    *,
    emotion: str | None,
    method: str,
    batch_size: int | None,
    on_reply: OnReply | None,
    on_text: OnText | None,
    journal: ReplyJournal | None,
) -> Replies:
    """The replies that the model makes here, batch by batch, those of the journal and of other processes included."""
    stream = None if on_text is None else TextStream(model, config, on_text)
    call = None if journal is None else journal.call(asked, model.fingerprint(), patches, config, emotion, method)
    replies: dict[int, Reply] = {}

    # Patches that leave the earlier prompt tokens alone leave their keys and values alone, too.
    untouched = all(isinstance(p.positions, str) and p.positions in _FROM_LAST_PROMPT for p in patches)

    def work(batch: TokenBatch) -> list[list[int]]:
        prefix = shared_prefix(model, batch) if untouched else None
        with model.patched(*patches, samples=batch.samples):
            return decode(model, batch, config, prefix, stream.reader(batch) if stream else None)

    def reply(index: int, tokens: list[int]) -> Reply:
        text = text_of(model.tokenizer, tokens, config.stop)
        return Reply(asked[index], text, tuple(tokens), emotion or asked[index].emotion, method)

    if call is not None:
        replies |= {index: reply(index, list(tokens)) for index, (_, tokens) in call.made.items()}
    with progress("generate", len(asked), shared=True) as advance:
        advance(len(replies))
        for batch, new in model.run_batches(
            asked, work, batch_size, stage="generate", reply_tokens=config.max_new_tokens,
            done=set(replies), shared=True,
        ):  # fmt: skip
            for index, tokens in zip(batch.samples.tolist(), new, strict=True):
                if index in replies:  # its batch was interrupted, and is run whole
                    continue
                replies[index] = reply(index, tokens)
                if call is not None:
                    call.add(index, replies[index])
                if on_reply:
                    on_reply(index, replies[index])
            advance(len(batch))
    made = {index: torch.tensor(reply.tokens, dtype=torch.long) for index, reply in replies.items()}
    for index, tokens in distributed.merge(made).items():
        if index not in replies:  # another process made it
            replies[index] = reply(index, tokens.tolist())
    return Replies(tuple(replies[i] for i in range(len(asked))))


def _check_rows(patches: Sequence[Patch], n_prompts: int) -> None:
    for patch in patches:
        wrong = [row for row in patch.rows or () if not 0 <= row < n_prompts]
        if wrong:
            raise PatchError(
                f"a patch names row {wrong[0]}, but there are {n_prompts} prompts (rows 0 to {n_prompts - 1})"
            )
