"""Fluency: is the text still good? (method.md, stage 8)

perplexity    under the unmodulated model, given the prompt that asks for the emotion: what a reply costs the model
              that would have written it by instruction. All methods are scored on the same prompts.
distinct-n    distinct n-grams over n-grams, in one reply; 1 means nothing repeats.
repetition    share of a reply's words that repeat one of the three words before them.
on topic      whether a content word of the scenario or event occurs in the reply.
in language   whether the reply is in the language wanted (`emotion_circuits.evaluation.language`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from emotion_circuits.data.instructions import Style, Wording
from emotion_circuits.evaluation.language import in_language
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.batching import by_sample
from emotion_circuits.progress import progress
from emotion_circuits.replies import Replies, Reply

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_FUNCTION_WORDS = frozenset(
    """a about above after again all am an and any are as at be because been before being below between both but by
    can could did do does doing done down during each even ever every few for from further get gets getting got had
    has have having he her here hers him his how i i'd i'll i'm i've if in into is it it's its just last let like made
    make many me more most much my next no nor not now of off on once one only or other our out over own put said same
    see she should so some still such take than that the their them then there these they this those through to today
    told too took two under until up us very was we well went were what when where which while who whom why will with
    would yesterday you your new first time day week morning evening afternoon tomorrow back away around""".split()
)


@dataclass(frozen=True)
class Fluency:
    """Means over some replies.

    Attributes:
        perplexity: exp of the mean negative log-likelihood per token.
        distinct_1: mean distinct-1.
        distinct_2: mean distinct-2.
        repetition: mean repetition.
        n_words: mean length in words.
        on_topic: share of replies that mention their scenario.
        in_language: share of replies in the language wanted, among those of which it can be told.
        language_unknown: replies of which it cannot be told.
    """

    perplexity: float
    distinct_1: float
    distinct_2: float
    repetition: float
    n_words: float
    on_topic: float
    in_language: float
    language_unknown: int


def fluency(
    model: HookedModel,
    replies: Replies,
    style: Style = "named",
    *,
    wording: Wording | None = None,
    batch_size: int | None = None,
) -> Fluency:
    """Fluency of replies under the unmodulated model.

    Args:
        model: the model, without patches.
        replies: the replies; each is scored after the prompt that asks for its emotion in ``style``.
        style: of that prompt.
        wording: of that prompt, and with it the language that replies should be in; English by default.
        batch_size: rows in a batch.
    """
    told = [in_language(text, wording.language if wording else "en") for text in replies.texts]
    words = [words_of(text) for text in replies.texts]
    n = max(1, len(replies))
    return Fluency(
        perplexity=perplexity(model, asked_for(replies, style, wording), batch_size=batch_size),
        distinct_1=sum(distinct(w, 1) for w in words) / n,
        distinct_2=sum(distinct(w, 2) for w in words) / n,
        repetition=sum(repetition(w) for w in words) / n,
        n_words=sum(len(w) for w in words) / n,
        on_topic=sum(mentions(reply) for reply in replies) / n,
        in_language=sum(t is True for t in told) / max(1, len(told) - told.count(None)),
        language_unknown=told.count(None),
    )


def asked_for(replies: Replies, style: Style = "named", wording: Wording | None = None) -> Replies:
    """The replies as if each had been asked for by instruction."""
    prompts = (reply.prompt.instructed(reply.emotion, style, wording) for reply in replies)
    return Replies(tuple(replace(r, prompt=prompt) for r, prompt in zip(replies, prompts, strict=True)))


def perplexity(model: HookedModel, replies: Replies, *, batch_size: int | None = None) -> float:
    """Exp of the mean negative log-likelihood of all reply tokens, given their prompts."""
    return perplexity_of(log_likelihoods(model, replies, batch_size=batch_size))


def perplexity_of(scores: Sequence[Tensor]) -> float:
    """Exp of the mean negative log-likelihood of tokens, given reply by reply."""
    n_tokens = sum(len(values) for values in scores)
    return float(torch.exp(-torch.cat(list(scores)).double().sum() / n_tokens)) if n_tokens else float("nan")


@torch.no_grad()
def log_likelihoods(model: HookedModel, replies: Replies, *, batch_size: int | None = None) -> list[Tensor]:
    """Log-likelihood of each token of each reply, given its prompt."""
    with progress("perplexity", len(replies), shared=True) as advance:
        scored = model.run_batches(replies, partial(_scores, model), batch_size, stage="score", shared=True)
        return by_sample(scored, advance)


def _scores(model: HookedModel, batch: TokenBatch) -> list[Tensor]:
    keep = int(batch.reply.sum(dim=1).max()) + 1
    logits = model.run(batch, logits_to_keep=keep).logits[:, :-1].float()
    start = batch.ids.shape[1] - keep + 1
    targets, chosen = batch.ids[:, start:], batch.reply[:, start:]
    scores = logits.log_softmax(dim=-1).gather(-1, targets[..., None])[..., 0]
    return [scores[row, chosen[row]].cpu() for row in range(len(batch))]


def words_of(text: str) -> list[str]:
    """Lower-case words."""
    return [word.lower() for word in _WORD.findall(text)]


def distinct(words: Sequence[str], n: int) -> float:
    """Distinct n-grams over n-grams; 1 for a text shorter than n words."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(words: Sequence[str]) -> float:
    """Share of words that stand among the three words before them."""
    if not words:
        return 0.0
    return sum(word in words[max(0, i - 3) : i] for i, word in enumerate(words)) / len(words)


def content_words(text: str) -> set[str]:
    """Stems of the words that carry meaning: no function words, none shorter than four letters."""
    return {_stem(word) for word in words_of(text) if word not in _FUNCTION_WORDS and len(word) > 3}


def mentions(reply: Reply) -> bool:
    """Whether a reply uses a content word of what the user said."""
    said = " ".join(text for role, text in reply.prompt.messages if role == "user")
    return bool(content_words(said) & content_words(reply.text))


def _stem(word: str) -> str:
    word = word.removesuffix("'s")
    for suffix in ("ing", "ed", "es", "s"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 4:
            return word[: -len(suffix)]
    return word
