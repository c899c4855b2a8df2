"""Instructions: the system message of each elicitation style, in several languages (method.md, stage 1).

The texts stand in ``instructions/{language}.yaml``, one file per language. A style is

* a template with ``{emotion}`` in it, which works for any label, or
* one text per label, e.g. a described state that never says the emotion's name, against the confound of the keyword.

``none`` is the style of the uninstructed prompt: the length rule alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from emotion_circuits.data.fields import Fields, read_yaml
from emotion_circuits.errors import DataError, EmotionError

Style = str
"""Name of a style: ``named``, ``described``, ``none``, or another one of the language's file."""

_FOLDER = Path(__file__).with_suffix("")

LANGUAGES: tuple[str, ...] = tuple(
    sorted((path.stem for path in _FOLDER.glob("*.yaml")), key=lambda code: (code != "en", code))
)
"""Codes of the languages that have a file: English, then the others by their code."""


@dataclass(frozen=True)
class Wording:
    """How emotions are asked for.

    Attributes:
        language: code of the language, e.g. ``"en"``.
        length_rule: second line of every instruction.
        words: what stands for ``{emotion}``, by label; in English a label that is missing stands for itself.
        styles: a template, or one text per label, by the style's name.
    """

    language: str
    length_rule: str
    words: Mapping[str, str] = field(default_factory=dict)
    styles: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def load(cls, language: str = "en") -> Wording:
        """The wording that ships with the package.

        Raises:
            DataError: there is none in that language.
        """
        return _load(language)

    def instruction(self, emotion: str | None, style: Style = "named") -> str:
        """The system message that asks for ``emotion`` in ``style``; None gives the length rule alone.

        Raises:
            EmotionError: there is no such style, or no text or word for the emotion.
        """
        if emotion is None or style == "none":
            return self.length_rule
        if style not in self.styles:
            raise EmotionError(f"no style {style!r} in {self.language!r}; there are {', '.join(self.styles)} and none")
        texts = self.styles[style]
        if isinstance(texts, str):
            asked = texts.replace("{emotion}", self.word(emotion))
        elif emotion in texts:
            asked = texts[emotion]
        else:
            raise EmotionError(
                f"style {style!r} has no text for {emotion!r} in {self.language!r}; it has one for "
                f"{', '.join(texts)}: use style='named', or a label set with texts of its own"
            )
        return f"{asked}\n{self.length_rule}"

    def word(self, emotion: str) -> str:
        """What stands for ``{emotion}``.

        Raises:
            EmotionError: the language is not English, and has no word for the label.
        """
        if emotion not in self.words and self.language != "en":
            raise EmotionError(
                f"no word for {emotion!r} in {self.language!r}; there are words for {', '.join(self.words)}: give the "
                f"label one in a label set (words: {{{self.language}: ...}})"
            )
        return self.words.get(emotion, emotion)

    def covers(self, style: Style, emotions: Iterable[str]) -> bool:
        """Whether the style has a text for each of the emotions."""
        texts = self.styles.get(style, {})
        return isinstance(texts, str) or all(emotion in texts for emotion in emotions)

    def extended(self, words: Mapping[str, str], texts: Mapping[str, Mapping[str, str]]) -> Wording:
        """With more words, and with more texts per label in some styles."""
        styles = dict(self.styles)
        for style, more in texts.items():
            held = styles.get(style, {})
            if isinstance(held, str):
                raise DataError(f"style {style!r} is a template; give words for it, not texts per label")
            styles[style] = {**held, **more}
        return replace(self, words={**self.words, **words}, styles=styles)


def english() -> Wording:
    """The English wording, which the demo model was trained on."""
    return _load("en")


@cache
def _load(language: str) -> Wording:
    if language not in LANGUAGES:
        raise DataError(f"no instructions in language {language!r}; there are {', '.join(LANGUAGES)}")
    held = read_yaml(_FOLDER / f"{language}.yaml").only("language", "length_rule", "words", "styles")
    styles = held.child("styles")
    return Wording(
        language, held.text("length_rule"), held.texts("words"), {name: _style(styles, name) for name in styles}
    )


def _style(styles: Fields, name: str) -> str | dict[str, str]:
    given: Any = styles[name]
    return styles.text(name) if isinstance(given, str) else styles.texts(name)
