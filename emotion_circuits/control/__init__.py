"""Control: ways to make replies express an emotion."""

from emotion_circuits.control.methods import (
    CircuitModulation,
    CircuitRemoval,
    ContrastSteering,
    Method,
    Prompting,
    SteeringVector,
    Unmodulated,
)  # fmt: skip

__all__ = [
    "CircuitModulation", "CircuitRemoval", "ContrastSteering", "Method", "Prompting", "SteeringVector", "Unmodulated",
]  # fmt: skip
