"""The grids: which planted models the discovery benchmark runs on. Fixed before any method was scored.

1. Noise is crossed: every level gets as many models as every other.
2. The other difficulties are drawn at random for each model, from a seed of the grid's own.
3. ``development`` is for looking at while methods are made. ``final`` shares no seed with it and was run once, for the
   first default method; ``confirmation`` is for the next one, and is run once as well. ``docs/ground-truth.md`` says
   when that was. All models are drawn by the same rule.
4. ``ladder`` has one difficulty at a time and none of the others, three models each, with seeds of its own.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Literal

from emotion_circuits.planted import PlantedConfig

GridName = Literal["development", "final", "confirmation", "ladder"]

NOISE = (0.02, 0.05, 0.1, 0.2)
LOW_NOISE = 0.05
"""The low-noise half are the models up to this level."""

_SEEDS = {"development": 1000, "final": 9000, "confirmation": 31000}
_PER_LEVEL = {"development": 6, "final": 10, "confirmation": 10}
_CHOICES = {
    "layers": (4, 5, 6),
    "neurons_per_emotion": (4, 6, 10),
    "planted_heads": (1, 2, 3),
    "redundancy": (1, 2),
    "superposition": (0.0, 0.1, 0.2, 0.3),
    "scenario_strength": (0.0, 1.0, 3.0),
    "distractors": (1, 2),
}


EASY = PlantedConfig(noise=0.02, superposition=0.0, scenario_strength=0.0, side_effects=0.0, n_scenarios=4)
"""None of the difficulties."""
RUNGS: dict[str, dict[str, float]] = {
    "none": {},
    "scenario strength 1": {"scenario_strength": 1.0},
    "scenario strength 3": {"scenario_strength": 3.0},
    "side effects 1": {"side_effects": 1.0},
    "side effects 3": {"side_effects": 3.0},
    "superposition 0.3": {"superposition": 0.3},
    "redundancy 2": {"redundancy": 2},
    "noise 0.1": {"noise": 0.1},
    "noise 0.2": {"noise": 0.2},
}
"""What the ladder's models have besides."""


def grid(name: GridName = "development") -> list[PlantedConfig]:
    """The configurations of one grid; always the same ones."""
    if name == "ladder":
        return [replace(EASY, **rung, seed=50_000 + i) for rung in RUNGS.values() for i in range(3)]  # pyright: ignore[reportArgumentType]
    draw, configs = random.Random(_SEEDS[name]), []
    for noise in NOISE:
        for _ in range(_PER_LEVEL[name]):
            drawn = {key: draw.choice(values) for key, values in _CHOICES.items()}
            configs.append(PlantedConfig(**drawn, noise=noise, n_scenarios=4, seed=_SEEDS[name] + len(configs)))
    return configs


def rung_of(config: PlantedConfig) -> str:
    """Which of the ladder's difficulties a model has; empty for a model of another grid."""
    for name, rung in RUNGS.items():
        if config == replace(EASY, **rung, seed=config.seed):  # pyright: ignore[reportArgumentType]
            return name
    return ""
