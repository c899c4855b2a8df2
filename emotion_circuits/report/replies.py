"""Sample replies side by side: for each emotion some items, and what every method answered to them."""

from __future__ import annotations

from dataclasses import dataclass

from emotion_circuits.data.prompts import Prompt
from emotion_circuits.evaluation.comparison import Comparison
from emotion_circuits.evaluation.judges import Score
from emotion_circuits.replies import Reply

MAX_ITEMS = 24
"""Items shown for each emotion: more would make the page slow."""


@dataclass(frozen=True)
class Answer:
    """One method's reply to one item, with the verdict."""

    method: str
    text: str
    label: str
    hit: bool
    reason: str


@dataclass(frozen=True)
class ItemReplies:
    """One item under one emotion.

    Attributes:
        name: of the scenario.
        valence: of the event.
        said: what the user said.
        answers: one per method that replied.
    """

    name: str
    valence: str
    said: str
    answers: list[Answer]

    @property
    def disagree(self) -> bool:
        """Whether some method succeeded and another did not."""
        return len({answer.hit for answer in self.answers}) > 1


def sample_replies(comparison: Comparison, n_items: int = MAX_ITEMS) -> dict[str, list[ItemReplies]]:
    """Evenly spaced items for each emotion, with every method's reply.

    Args:
        comparison: from `compare`.
        n_items: how many items, for each emotion.
    """
    held: dict[str, dict[tuple, dict[str, tuple[Reply, Answer]]]] = {}
    for method, evaluation in comparison.evaluations.items():
        for reply, score in zip(evaluation.replies, evaluation.scores, strict=True):
            of_emotion = held.setdefault(reply.emotion or "none", {})
            of_emotion.setdefault(_key(reply.prompt), {})[method] = (reply, _answer(method, reply, score))
    return {emotion: [_item(list(items[key].values())) for key in _spaced(list(items), n_items)]
            for emotion, items in held.items()}  # fmt: skip


def n_items(comparison: Comparison) -> int:
    """How many different items the methods answered."""
    return len({_key(reply.prompt) for reply in comparison.replies})


def _spaced(keys: list[tuple], n: int) -> list[tuple]:
    if len(keys) <= n:
        return keys
    return [keys[i * len(keys) // n] for i in range(n)]


def _key(prompt: Prompt) -> tuple:
    """The item; prompts without a name are told apart by what the user said."""
    return prompt.group if prompt.item is not None else (_said(prompt), prompt.valence)


def _said(prompt: Prompt) -> str:
    return "\n".join(text for role, text in prompt.messages if role == "user") or prompt.text or ""


def _answer(method: str, reply: Reply, score: Score) -> Answer:
    wanted = reply.emotion or "neutral"
    return Answer(method, reply.text, score.label or "unscored", score.label == wanted, score.reason)


def _item(answers: list[tuple[Reply, Answer]]) -> ItemReplies:
    prompt = answers[0][0].prompt
    return ItemReplies(prompt.item or "", prompt.valence or "", _said(prompt), [answer for _, answer in answers])
