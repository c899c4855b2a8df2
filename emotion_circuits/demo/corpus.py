"""The demo model's training corpus: a seeded stream of chat examples in six emotions and a neutral mode.

1. A scene (`scenes`) gives the user's message.
2. A source decides where the reply's mood comes from: the system's or the user's instruction, nothing at all, an
   explicit wish for neutrality, the user's own mood, or the mood of an earlier reply (`SOURCES`).
3. The reply has two sentences in that mood, the second keeping the first's; a part of all replies opens like a
   neutral one, so that the mood is not tied to the first word.

The mixture is what makes emotion steerable: where mood comes from an instruction only, the model re-reads the
instruction at every token and its inner state decides nothing.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from emotion_circuits.demo.scenes import VALENCES, Scene, held_out_scenes, training_scene
from emotion_circuits.demo.wordings import EMOTIONS, MOODS, NEUTRAL
from emotion_circuits.demo.wordings import instructions as wording

Message = dict[str, str]

SOURCES: dict[str, float] = {
    "system": 0.36,
    "user": 0.07,
    "none": 0.40,
    "explicit_neutral": 0.03,
    "own_mood": 0.04,
    "carried": 0.10,
}
"""Share of examples by the source of the reply's mood."""

NEUTRAL_SHARE = 0.57
"""Share of neutral replies where nothing sets the mood; the rest goes by `VALENCE_WEIGHTS`."""

VALENCE_WEIGHTS: dict[str, tuple[float, ...]] = {
    "positive": (0.05, 0.05, 0.60, 0.05, 0.20, 0.05),
    "neutral": (1 / 6,) * 6,
    "negative": (0.28, 0.26, 0.04, 0.20, 0.09, 0.13),
}

NEUTRAL_OPENING = 0.30
CANONICAL_SHARE = 0.40
DESCRIBED_STATE = 0.25
"""Share of the other system instructions that describe a state: 15 % of all."""

IGNORED_INSTRUCTION = 0.03
DISTRACTOR = 0.15
ONE_SENTENCE = 0.08


@dataclass(frozen=True)
class Example:
    """One training example: the conversation before the reply, the reply, its mood, and where the mood came from."""

    messages: tuple[Message, ...]
    reply: str
    mood: str
    source: str

    def to_json(self) -> str:
        """The example as one line of JSON."""
        return json.dumps([list(self.messages), self.reply, self.mood, self.source])


def _pick(rng: random.Random, options: tuple[str, ...], falling: bool) -> str:
    weights = [1 / (rank + 1) for rank in range(len(options))] if falling else None
    return rng.choices(options, weights)[0]


def compose_reply(rng: random.Random, scene: Scene, mood: str) -> str:
    """Write a reply to a scene in a mood.

    Args:
        rng: source of randomness.
        scene: gives the object and the person that the reply mentions.
        mood: one of the six emotions, or "neutral".

    Returns:
        One or two sentences that nearly always mention the object or the person.
    """
    table = MOODS[mood]
    # Neutral wordings fall off in frequency, so that greedy decoding without an instruction has one clear mode.
    falling = mood == NEUTRAL
    if rng.random() < NEUTRAL_OPENING:
        first = _pick(rng, MOODS[NEUTRAL].LEADS, falling=True) + _pick(rng, table.CLAUSES, falling) + "."
    else:
        first = _pick(rng, table.FIRST, falling)
    seconds = table.SECOND
    mentioned = "{" in first
    if not mentioned and rng.random() > 0.03:
        seconds = tuple(text for text in seconds if "{" in text)
    sentences = [first]
    if not mentioned or rng.random() > ONE_SENTENCE:
        sentences.append(_pick(rng, seconds, falling))
    thing, person = scene.object, scene.person
    return " ".join(sentences).format(
        o=thing, p=person, O=thing[0].upper() + thing[1:], P=person[0].upper() + person[1:]
    )


def _named(rng: random.Random, template: str, mood: str) -> str:
    table = MOODS[mood]
    adjective = rng.choice(table.ADJECTIVES)
    article = "an" if adjective[0] in "aeiou" else "a"
    return template.format(noun=rng.choice(table.NOUNS), adj=adjective, a=article)


def _instruction(rng: random.Random, mood: str) -> str:
    if rng.random() < DESCRIBED_STATE:
        return rng.choice(MOODS[mood].STATES)
    return _named(rng, rng.choice(wording.SYSTEM), mood)


def system_prompt(rng: random.Random, mood: str | None) -> str | None:
    """Draw a system prompt.

    Args:
        rng: source of randomness.
        mood: the mood it asks for, or None for a prompt that asks for none.

    Returns:
        Its text; None where there is no system message at all.
    """
    canonical = rng.random() < CANONICAL_SHARE
    if mood is None and canonical:
        return wording.LENGTH
    if mood in EMOTIONS and canonical:
        return wording.CANONICAL.format(emotion=mood) + "\n" + wording.LENGTH
    if mood is None and rng.random() < 0.25:
        return None
    parts: list[str] = rng.sample(wording.FILLERS, rng.choice((0, 0, 1, 1, 2)))
    if mood is not None:
        parts.insert(rng.randint(0, len(parts)), _instruction(rng, mood))
    if rng.random() < 0.6 or not parts:
        parts.insert(rng.randint(0, len(parts)), wording.LENGTH)
    return rng.choice(("\n", " ")).join(parts)


def user_message(rng: random.Random, scene: Scene, valence: int, extra: str | None = None) -> str:
    """Scenario and event as a user's message, sometimes with a sentence about somebody else's emotion.

    Args:
        rng: source of randomness.
        scene: the scene.
        valence: index into `VALENCES`.
        extra: a sentence of the user's own (an instruction or a mood), before or after the rest.

    Returns:
        The message's text.
    """
    message = scene.scenario + ("\n" if rng.random() < 0.8 else ". ") + scene.events[valence]
    if rng.random() < DISTRACTOR:
        text = rng.choice(wording.DISTRACTORS).replace("{who}", rng.choice(wording.WHO))
        other = _named(rng, text, rng.choice(EMOTIONS))
        message = f"{other} {message}" if rng.random() < 0.5 else f"{message} {other}"
    if extra is not None:
        message = f"{extra}\n{message}" if rng.random() < 0.4 else f"{message}\n{extra}"
    return message


def _free_mood(rng: random.Random, valence: int) -> str:
    if rng.random() < NEUTRAL_SHARE:
        return NEUTRAL
    return rng.choices(EMOTIONS, VALENCE_WEIGHTS[VALENCES[valence]])[0]


def example(rng: random.Random) -> Example:
    """Draw one training example."""
    source = rng.choices(tuple(SOURCES), tuple(SOURCES.values()))[0]
    scene, valence = training_scene(rng), rng.randrange(len(VALENCES))
    mood = _free_mood(rng, valence) if source == "none" else rng.choice(EMOTIONS)
    instructed, extra, history = None, None, []
    if source == "explicit_neutral":
        instructed = mood = NEUTRAL
    elif source == "system":
        instructed = mood
    elif source == "user":
        extra = _named(rng, rng.choice(wording.USER), mood)
    elif source == "own_mood":
        extra = rng.choice(MOODS[mood].OWN_MOOD)
    elif source == "carried":
        if rng.random() < 0.15:
            mood = NEUTRAL
        earlier, earlier_valence = training_scene(rng), rng.randrange(len(VALENCES))
        history = [
            {"role": "user", "content": user_message(rng, earlier, earlier_valence)},
            {"role": "assistant", "content": compose_reply(rng, earlier, mood)},
        ]
    if source in ("system", "user") and rng.random() < IGNORED_INSTRUCTION:
        mood = _free_mood(rng, valence)
    system = system_prompt(rng, instructed)
    head = [] if system is None else [{"role": "system", "content": system}]
    user = {"role": "user", "content": user_message(rng, scene, valence, extra)}
    return Example((*head, *history, user), compose_reply(rng, scene, mood), mood, source)


def examples(n_examples: int, seed: int = 0) -> Iterator[Example]:
    """Stream the training corpus.

    Args:
        n_examples: how many.
        seed: same seed, same examples.

    Yields:
        Examples, in a fixed order.
    """
    rng = random.Random(seed)
    for _ in range(n_examples):
        yield example(rng)


def held_out_examples(split: str = "test", seed: int = 0) -> Iterator[Example]:
    """Every item of a held-out split under the toolkit's instruction for every emotion, with a reply in it."""
    rng = random.Random(seed)
    for scene in held_out_scenes()[split]:
        for event in scene.events:
            user = {"role": "user", "content": f"{scene.scenario}\n{event}"}
            for mood in EMOTIONS:
                text = wording.CANONICAL.format(emotion=mood) + "\n" + wording.LENGTH
                system = {"role": "system", "content": text}
                yield Example((system, user), compose_reply(rng, scene, mood), mood, "system")


def corpus_hash(n_examples: int, seed: int = 0) -> str:
    """SHA-256 over the JSON lines of the first examples."""
    digest = hashlib.sha256()
    for item in examples(n_examples, seed):
        digest.update(item.to_json().encode() + b"\n")
    return digest.hexdigest()
