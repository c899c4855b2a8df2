"""Judges by name: what ``Settings.judge`` and ``--judge`` accept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from emotion_circuits.data.labels import LabelSet
from emotion_circuits.errors import DataError
from emotion_circuits.evaluation.judges import ClassifierJudge, Judge, LLMJudge, SelfJudge
from emotion_circuits.evaluation.judges.labels import judge_for
from emotion_circuits.model import HookedModel
from emotion_circuits.replies import Replies

NAMES = "lexicon, classifier:NAME, llm:MODEL or self"


def check_name(name: str) -> None:
    """Raise a `DataError` unless a judge can be meant; nothing is loaded."""
    kind, colon, what = name.partition(":")
    if name not in ("lexicon", "self") and not (kind in ("classifier", "llm") and colon and what):
        raise DataError(f"no judge is called {name!r}; use {NAMES}")


def cost(judge: Judge, replies: Replies, question: str) -> str:
    """What an endpoint is about to be asked, in words; empty for a judge that asks nobody."""
    if not isinstance(judge, LLMJudge):
        return ""
    emotions = [str(reply.emotion) for reply in replies] if question == "match" else None
    needed = judge.estimate(replies.texts, emotions=emotions)
    return f"; {needed.requests} requests of about {needed.input_tokens + needed.output_tokens:,} tokens in all"


def judge_of(
    name: str,
    labels: LabelSet,
    model: Callable[[], HookedModel],
    base_url: str | None = None,
    cache: Path | None = None,
) -> Judge:
    """The judge that a name stands for.

    Args:
        name: ``lexicon`` (offline), ``classifier:NAME`` (a Hugging Face text classifier), ``llm:MODEL`` (any
            OpenAI-compatible endpoint; the key is read from ``OPENAI_API_KEY``) or ``self`` (the model itself).
        labels: what replies may express.
        model: gives the model, for a judge that needs it.
        base_url: of the endpoint.
        cache: where an endpoint's answers are kept.

    Raises:
        DataError: no judge has this name.
    """
    check_name(name)
    kind, _, what = name.partition(":")
    if name == "lexicon":
        return judge_for(labels)
    if name == "self":
        return SelfJudge(model(), labels.names)
    if kind == "classifier":
        return ClassifierJudge(what)
    return LLMJudge(what, base_url, labels=labels.names, cache=cache)
