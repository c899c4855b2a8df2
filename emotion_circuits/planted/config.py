"""What is planted: the sizes and the difficulties of a ground-truth model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from emotion_circuits.errors import ModelError


@dataclass(frozen=True)
class PlantedConfig:
    """Sizes and difficulties; see the package's docstring for the roles.

    Attributes:
        layers: layers of the model.
        neurons_per_emotion: true neurons of each emotion, before ``redundancy``; a quarter of them, at least one,
            feeds another quarter (the indirect path).
        planted_heads: heads that carry the instruction's emotion to the newest token.
        redundancy: each true neuron is split into so many, in layers of their own, that share its write.
        superposition: cosine of every emotion's features, and of every distractor's write, with a random direction.
        noise: relative error of every planted vector, and size of what the other neurons write.
        scenario_strength: size of writes along an emotion's direction that follow the scenario, whatever the
            emotion asked for; 1 is a true neuron's.
        side_effects: size of what neurons that hear an emotion write elsewhere; 1 is a true neuron's.
        distractors: of each kind and emotion, in every layer.
        n_scenarios: scenarios of the data, with three events each.
        circuit: False leaves the circuit out and everything else in.
        seed: of every random choice.
        d_mlp: neurons in a layer.
    """

    layers: int = 4
    neurons_per_emotion: int = 6
    planted_heads: int = 2
    redundancy: int = 1
    superposition: float = 0.1
    noise: float = 0.05
    scenario_strength: float = 1.0
    side_effects: float = 1.0
    distractors: int = 1
    n_scenarios: int = 6
    circuit: bool = True
    seed: int = 0
    d_mlp: int = 160

    def __post_init__(self) -> None:
        for name, low in (("layers", 3), ("neurons_per_emotion", 3), ("redundancy", 1), ("n_scenarios", 1)):
            if getattr(self, name) < low:
                raise ModelError(f"{name}={getattr(self, name)} is too few for a planted model; give at least {low}")
        if not 1 <= self.planted_heads <= 6:
            raise ModelError(f"planted_heads={self.planted_heads}, but there is room for 1 to 6")
        if not 0 <= self.superposition < 1:
            raise ModelError(f"superposition={self.superposition} is a cosine; give 0 or more, and less than 1")

    def to_dict(self) -> dict[str, Any]:
        """The settings, for tables and provenance."""
        return asdict(self)
