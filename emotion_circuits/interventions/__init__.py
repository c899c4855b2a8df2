"""Interventions: what can be done to activations, one small frozen object each."""

from emotion_circuits.interventions.ablation import MeanAblation, ZeroAblation
from emotion_circuits.interventions.base import Intervention, Patch, Where
from emotion_circuits.interventions.exchange import CounterfactualPatch, ResampleAblation, Samples
from emotion_circuits.interventions.modulation import Clamp, Enhancement, Scale
from emotion_circuits.interventions.residual import ProjectOut, Steering

__all__ = [
    "Clamp", "CounterfactualPatch", "Enhancement", "Intervention", "MeanAblation", "Patch", "ProjectOut",
    "ResampleAblation", "Samples", "Scale", "Steering", "Where", "ZeroAblation",
]  # fmt: skip
