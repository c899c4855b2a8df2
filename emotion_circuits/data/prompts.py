"""Prompts: a chat, and what the experiment knows about it (method.md, stage 1)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from emotion_circuits.data.instructions import Style, Wording, english
from emotion_circuits.errors import EmotionError

Message = tuple[str, str]
"""Role (``system``, ``user``, ``assistant``) and content."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One chat, waiting for the assistant's reply.

    Attributes:
        messages: the turns so far.
        emotion: the emotion that the reply should express, or None when nothing asks for one.
        item: which scenario this is (``skeleton_id``), or None.
        valence: the event's valence, or None.
        theme: the scenario's theme, or None.
        text: raw text used as it stands instead of the chat template's rendering of ``messages``.
    """

    messages: tuple[Message, ...] = ()
    emotion: str | None = None
    item: str | None = None
    valence: str | None = None
    theme: str | None = None
    text: str | None = None

    @classmethod
    def user(cls, text: str, system: str | None = None) -> Prompt:
        """A chat of one user message, with an optional system message."""
        turns: list[Message] = [("system", system)] if system else []
        return cls((*turns, ("user", text)))

    @classmethod
    def raw(cls, text: str) -> Prompt:
        """Text that no chat template is applied to."""
        return cls(text=text)

    @property
    def group(self) -> tuple[Hashable, str | None]:
        """(scenario, event valence): prompts of one group differ in the emotion alone.

        The scenario of a prompt without ``item`` is what it says: its turns without the system message, in which the
        instruction stands, or its raw text.
        """
        if self.item is not None:
            return self.item, self.valence
        said = tuple(turn for turn in self.messages if turn[0] != "system") if self.text is None else self.text
        return said, self.valence

    def instructed(self, emotion: str | None, style: Style = "named", wording: Wording | None = None) -> Prompt:
        """The same chat under another instruction, which replaces the system message; English by default."""
        turns = tuple(turn for turn in self.messages if turn[0] != "system")
        system = (wording or english()).instruction(emotion, style)
        return replace(self, messages=(("system", system), *turns), emotion=emotion)


def as_prompts(prompts: object) -> list[Prompt]:
    """Prompts from whatever holds them: a SEV (uninstructed), replies, prompts, or plain strings (user messages)."""
    if isinstance(prompts, Prompt):
        return [prompts]
    if isinstance(prompts, str):
        return [Prompt.user(prompts)]
    if hasattr(prompts, "prompts"):
        given: Any = getattr(prompts, "prompts")  # noqa: B009 (anything that holds prompts)
        return list(given() if callable(given) else given)  # pyright: ignore[reportArgumentType]
    if isinstance(prompts, Iterable):
        held = list(prompts)
        wrong = [p for p in held if not isinstance(p, Prompt | str)]
        if not wrong:
            return [p if isinstance(p, Prompt) else Prompt.user(p) for p in held]
        raise TypeError(f"cannot read a prompt from {type(wrong[0]).__name__}; give a SEV, prompts, replies or strings")
    raise TypeError(f"cannot read prompts from {type(prompts).__name__}; give a SEV, prompts, replies or strings")


def as_emotions(emotions: Iterable[str]) -> tuple[str, ...]:
    """``emotions`` as a tuple.

    Raises:
        EmotionError: it is one string, whose letters would be taken for emotions.
    """
    if isinstance(emotions, str):
        raise EmotionError(f"emotions={emotions!r} is one string, not a list of emotions; give [{emotions!r}]")
    return tuple(emotions)


def check_emotions(emotions: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    """``emotions`` as a tuple, once each is found in ``known``.

    Raises:
        EmotionError: one of them is not there, none was given, or it is one string.
    """
    emotions = as_emotions(emotions)
    unknown = [e for e in emotions if e not in known]
    if not emotions:
        raise EmotionError(f"no emotion was given; choose among those of {what}: {', '.join(known)}")
    if unknown:
        raise EmotionError(f"no emotion {', '.join(map(repr, unknown))} in {what}; choose among {', '.join(known)}")
    return emotions
