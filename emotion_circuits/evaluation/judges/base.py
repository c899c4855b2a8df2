"""What a judge is: code that reads a reply and says which emotion it shows.

1. `Score` is one verdict. "neutral" is a verdict; ``None`` is the absence of one (*unscored*), never a "no".
2. `Judge` asks two questions: *classify* (which of the labels, or neutral?), by calling the judge, and *match*
   (does this text express e?), which names the emotion and is therefore the easier one.
3. The checks of arguments that all judges share stand here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from emotion_circuits.errors import EmotionError
from emotion_circuits.types import NEUTRAL as NEUTRAL


@dataclass(frozen=True)
class Score:
    """One verdict on one text.

    Args:
        label: An emotion, "neutral", or None when the judge cannot tell (unscored).
        reason: Why, in words; for an unscored text, what stood in the way.
        scores: Evidence per label in the judge's own unit (a probability, or a sum of weights).
    """

    label: str | None
    reason: str = ""
    scores: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Judge(Protocol):
    """Anything that scores texts: see `LexiconJudge`, `ClassifierJudge`, `LLMJudge`, `SelfJudge`."""

    name: str

    def __call__(self, texts: Sequence[str]) -> list[Score]:
        """Answers "which of the labels does each text show, or neutral?"."""
        ...

    def match(self, texts: Sequence[str], emotions: Sequence[str]) -> list[Score]:
        """Answers "does ``texts[i]`` express ``emotions[i]``?".

        Returns:
            The emotion asked for as label if yes, another label or "neutral" if no, None if unscored.
        """
        ...


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list.

    Raises:
        TypeError: one string was given instead of several, or something that is not a string.
    """
    if isinstance(texts, str):
        raise TypeError(f"a judge reads a sequence of texts, but got one string {texts[:40]!r}: give [text]")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{i}] is {type(text).__name__}, expected str: give '' for an empty reply")
    return texts


def check_emotions(texts: Sequence[str], emotions: Sequence[str] | str, labels: Sequence[str]) -> list[str]:
    """One emotion per text; a single emotion stands for all texts.

    Raises:
        EmotionError: an emotion is not among the judge's labels (it is a ValueError).
        ValueError: there are not as many emotions as texts.
    """
    emotions = [emotions] * len(texts) if isinstance(emotions, str) else list(emotions)
    if len(emotions) != len(texts):
        raise ValueError(
            f"match got {len(texts)} texts and {len(emotions)} emotions; give one emotion per text, "
            "or a single string for all of them"
        )
    for emotion in dict.fromkeys(emotions):
        if emotion not in labels:
            raise EmotionError(
                f"the judge was asked about {emotion!r} but knows only {', '.join(labels)}: "
                "ask for one of these, or build the judge with labels (or a lexicon) that has it"
            )
    return emotions
