"""Control: ways to make replies express an emotion, and the strength at which they do."""

from emotion_circuits.control.calibrate import Bounds, Calibration, calibrate
from emotion_circuits.control.methods import (
    CircuitModulation,
    CircuitRemoval,
    ContrastSteering,
    Method,
    PerEmotion,
    Prompting,
    SteeringVector,
    Unmodulated,
)

__all__ = [
    "Bounds",
    "Calibration",
    "CircuitModulation",
    "CircuitRemoval",
    "ContrastSteering",
    "Method",
    "PerEmotion",
    "Prompting",
    "SteeringVector",
    "Unmodulated",
    "calibrate",
]
