"""Judges by name: what ``Settings.judge`` and ``--judge`` accept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emotion_circuits.data.labels import LabelSet
from emotion_circuits.errors import DataError
from emotion_circuits.evaluation.judges import ClassifierJudge, Judge, LLMJudge, SelfJudge
from emotion_circuits.evaluation.judges.labels import judge_for
from emotion_circuits.model import HookedModel
from emotion_circuits.replies import Replies


@dataclass(frozen=True)
class Wanted:
    """What a judge may be made of.

    Attributes:
        what: the part of its name after the colon; empty where there is none.
        labels: what replies may express.
        model: gives the model, for a judge that needs it.
        base_url: of the endpoint.
        cache: where an endpoint's answers are kept.
    """

    what: str
    labels: LabelSet
    model: Callable[[], HookedModel]
    base_url: str | None = None
    cache: Path | None = None


JUDGES: dict[str, Callable[[Wanted], Judge]] = {
    "lexicon": lambda wanted: judge_for(wanted.labels),
    "classifier:NAME": lambda wanted: ClassifierJudge(wanted.what),
    "llm:MODEL": lambda w: LLMJudge(w.what, w.base_url, labels=w.labels.names, cache=w.cache),
    "self": lambda wanted: SelfJudge(wanted.model(), wanted.labels.names),
}
"""How each judge is made, by its name; a name with a colon asks for something of the user's after it."""


def names() -> str:
    """The names, for reading."""
    *others, last = JUDGES
    return f"{', '.join(others)} or {last}"


def check_name(name: str) -> None:
    """Raise a `DataError` unless a judge can be meant; nothing is loaded."""
    _entry(name)


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
            OpenAI-compatible endpoint; the key is read from ``OPENAI_API_KEY``) or ``self`` (the model itself): a key
            of `JUDGES`.
        labels: what replies may express.
        model: gives the model, for a judge that needs it.
        base_url: of the endpoint.
        cache: where an endpoint's answers are kept.

    Raises:
        DataError: no judge has this name.
    """
    make, what = _entry(name)
    return make(Wanted(what, labels, model, base_url, cache))


def _entry(name: str) -> tuple[Callable[[Wanted], Judge], str]:
    """How the judge of this name is made, and what stands after the colon."""
    kind, colon, what = name.partition(":")
    for known, make in JUDGES.items():
        own, own_colon, _ = known.partition(":")
        if (kind, colon, bool(what)) == (own, own_colon, bool(own_colon)):
            return make, what
    raise DataError(f"no judge is called {name!r}; use {names()}")
