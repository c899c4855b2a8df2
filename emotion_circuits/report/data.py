"""`ReportData`: the results that a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emotion_circuits.attribution.influence import Influence
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.stability import Stability
from emotion_circuits.control.doses import Calibration
from emotion_circuits.data.labels import LabelSet
from emotion_circuits.directions.result import EmotionDirections
from emotion_circuits.evaluation.comparison import Comparison

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ReportData:
    """Everything that a report is made from; nothing is computed anew but tables and figures.

    Attributes:
        title: of the page.
        settings: of the run, shown as they stand; nested mappings become rows. A ``label_set`` among them gives the
            emotions its colours.
        directions: the emotions' directions.
        attributions: scores, by emotion.
        influence: of every sublayer.
        circuits: by emotion.
        comparison: the methods, decoded greedily.
        sampled: the same methods decoded at a temperature, if that was run.
        notes: paragraphs that stand right below the headline: what the numbers do not say.
        timings: seconds that each stage took.
        temperature: of ``sampled``.
        stability: how often each circuit's nodes are chosen on resamples of the data, by emotion.
        calibrations: what was tried to find the strengths, by kind of method.
        samples: where samples lie in the plane of the directions, from `emotion_circuits.project_samples`.
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
    stability: Mapping[str, Stability] = field(default_factory=dict)
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    samples: pd.DataFrame | None = None

    @property
    def emotions(self) -> list[str]:
        """Every emotion that any part of the run knows, in the directions' order first."""
        return list(dict.fromkeys([*self.directions.emotions, *self.circuits, *self.attributions]))

    @property
    def colours(self) -> dict[str, str]:
        """The colours that the run's label set gives to its emotions."""
        held = self.settings.get("label_set")
        return LabelSet.from_dict(held).colours if isinstance(held, Mapping) else {}
