"""Judges for a label set: a lexicon made from what the set says, and a check before work starts."""

from __future__ import annotations

from collections.abc import Sequence

from emotion_circuits.data.labels import Label, LabelSet
from emotion_circuits.data.prompts import as_emotions
from emotion_circuits.errors import EmotionError
from emotion_circuits.evaluation.judges.base import Judge
from emotion_circuits.evaluation.judges.lexicon import LexiconJudge
from emotion_circuits.evaluation.judges.phrases import read_list
from emotion_circuits.types import EKMAN, NEUTRAL


def judge_for(labels: LabelSet) -> LexiconJudge:
    """The lexicon judge that knows these labels.

    A label has its own phrases, and those of the label that it is ``like``. Subsets of the six are judged by the
    lists of all six, since a reply that shows another emotion than was wanted must be able to lose.

    Args:
        labels: the labels. Those without any phrases are left out, and the judge then does not know them.
    """
    if set(labels.names) <= set(EKMAN) and not any(label.phrases for label in labels.labels):
        return LexiconJudge()
    lexicon = {label.name: _phrases(label) for label in labels.labels}
    borrowed = {label.base for label in labels.labels}
    rest = {name: dict(read_list(name)) for name in EKMAN if name not in borrowed and name not in lexicon}
    return LexiconJudge({name: held for name, held in (lexicon | rest).items() if held})


def check_judge(judge: Judge, emotions: Sequence[str], language: str = "en") -> None:
    """Ask a judge, before any work is done, whether it knows the labels and reads the language.

    A judge says so by its attributes ``labels`` and ``languages``; one that lacks them is trusted.

    Raises:
        EmotionError: it does not; says which labels are missing and what to do.
    """
    check_labels(judge, emotions)
    languages = getattr(judge, "languages", (language,))
    if language not in languages:
        raise EmotionError(
            f"the judge ({judge.name}) reads {', '.join(languages)} only, and instructions in {language!r} bring "
            "replies in that language; pass a judge that reads it, such as LLMJudge or a ClassifierJudge"
        )


def check_labels(judge: Judge, emotions: Sequence[str]) -> tuple[str, ...]:
    """``emotions`` as a tuple, once the judge is known to know them all; one that has no ``labels`` is trusted.

    Raises:
        EmotionError: it does not know one, or ``emotions`` is one string.
    """
    emotions = as_emotions(emotions)
    known = getattr(judge, "labels", emotions)
    # Neutral is a verdict of every judge, and not among its labels.
    unknown = [emotion for emotion in emotions if emotion not in known and emotion != NEUTRAL]
    if unknown:
        raise EmotionError(
            f"the judge ({judge.name}) has no emotion {', '.join(map(repr, unknown))}; it has {', '.join(known)}. Give "
            "these labels phrases in a label set (phrases: {...}) or make them like one of the six, or pass a judge "
            "that reads any label: LLMJudge(labels=...)"
        )
    return emotions


def _phrases(label: Label) -> dict[str, float]:
    shipped = dict(read_list(label.base)) if label.base in EKMAN else {}
    return {**shipped, **label.phrases}
