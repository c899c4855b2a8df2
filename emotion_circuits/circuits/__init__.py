"""Circuits: sets of nodes with the evidence that they make an emotion."""

from emotion_circuits.circuits.build import build_circuit
from emotion_circuits.circuits.builders import Builder, GlobalTop, Quota, Threshold
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.compare import CircuitComparison, compare_circuits, mix, overlap
from emotion_circuits.circuits.controls import Controls, shuffled_scores
from emotion_circuits.circuits.curves import CircuitAreas, circuit_areas, circuit_curves
from emotion_circuits.circuits.edge_attribution import attribute_edges
from emotion_circuits.circuits.edges import circuit_edges
from emotion_circuits.circuits.groups import groups_of
from emotion_circuits.circuits.metrics import (
    CircuitScore,
    completeness,
    faithfulness,
    minimality,
    specificity,
)
from emotion_circuits.circuits.pruning import SmallestCircuit, smallest_circuit
from emotion_circuits.circuits.quota import allocate_quota
from emotion_circuits.circuits.stability import Stability, stability, stability_each

__all__ = [
    "Builder",
    "Circuit",
    "CircuitAreas",
    "CircuitComparison",
    "CircuitScore",
    "Controls",
    "GlobalTop",
    "Quota",
    "SmallestCircuit",
    "Stability",
    "Threshold",
    "allocate_quota",
    "attribute_edges",
    "build_circuit",
    "circuit_areas",
    "circuit_curves",
    "circuit_edges",
    "compare_circuits",
    "completeness",
    "faithfulness",
    "groups_of",
    "minimality",
    "mix",
    "overlap",
    "shuffled_scores",
    "smallest_circuit",
    "specificity",
    "stability",
    "stability_each",
]
