"""Emotion directions and contrasts: what emotions look like inside a model."""

from emotion_circuits.directions.check import check_directions
from emotion_circuits.directions.contrasts import ConditionMeans, fit_contrasts, mean_activations
from emotion_circuits.directions.fit import fit_directions
from emotion_circuits.directions.plane import project_samples
from emotion_circuits.directions.quality import DirectionQuality, QualityTest
from emotion_circuits.directions.result import EmotionDirections

__all__ = [
    "ConditionMeans",
    "DirectionQuality",
    "EmotionDirections",
    "QualityTest",
    "check_directions",
    "fit_contrasts",
    "fit_directions",
    "mean_activations",
    "project_samples",
]
