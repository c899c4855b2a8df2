"""Wording tables of the demo corpus, written for this project: one module per mood, the instructions, the themes.

Each mood module has ``FIRST`` and ``SECOND`` (first and second sentences), ``CLAUSES`` (after a shared opening),
``ADJECTIVES`` and ``NOUNS`` (names of the mood), ``OWN_MOOD`` (what a user in that mood says) and ``STATES``
(descriptions of somebody in that mood that never name it).
"""

from types import ModuleType

from emotion_circuits.demo.wordings import anger, disgust, fear, happiness, neutral, sadness, surprise

EMOTIONS: tuple[str, ...] = ("anger", "sadness", "happiness", "fear", "surprise", "disgust")
NEUTRAL = "neutral"

MOODS: dict[str, ModuleType] = dict(
    zip((*EMOTIONS, NEUTRAL), (anger, sadness, happiness, fear, surprise, disgust, neutral), strict=True)
)

DESCRIBED_STATES: dict[str, list[str]] = {emotion: list(MOODS[emotion].STATES) for emotion in EMOTIONS}
"""Per emotion, instructions that describe the state and never name it; the first is the toolkit's own wording."""
