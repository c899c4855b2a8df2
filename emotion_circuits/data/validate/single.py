"""Checks on one record: its fields, the first person, one text for two valences, emotion words.

Emotion words are roots (``emotion_words.txt``) and their endings are taken off a word one to three times, with
spelling mended (worried -> worry, hoping -> hope, upsetting -> upset): "joyfulness" is found, "gladiator" is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from emotion_circuits.data.validate.report import Finding
from emotion_circuits.data.validate.rows import Row, value_at, words_of

_FIRST_PERSON = {"i", "me", "my", "mine", "myself", "we", "us", "our", "ours", "ourselves"}
_CONTRACTED = ("'s", "'m", "'d", "'ll", "'ve", "'re")
_SUFFIXES = (
    *("s", "es", "d", "ed", "ing", "ingly", "edly", "er", "ers", "est", "ly", "ily", "y"),
    *("ness", "ful", "less", "ment", "ments", "able", "ably", "ous", "ion", "ions", "ation"),
)


def fields(row: Row) -> Iterator[Finding]:
    """Missing, empty or wrongly typed fields."""
    for path in row.layout.paths:
        value = value_at(row.record, path)
        if isinstance(value, str) and value.strip():
            continue
        if value is None:
            given = "is missing"
        else:
            given = "is empty" if isinstance(value, str) else f"is {value!r} ({type(value).__name__})"
        yield row.finding("field", path, f"{given}; expected a non-empty text: write it, or take the record out")


def first_person(row: Row) -> Iterator[Finding]:
    """The scenario, or the vignette, is told by the one who replies."""
    for path in row.layout.lead or row.layout.arms:
        words = row.texts.get(path)
        if words is not None and _FIRST_PERSON.isdisjoint(_plain(word) for word in words_of(words)):
            message = "has no I, me, my, we, us or our; tell it in the first person, since the reply is the narrator's"
            yield row.finding("first_person", path, message, "warning")


def identical_arms(row: Row) -> Iterator[Finding]:
    """One text under two valences."""
    seen: dict[str, str] = {}
    for arm in row.layout.arms:
        if arm in row.texts:
            same = seen.setdefault(" ".join(row.texts[arm].casefold().split()), arm)
            if same != arm:
                yield row.finding("identical_events", arm, f"is the same text as {same}; write one for each")


def emotion_words(row: Row, words: Mapping[str, tuple[str, bool]], allowed: set[str]) -> Iterator[Finding]:
    """Words that name or show an emotion."""
    for path, text in row.texts.items():
        for word in dict.fromkeys(map(_plain, words_of(text))):
            hits = [words[root] for root in _roots(word) if root in words and (root == word or words[root][1])]
            if hits and word not in allowed:
                message = f"emotion word {word!r}; say what happens and leave the emotion to the reader"
                yield row.finding("emotion_word", path, message, min(severity for severity, _ in hits))


def word_list(extra: Iterable[str] = ()) -> dict[str, tuple[str, bool]]:
    """Root -> (severity, whether its other forms are meant too)."""
    text = Path(__file__).with_name("emotion_words.txt").read_text(encoding="utf-8")
    entries = " ".join(line for line in text.splitlines() if not line.startswith("#")).split()
    words: dict[str, tuple[str, bool]] = {}
    for entry in [*entries, *extra]:
        root = entry.removeprefix("~")
        severity = "error" if root == entry else "warning"
        words[root.removeprefix("=").casefold()] = (severity, not root.startswith("="))
    return words


def _plain(word: str) -> str:
    """The word without 's, 'm, 'll ..."""
    return next((word.removesuffix(end) for end in _CONTRACTED if word.endswith(end)), word)


@cache
def _roots(word: str) -> frozenset[str]:
    """The word and what is left of it when up to three endings are taken off: hopefulness -> hopeful, hope."""
    roots, fresh = {word}, {word}
    for _ in range(3):
        fresh = {base for form in fresh for suffix in _SUFFIXES for base in _without(form, suffix)} - roots
        roots |= fresh
    return frozenset(roots)


def _without(form: str, suffix: str) -> Iterator[str]:
    base = form.removesuffix(suffix)
    if base == form or len(base) < 3:
        return
    yield base
    if suffix[0] in "aeioy":
        yield base + "e"
        if base[-1] == base[-2]:
            yield base[:-1]
    if base[-1] == "i":
        yield base[:-1] + "y"
