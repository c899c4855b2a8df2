"""How colours look to other eyes: to colour-blind readers, and on a grey printer.

1. sRGB is decoded to linear light.
2. Protanopia and deuteranopia are simulated there with the matrices of Machado, Oliveira and Fernandes (2009, "A
   Physiologically-based Model for Simulation of Color Vision Deficiency", severity 1).
3. Distances are Euclidean in CIELAB (ΔE 1976; 2.3 is just noticeable); grey is its lightness L* alone.
4. Contrast is WCAG's: (L1 + 0.05) / (L2 + 0.05) of relative luminances.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Sight = Literal["normal", "protanopia", "deuteranopia"]

SIMULATION: dict[str, NDArray[np.float64]] = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


def channels(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of ``"#rrggbb"``, 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def linear(colour: str) -> NDArray[np.float64]:
    """Linear light of ``"#rrggbb"``, 0 to 1."""
    value = np.array(channels(colour)) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(colour: str, sight: Sight = "normal") -> NDArray[np.float64]:
    """CIELAB coordinates of a colour as such an eye sees it."""
    seen = np.clip(SIMULATION[sight] @ linear(colour), 0, 1)
    ratio = _XYZ @ seen / _WHITE
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def lightness(colour: str) -> float:
    """L*, 0 (black) to 100 (white): what is left of a colour in grey."""
    return float(lab(colour)[0])


def contrast(first: str, second: str) -> float:
    """WCAG contrast of two colours, 1 to 21."""
    dark, light = sorted(float(_XYZ[1] @ linear(colour)) for colour in (first, second))
    return (light + 0.05) / (dark + 0.05)
