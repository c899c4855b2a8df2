"""`ReportData`: the results that a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emotion_circuits.attribution.influence import Influence
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.directions.result import EmotionDirections
from emotion_circuits.evaluation.comparison import Comparison


@dataclass(frozen=True)
class ReportData:
    """Everything that a report is made from; nothing is computed anew but tables and figures.

    Attributes:
        title: of the page.
        settings: of the run, shown as they stand; nested mappings become rows.
        directions: the emotions' directions.
        attributions: scores, by emotion.
        influence: of every sublayer.
        circuits: by emotion.
        comparison: the methods, decoded greedily.
        sampled: the same methods decoded at a temperature, if that was run.
        notes: paragraphs that stand right below the headline: what the numbers do not say.
        timings: seconds that each stage took.
        temperature: of ``sampled``.
    """

    title: str
    settings: Mapping[str, Any]
    directions: EmotionDirections
    attributions: Mapping[str, Attribution]
    influence: Influence
    circuits: Mapping[str, Circuit]
    comparison: Comparison
    sampled: Comparison | None = None
    notes: Sequence[str] = ()
    timings: Mapping[str, float | int] | None = None
    temperature: float | int = 0.7
