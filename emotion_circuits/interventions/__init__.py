"""Interventions: what can be done to activations, one small frozen object each."""

from emotion_circuits.interventions.ablation import MeanAblation, ZeroAblation
from emotion_circuits.interventions.base import Intervention, Patch, Where
from emotion_circuits.interventions.exchange import CounterfactualPatch, ResampleAblation, Samples
from emotion_circuits.interventions.fit import check_fit
from emotion_circuits.interventions.group_mean import GroupMeanAblation
from emotion_circuits.interventions.modulation import Clamp, Enhancement, Scale
from emotion_circuits.interventions.residual import ProjectOut, Steering
from emotion_circuits.interventions.schedule import Constant, Curve, Decay, Ramp, Scheduled, Window, weighted

__all__ = [
    "Clamp", "Constant", "CounterfactualPatch", "Curve", "Decay", "Enhancement", "GroupMeanAblation", "Intervention",
    "MeanAblation", "Patch", "ProjectOut", "Ramp", "ResampleAblation", "Samples", "Scale", "Scheduled", "Steering",
    "Where", "Window", "ZeroAblation", "check_fit", "weighted",
]  # fmt: skip
