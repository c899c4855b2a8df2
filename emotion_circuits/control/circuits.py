"""Control by circuits: add an emotion's contrast to a circuit's nodes, or take it away (method.md, stage 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.control.methods import held_for, strength_of
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.data.sev import Item
from emotion_circuits.errors import EmotionError
from emotion_circuits.interventions import Enhancement, Patch
from emotion_circuits.types import NodeKind, Position

Positions = Position | Mapping[NodeKind, Position]
"""At which tokens: one choice, or one per kind of node, as the reference has it."""


@dataclass(frozen=True, eq=False)
class CircuitModulation:
    """Add each circuit's contrast to its nodes (method.md, stage 7).

    Attributes:
        circuits: a circuit with a contrast, per emotion.
        strength: how often the contrast is added; one number, or one per emotion.
        positions: at which tokens.
        name: shown in tables.
    """

    circuits: Mapping[str, Circuit]
    strength: float | Mapping[str, float] = 1.0
    positions: Positions = "last"
    name: str = "circuit"

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        return [item.prompt() for item in items], self.patches(emotion)

    def patches(self, emotion: str) -> list[Patch]:
        """The patch that adds this emotion's contrast."""
        circuit = held_for(self.circuits, emotion, self.name)
        if circuit.contrast is None:
            raise EmotionError(f"the circuit of {emotion!r} has no contrast to add; use circuit.with_contrast(...)")
        enhance = Enhancement(circuit.contrast, strength_of(self.strength, emotion))
        if isinstance(self.positions, str):
            return [Patch(circuit.nodes, enhance, self.positions)]
        return [Patch(circuit.nodes.only(kind), enhance, where) for kind, where in self.positions.items()]

    def random_like(self, seed: int = 0) -> CircuitModulation:
        """The control: the same with as many random nodes in each layer."""
        drawn = {emotion: circuit.random_like(seed + i) for i, (emotion, circuit) in enumerate(self.circuits.items())}
        return CircuitModulation(drawn, self.strength, self.positions, "random circuit")


@dataclass(frozen=True, eq=False)
class CircuitRemoval:
    """The instruction, with the circuit's contrast taken away: does the circuit carry what the instruction does?

    Attributes:
        modulation: whose contrast is subtracted, where it would be added.
        strength: how often; 1 takes the emotion's mean back to the baseline, whatever strength the modulation needs.
        name: shown in tables.
    """

    modulation: CircuitModulation
    strength: float = 1.0
    name: str = "prompting - circuit"

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        patches = [
            Patch(p.nodes, Enhancement(p.intervention.contrast, -self.strength), p.positions)
            for p in self.modulation.patches(emotion)
            if isinstance(p.intervention, Enhancement)
        ]
        return [item.prompt(emotion) for item in items], patches
