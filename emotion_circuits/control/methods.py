"""Methods of control, as objects: how a reply is made to express an emotion.

A method answers one question: for these items and this emotion, which prompts and which patches? Everything else
(decoding, batching, scoring) is the same for all of them, so that they can be compared.

Here are the methods without patches, and what every method shares. Those with patches are in `circuits` and
`steering`; `composed` makes methods of methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from emotion_circuits.data.instructions import Style
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.data.sev import Item
from emotion_circuits.errors import EmotionError
from emotion_circuits.interventions import Patch


@runtime_checkable
class Method(Protocol):
    """See the module's docstring."""

    @property
    def name(self) -> str: ...

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        """The prompts and patches that should make replies to ``items`` express ``emotion``."""
        ...


@dataclass(frozen=True)
class Unmodulated:
    """No instruction and no patch."""

    name: str = "none"

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        return [item.prompt() for item in items], []


@dataclass(frozen=True)
class Prompting:
    """The instruction, and no patch.

    Attributes:
        style: of the instruction: ``"named"`` says the emotion's name; ``"described"`` puts the reader into a state and
            never says it; ``"persona"`` gives a part to play; ``"example"`` shows a reply to another message.
        name: shown in tables.
    """

    style: Style = "named"
    name: str = "prompting"

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        return [item.prompt(emotion, self.style) for item in items], []


@dataclass(frozen=True)
class PerEmotion:
    """A method of its own for each emotion, e.g. as calibration chose them.

    Attributes:
        methods: by emotion.
        name: shown in tables.
    """

    methods: Mapping[str, Method]
    name: str

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        return held_for(self.methods, emotion, self.name).prepare(items, emotion)


def together(wanted: Iterable[tuple[Method, str]], items: Sequence[Item]) -> tuple[list[Prompt], list[Patch]]:
    """Several methods' prompts in one list, and patches that act on their own rows of it only.

    What runs together is decoded together, and what equal prompts share is computed once.
    """
    prompts: list[Prompt] = []
    patches: list[Patch] = []
    for method, emotion in wanted:
        new, acting = method.prepare(items, emotion)
        patches += [patch.among(len(prompts), len(new)) for patch in acting]
        prompts += new
    return prompts, patches


def strength_of(strength: float | Mapping[str, float], emotion: str) -> float:
    """The strength for one emotion."""
    return held_for(strength, emotion, "strength") if isinstance(strength, Mapping) else strength


def held_for(held: Mapping[str, Any], emotion: str, name: str) -> Any:
    """What a method holds for one emotion.

    Raises:
        EmotionError: nothing.
    """
    if emotion not in held:
        raise EmotionError(f"method {name!r} knows no emotion {emotion!r}; it knows {', '.join(held)}")
    return held[emotion]
