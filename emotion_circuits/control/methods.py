"""Methods of control, as objects: how a reply is made to express an emotion.

A method answers one question: for these items and this emotion, which prompts and which patches? Everything else
(decoding, batching, scoring) is the same for all of them, so that they can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from emotion_circuits.activations import Contrast
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.data.prompts import Prompt, Style
from emotion_circuits.data.sev import Item
from emotion_circuits.errors import EmotionError
from emotion_circuits.interventions import Enhancement, Patch, Steering
from emotion_circuits.nodes import Residual
from emotion_circuits.types import Position


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
        style: of the instruction.
        name: shown in tables.
    """

    style: Style = "named"
    name: str = "prompting"

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        return [item.prompt(emotion, self.style) for item in items], []


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
    positions: Position = "last"
    name: str = "circuit"

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        return [item.prompt() for item in items], self.patches(emotion)

    def patches(self, emotion: str) -> list[Patch]:
        """The patch that adds this emotion's contrast."""
        circuit = _of(self.circuits, emotion, self.name)
        if circuit.contrast is None:
            raise EmotionError(f"the circuit of {emotion!r} has no contrast to add; use circuit.with_contrast(...)")
        enhance = Enhancement(circuit.contrast, strength_of(self.strength, emotion))
        return [Patch(circuit.nodes, enhance, self.positions)]

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


@dataclass(frozen=True, eq=False)
class ContrastSteering:
    """Add the contrast of the residual itself, at some layers: steering with a circuit's contrasts and positions.

    Attributes:
        contrasts: per emotion, with residual parts.
        layers: where.
        strength: how often the contrast is added; one number, or one per emotion.
        positions: at which tokens.
        name: shown in tables.
    """

    contrasts: Mapping[str, Contrast]
    layers: tuple[int, ...]
    strength: float | Mapping[str, float] = 1.0
    positions: Position = "last"
    name: str = "steering"

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        contrast = _of(self.contrasts, emotion, self.name)
        enhance = Enhancement(contrast, strength_of(self.strength, emotion))
        return [item.prompt() for item in items], [Patch(Residual(self.layers), enhance, self.positions)]


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """Add a share of the residual's norm along the emotion's direction (method.md, stage 3: the baseline).

    Attributes:
        vectors: unit directions of ``resid_post``, per emotion.
        layers: where; the reference uses about 40 to 70 % of the depth.
        strength: share of the residual's norm; one number, or one per emotion.
        positions: at which tokens.
        name: shown in tables.
    """

    vectors: Mapping[str, Float[Tensor, "layer d_model"]]
    layers: tuple[int, ...]
    strength: float | Mapping[str, float] = 0.14
    positions: Position = "last"
    name: str = "steering"

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        steer = Steering(_of(self.vectors, emotion, self.name), strength_of(self.strength, emotion))
        return [item.prompt() for item in items], [Patch(Residual(self.layers), steer, self.positions)]


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
        return _of(self.methods, emotion, self.name).prepare(items, emotion)


def strength_of(strength: float | Mapping[str, float], emotion: str) -> float:
    """The strength for one emotion."""
    return _of(strength, emotion, "strength") if isinstance(strength, Mapping) else strength


def _of(held: Mapping, emotion: str, name: str):
    if emotion not in held:
        raise EmotionError(f"method {name!r} knows no emotion {emotion!r}; it knows {', '.join(held)}")
    return held[emotion]
