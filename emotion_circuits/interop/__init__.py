"""Interop: the reference's files, baked checkpoints, graphs and control vectors for other programs."""

from emotion_circuits.interop.bake import bake
from emotion_circuits.interop.gguf import read_control_vector, write_control_vector
from emotion_circuits.interop.global_circuit import load_global_circuit
from emotion_circuits.interop.graphs import write_csv, write_graphml, write_mib_json

__all__ = [
    "bake", "load_global_circuit", "read_control_vector", "write_control_vector", "write_csv", "write_graphml",
    "write_mib_json",
]  # fmt: skip
