"""Scenes of the demo corpus: a first-person scenario and an event, composed of a theme's parts.

1. A scene draws theme, action, object, person, frame, time and an event triple.
2. Some (action, object) and (object, event) pairs, and the last event triple of every theme, are held out: training
   never sees them, and every evaluation scene is made of them.
3. `sev_records` makes the three SEV files of the toolkit (direction fitting, validation, test) from held-out parts;
   no pair is used twice, so the splits are disjoint from each other and from the training corpus.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from emotion_circuits.demo.wordings.themes import FRAMES, THEMES, TIMES, Theme

VALENCES: tuple[str, ...] = ("positive", "neutral", "negative")
SPLIT_SIZES: dict[str, int] = {"train": 60, "validation": 30, "test": 64}
SEV_SEED = 20
"""Seed of the shipped SEV files."""

DATA_FOLDER = Path(__file__).parents[1] / "data" / "demo"
"""Where the shipped SEV files lie."""


@dataclass(frozen=True)
class Scene:
    """One scenario with its three events.

    Attributes:
        theme: name of the theme.
        scenario: first-person sentence without the final period.
        events: positive, neutral and negative version of the event.
        object: what the reply calls the object, such as "the report".
        person: what the reply calls the person, such as "your manager".
        pair: (theme code, action, object), the identity by which splits are kept apart.
    """

    theme: str
    scenario: str
    events: tuple[str, str, str]
    object: str
    person: str
    pair: tuple[str, str, str]


def held_out_pair(action: int, thing: int) -> bool:
    """Whether training never combines this action with this object (both as indices into their theme)."""
    return (action + thing) % 4 == 0


def held_out_event(event: int, thing: int, n_events: int) -> bool:
    """Whether training never combines this event triple with this object; the last triple is held out altogether."""
    return event == n_events - 1 or (event + thing) % 5 == 4


def _compose(rng: random.Random, theme: Theme, action: int, thing: int, event: int) -> Scene:
    person = rng.choice(theme.people)
    time = rng.choice(TIMES)
    scenario = rng.choice(FRAMES).format(
        action=theme.actions[action],
        o=theme.objects[thing],
        person=person,
        place=rng.choice(theme.places),
        time=time,
        Time=time[0].upper() + time[1:],
    )
    positive, neutral, negative = (t.format(o=theme.objects[thing], P=f"My {person}") for t in theme.events[event])
    events = (positive, neutral, negative)
    pair = (theme.code, theme.actions[action], theme.objects[thing])
    return Scene(theme.name, scenario[0].upper() + scenario[1:], events, theme.objects[thing], f"your {person}", pair)


def training_scene(rng: random.Random) -> Scene:
    """Draw one scene that contains nothing held out."""
    theme = rng.choice(THEMES)
    while True:
        action, thing = rng.randrange(len(theme.actions)), rng.randrange(len(theme.objects))
        event = rng.randrange(len(theme.events))
        if not held_out_pair(action, thing) and not held_out_event(event, thing, len(theme.events)):
            return _compose(rng, theme, action, thing, event)


def held_out_scenes(seed: int = SEV_SEED) -> dict[str, list[Scene]]:
    """Draw the scenes of the three splits from held-out parts.

    Args:
        seed: same seed, same scenes.

    Returns:
        Split name to its scenes; the themes take turns.
    """
    rng = random.Random(seed)
    pools = []
    for theme in THEMES:
        pairs = [
            (action, thing)
            for action in range(len(theme.actions))
            for thing in range(len(theme.objects))
            if held_out_pair(action, thing)
        ]
        rng.shuffle(pairs)
        pools.append(pairs)
    splits: dict[str, list[Scene]] = {}
    used: set[tuple[str, int, int]] = set()
    turn = 0
    for split, size in SPLIT_SIZES.items():
        splits[split] = []
        for _ in range(size):
            theme, pool = THEMES[turn % len(THEMES)], pools[turn % len(THEMES)]
            turn += 1
            action, thing = pool.pop()
            n_events = len(theme.events)
            unseen = [
                event
                for event in range(n_events)
                if held_out_event(event, thing, n_events) and (theme.code, thing, event) not in used
            ]
            event = rng.choice(unseen)
            used.add((theme.code, thing, event))
            splits[split].append(_compose(rng, theme, action, thing, event))
    return splits


def sev_records(seed: int = SEV_SEED) -> dict[str, list[dict[str, object]]]:
    """The held-out scenes as SEV records.

    Args:
        seed: same seed, same records.

    Returns:
        Split name to its records, sorted by theme; identifiers count on from split to split.
    """
    order = {theme.name: position for position, theme in enumerate(THEMES)}
    counts: dict[str, int] = dict.fromkeys((theme.code for theme in THEMES), 0)
    records: dict[str, list[dict[str, object]]] = {}
    for split, scenes in held_out_scenes(seed).items():
        records[split] = []
        for scene in sorted(scenes, key=lambda scene: order[scene.theme]):
            code = scene.pair[0]
            records[split].append(
                {
                    "skeleton_id": f"{code}_{counts[code]:02d}",
                    "theme": scene.theme,
                    "scenario": scene.scenario,
                    "event": dict(zip(VALENCES, scene.events, strict=True)),
                }
            )
            counts[code] += 1
    return records


def write_sev(folder: Path = DATA_FOLDER, seed: int = SEV_SEED) -> list[Path]:
    """Write ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``; the same seed writes the same bytes.

    Args:
        folder: where to; it is created if needed.
        seed: seed of the scenes.

    Returns:
        The paths written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for split, records in sev_records(seed).items():
        path = folder / f"{split}.jsonl"
        lines = [json.dumps(record) for record in records]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        paths.append(path)
    return paths
