"""Benchmarks with a known answer: which methods find a planted circuit, and what they find where there is none.

``discovery()`` scores every method on a grid of planted models, ``summary`` averages with intervals, ``side_by_side``
puts the halves of a grid into one table; ``with_controls`` runs any analysis beside its negative controls.
"""

from emotion_circuits.benchmark.controls import CONTROLS, Subject, with_controls
from emotion_circuits.benchmark.discovery import discovery, obedience, summary
from emotion_circuits.benchmark.grid import grid
from emotion_circuits.benchmark.table import side_by_side, to_markdown

__all__ = [
    "CONTROLS", "Subject", "discovery", "grid", "obedience", "side_by_side", "summary", "to_markdown", "with_controls",
]  # fmt: skip
