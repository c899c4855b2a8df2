"""Presets: the settings of every stage, the reference study's or ours, as keyword arguments of the stage's function.

``preset("paper")``    what the reference did (method.md, stages 1 to 8)
``preset("default")``  what this package does when a call names no setting

``ec.fit_contrasts(model, accepted, **ec.preset("paper").contrasts)``, and so in every stage. What of the reference's
released code neither of them repeats, and why ours differ, is in ``docs/presets.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from emotion_circuits.attribution import ContrastiveGradients, DirectAttribution, HeadImportance
from emotion_circuits.attribution.influence import STRENGTHS
from emotion_circuits.circuits.builders import Quota
from emotion_circuits.errors import DataError
from emotion_circuits.generation import GenerationConfig
from emotion_circuits.nodes import HasDims
from emotion_circuits.types import EKMAN

Keywords = Mapping[str, Any]

PAPER_ALPHA = 8.0
"""The reference's steering: this many times the residual's rms, along a unit direction."""


@dataclass(frozen=True)
class Preset:
    """Settings by stage. Every attribute but ``name`` holds keyword arguments.

    Attributes:
        name: ``"paper"`` or ``"default"``.
        elicit: of `elicit` (stage 1).
        neurons: of `attribute`, for neurons' scores (stage 4).
        heads: of `attribute`, for heads' scores; join both with ``neurons.with_heads(heads)``.
        contrasts: of `fit_contrasts` (stage 5).
        influence: of `sublayer_influence` (stage 6).
        circuit: of `build_circuit` (stage 6).
        modulation: of `CircuitModulation` (stage 7).
        generate: of `generate` under modulation (stage 7).
        evaluate: of `evaluate` (stage 8).
        steering: of `SteeringVector` (stage 3), which depend on the model: ``steering(model)`` has ``layers``,
            ``strength`` as a share of the residual's norm, and ``positions``.

    Directions (stage 2) have no setting.
    """

    name: str
    elicit: Keywords
    neurons: Keywords
    heads: Keywords
    contrasts: Keywords
    influence: Keywords
    circuit: Keywords
    modulation: Keywords
    generate: Keywords
    evaluate: Keywords
    steering: Callable[[HasDims], Keywords]


def preset(name: Literal["paper", "default"] | str = "default") -> Preset:
    """The settings called ``name``.

    Raises:
        DataError: there are no such settings.

    Example:
        >>> import emotion_circuits as ec
        >>> ec.preset("paper").contrasts["match_positions"]
        False
    """
    if name not in PRESETS:
        raise DataError(f"there is no preset {name!r}; there are {' and '.join(PRESETS)}")
    return PRESETS[name]


def _paper_steering(model: HasDims) -> Keywords:
    """Layers 11 to 20 of 28, and 8 times the residual's rms; its norm is sqrt(d_model) times that."""
    n, width = model.dims.n_layers, model.dims.d_model
    layers = tuple(range(round(11 / 28 * n), round(21 / 28 * n)))
    return {"layers": layers, "strength": PAPER_ALPHA / math.sqrt(width), "positions": "last"}


def _default_steering(model: HasDims) -> Keywords:
    n = model.dims.n_layers
    return {"layers": tuple(range(round(0.4 * n), round(0.7 * n) + 1)), "strength": 0.14, "positions": "last"}


_SHARES = {"size": 560, "neurons": 0.7, "heads": 0.3}

PRESETS: dict[str, Preset] = {
    "paper": Preset(
        name="paper",
        elicit={"style": "named", "config": GenerationConfig(max_new_tokens=100)},
        neurons={"method": DirectAttribution()},
        heads={"method": HeadImportance()},
        contrasts={"baseline": "emotions", "match_positions": False, "unit_heads": True},
        influence={"strengths": (0.1, 0.3, 0.5, 0.7)},
        circuit={**_SHARES, "method": Quota(minimum={"neuron": 4, "head": 2}, cap=0.4)},
        modulation={
            "strength": dict.fromkeys(EKMAN, 1.0) | {"anger": 0.8}, "positions": {"neuron": "last", "head": "all"},
        },
        generate={"config": GenerationConfig.preset("paper")},
        evaluate={"question": "match"},
        steering=_paper_steering,
    ),
    "default": Preset(
        name="default",
        elicit={"style": "named", "config": GenerationConfig()},
        neurons={"method": ContrastiveGradients()},
        heads={"method": ContrastiveGradients()},
        contrasts={"baseline": "emotions", "match_positions": True, "unit_heads": False},
        influence={"strengths": STRENGTHS},
        circuit={**_SHARES, "method": Quota()},
        modulation={"strength": 1.0, "positions": "last"},
        generate={"config": GenerationConfig.preset("default")},
        evaluate={"question": "classify"},
        steering=_default_steering,
    ),
}  # fmt: skip
