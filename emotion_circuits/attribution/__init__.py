"""Attribution: which nodes make a target what it is.

``attribute(model, prompts, target, method)`` gives an `Attribution`. A method is a frozen object that is called
with the model, the prompts and named targets; adding one is adding a file here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from emotion_circuits.attribution.agreement import Agreement, compare_attributions
from emotion_circuits.attribution.direct import DirectAttribution
from emotion_circuits.attribution.dose import dose_sweep
from emotion_circuits.attribution.final import FinalDirectAttribution
from emotion_circuits.attribution.gradient import AttributionPatching, IntegratedGradients
from emotion_circuits.attribution.heads import HeadImportance
from emotion_circuits.attribution.influence import Influence, sublayer_influence
from emotion_circuits.attribution.patching import ActivationPatching
from emotion_circuits.attribution.result import Attribution, Concentration
from emotion_circuits.attribution.validation import validation_curves
from emotion_circuits.model import HookedModel
from emotion_circuits.targets import Target

__all__ = [
    "ActivationPatching", "Agreement", "Attribution", "AttributionMethod", "AttributionPatching", "Concentration",
    "DirectAttribution", "FinalDirectAttribution", "HeadImportance", "Influence", "IntegratedGradients", "attribute",
    "attribute_each", "compare_attributions", "dose_sweep", "sublayer_influence", "validation_curves",
]  # fmt: skip


@runtime_checkable
class AttributionMethod(Protocol):
    """Scores the nodes of a model for several targets in one pass over the prompts."""

    name: str

    def __call__(
        self, model: HookedModel, prompts: object, targets: Mapping[str, Target], batch_size: int | None = None
    ) -> dict[str, Attribution]: ...


def attribute(
    model: HookedModel,
    prompts: object,
    target: Target,
    method: AttributionMethod | None = None,
    *,
    batch_size: int | None = None,
) -> Attribution:
    """Score every node for one target.

    Args:
        model: the model.
        prompts: instructed prompts or accepted replies. The target's samples are those that ask for its emotion
            (all, if none does); those of other emotions serve as the contrast.
        target: what to explain.
        method: how; `DirectAttribution` by default.
        batch_size: rows in a batch.
    """
    return (method or DirectAttribution())(model, prompts, {"target": target}, batch_size)["target"]


def attribute_each(
    model: HookedModel,
    prompts: object,
    targets: Mapping[str, Target],
    method: AttributionMethod | None = None,
    *,
    batch_size: int | None = None,
) -> dict[str, Attribution]:
    """Score every node for several targets, e.g. ``directions.targets()``, in one pass over the prompts."""
    return (method or DirectAttribution())(model, prompts, targets, batch_size)
