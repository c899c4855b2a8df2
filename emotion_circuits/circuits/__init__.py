"""Circuits: sets of nodes with the evidence that they make an emotion."""

from emotion_circuits.circuits.build import build_circuit
from emotion_circuits.circuits.builders import Builder, GlobalTop, Quota, Threshold
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.quota import allocate_quota

__all__ = ["Builder", "Circuit", "GlobalTop", "Quota", "Threshold", "allocate_quota", "build_circuit"]
