"""Emotion directions and contrasts: what emotions look like inside a model."""

from emotion_circuits.directions.contrasts import ConditionMeans, fit_contrasts, mean_activations
from emotion_circuits.directions.fit import fit_directions
from emotion_circuits.directions.result import EmotionDirections

__all__ = ["ConditionMeans", "EmotionDirections", "fit_contrasts", "fit_directions", "mean_activations"]
