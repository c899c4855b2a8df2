"""Control: ways to make replies express an emotion, and the strength at which they do."""

from emotion_circuits.control.calibrate import Bounds, Calibration, calibrate
from emotion_circuits.control.circuits import CircuitModulation, CircuitRemoval
from emotion_circuits.control.composed import Condition, Conditional, Mixture, Schedule, Switch
from emotion_circuits.control.fixed import measure_fixed
from emotion_circuits.control.methods import Method, PerEmotion, Prompting, Unmodulated, together
from emotion_circuits.control.steering import ContrastSteering, SteeringVector, Suppression

__all__ = [
    "Bounds",
    "Calibration",
    "CircuitModulation",
    "CircuitRemoval",
    "Condition",
    "Conditional",
    "ContrastSteering",
    "Method",
    "Mixture",
    "PerEmotion",
    "Prompting",
    "Schedule",
    "SteeringVector",
    "Suppression",
    "Switch",
    "Unmodulated",
    "calibrate",
    "measure_fixed",
    "together",
]
