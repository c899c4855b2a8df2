"""What is searched on the validation split: make-ups of circuits and of steering, each at several strengths.

Both kinds of method get the same contrasts, the same positions and the same strengths to choose from, so that
neither is tuned with more care than the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emotion_circuits.activations import Baseline, Contrast
from emotion_circuits.attribution import Attribution, Influence
from emotion_circuits.circuits import Builder, Circuit, GlobalTop, Quota, build_circuit
from emotion_circuits.control import CircuitModulation, CircuitRemoval, ContrastSteering, SteeringVector
from emotion_circuits.control.calibrate import Family, Range
from emotion_circuits.control.circuits import Positions
from emotion_circuits.directions import EmotionDirections
from emotion_circuits.types import NodeKind, Position

STRENGTHS = Range(0.25, 2.0)
PLACES: tuple[tuple[Baseline, Position], ...] = (
    ("uninstructed", "last"),
    ("uninstructed", "generated"),
    ("emotions", "last"),
)
"""Contrast and positions, for circuits and steering alike."""


@dataclass(frozen=True)
class CircuitRecipe:
    """How to build one candidate.

    Attributes:
        builder: chooses nodes.
        heads: largest share of the model's heads.
        baseline: of the contrast that is added.
        positions: where it is added.
    """

    builder: Builder
    heads: float
    baseline: Baseline
    positions: Positions

    @property
    def name(self) -> str:
        """Shown in tables and kept in the calibration."""
        where = self.positions if isinstance(self.positions, str) else _each_kind(self.positions)
        return f"{self.builder.name}, {100 * self.heads:g} % of heads, minus {self.baseline}, {where}"

    def build(
        self, scores: Attribution, influence: Influence, contrasts: Mapping[Baseline, Mapping[str, Contrast]], size: int
    ) -> Circuit:
        """The circuit of the scores' emotion: 30 % of its nodes heads, as the reference's, up to the recipe's bound."""
        n_heads = min(round(0.3 * size), max(1, int(self.heads * scores.values.heads.numel())))
        return build_circuit(
            scores,
            influence,
            neurons=1 - n_heads / size,
            heads=n_heads / size,
            size=size,
            method=self.builder,
            contrast=contrasts[self.baseline][str(scores.emotion)],
        )


def circuit_recipes() -> list[CircuitRecipe]:
    """The candidates for circuits."""
    first, *others = PLACES
    builders = ((GlobalTop(), 0.05), (GlobalTop(), 0.09), (GlobalTop(), 0.125), (Quota(), 0.125))
    recipes = [CircuitRecipe(builder, heads, *first) for builder, heads in builders]
    return recipes + [CircuitRecipe(GlobalTop(), 0.09, *place) for place in others]


def circuit_families(
    circuits: Mapping[str, Mapping[str, Circuit]], positions: Mapping[str, Positions]
) -> dict[str, Family]:
    """One family per recipe.

    Args:
        circuits: by recipe, then by emotion.
        positions: by recipe.
    """

    def family(held: Mapping[str, Circuit], where: Positions) -> Family:
        return lambda emotion, strength: CircuitModulation(held, strength, where)

    return {name: family(held, positions[name]) for name, held in circuits.items()}


def removal_families(
    circuits: Mapping[str, Mapping[str, Circuit]], positions: Mapping[str, Positions]
) -> dict[str, Family]:
    """For each recipe, the circuit's contrast taken away from instructed runs; its strength is always 1."""

    def family(held: Mapping[str, Circuit], where: Positions) -> Family:
        return lambda emotion, strength: CircuitRemoval(CircuitModulation(held, strength, where))

    return {name: family(held, positions[name]) for name, held in circuits.items()}


def steering_families(
    contrasts: Mapping[Baseline, Mapping[str, Contrast]], directions: EmotionDirections
) -> dict[str, Family]:
    """Steering with the same contrasts and positions, at the middle layers or at one; and the reference's own form."""
    n = directions.n_layers
    band = tuple(range(round(0.4 * n), max(round(0.7 * n), round(0.4 * n) + 1)))
    middle = (n // 2,)
    vectors = {emotion: directions.of(emotion) for emotion in directions.emotions}

    def contrast(held: Mapping[str, Contrast], layers: tuple[int, ...], where: Position) -> Family:
        return lambda emotion, strength: ContrastSteering(held, layers, strength, where)

    families = {
        f"contrast minus {baseline}, {where}, layers {span(layers)}": contrast(contrasts[baseline], layers, where)
        for baseline, where in PLACES
        for layers in dict.fromkeys((band, middle) if baseline == "uninstructed" else (band,))
    }
    # The reference's: unit directions, a share of the residual's norm; strength 1 stands for half the norm.
    families[f"direction, last, layers {span(band)}"] = lambda emotion, strength: SteeringVector(
        vectors, band, 0.5 * strength
    )
    return families


def span(layers: tuple[int, ...]) -> str:
    """Layers in words; they follow each other."""
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"


def _each_kind(positions: Mapping[NodeKind, Position]) -> str:
    return ", ".join(f"{kind}s {where}" for kind, where in positions.items())
