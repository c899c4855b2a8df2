"""Attribution: which nodes make a target what it is.

``attribute(model, prompts, "anger")`` explains what is said under an emotion by the default, the method that finds
planted circuits best (`ContrastiveGradients`); ``attribute(model, prompts, target, method)`` any target by any method.
A method is a frozen object that is called with the model, the prompts and named targets; adding one is adding a file
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch

from emotion_circuits.attribution.agreement import Agreement, compare_attributions
from emotion_circuits.attribution.contrastive import ContrastiveGradients, EmotionBaseline, emotion_baseline
from emotion_circuits.attribution.direct import DirectAttribution
from emotion_circuits.attribution.dose import dose_sweep
from emotion_circuits.attribution.final import FinalDirectAttribution
from emotion_circuits.attribution.gradient import AttributionPatching, IntegratedGradients
from emotion_circuits.attribution.heads import HeadImportance
from emotion_circuits.attribution.influence import Influence, sublayer_influence
from emotion_circuits.attribution.joined import Joined
from emotion_circuits.attribution.patching import ActivationPatching
from emotion_circuits.attribution.result import Attribution, Concentration
from emotion_circuits.attribution.validation import validation_curves
from emotion_circuits.data.prompts import check_emotions
from emotion_circuits.model import HookedModel
from emotion_circuits.targets import Target, said_targets

__all__ = [
    "ActivationPatching", "Agreement", "Attribution", "AttributionMethod", "AttributionPatching", "Concentration",
    "ContrastiveGradients", "DirectAttribution", "EmotionBaseline", "FinalDirectAttribution", "HeadImportance",
    "Influence", "IntegratedGradients", "Joined", "attribute", "attribute_each", "compare_attributions", "dose_sweep",
    "emotion_baseline", "sublayer_influence", "validation_curves",
]  # fmt: skip


@runtime_checkable
class AttributionMethod(Protocol):
    """Scores the nodes of a model for several targets in one pass over the prompts."""

    @property
    def name(self) -> str: ...

    def __call__(
        self, model: HookedModel, prompts: object, targets: Mapping[str, Target], batch_size: int | None = None
    ) -> dict[str, Attribution]: ...


def attribute(
    model: HookedModel,
    prompts: object,
    target: Target | str,
    method: AttributionMethod | None = None,
    *,
    batch_size: int | None = None,
) -> Attribution:
    """Score every node for one target.

    Args:
        model: the model.
        prompts: instructed prompts or accepted replies. The target's samples are those that ask for its emotion
            (or those that ask for none, if none does); those of other emotions serve as the contrast.
        target: what to explain: an emotion's name for what is said under it (`SaidTarget`, measured on ``prompts``),
            or any target, e.g. ``directions.target("anger")``.
        method: how; `ContrastiveGradients` by default, which needs the same scenarios under two emotions or more.
        batch_size: rows in a batch.

    Raises:
        EmotionError: no prompt asks for the emotion named.
        DataError: the default method finds nothing to contrast with.
    """
    targets = target if isinstance(target, str) else {target.emotion or "target": target}
    (scores,) = attribute_each(model, prompts, targets, method, batch_size=batch_size).values()
    return scores


def attribute_each(
    model: HookedModel,
    prompts: object,
    targets: Mapping[str, Target] | str | None = None,
    method: AttributionMethod | None = None,
    *,
    batch_size: int | None = None,
) -> dict[str, Attribution]:
    """Score every node for several targets at once.

    Args:
        model: the model.
        prompts: as for `attribute`.
        targets: e.g. ``directions.targets()``; by default what is said under each emotion that is asked for.
        method: `ContrastiveGradients` by default.
        batch_size: rows in a batch.
    """
    if targets is None or isinstance(targets, str):
        with torch.inference_mode(False):  # so that gradients can pass these targets
            said = said_targets(model, prompts, batch_size=batch_size)
        chosen = check_emotions(list(said) if targets is None else [targets], list(said), "these prompts")
        targets = {emotion: said[emotion] for emotion in chosen}
    scored = (method or ContrastiveGradients())(model, prompts, targets, batch_size)
    return {name: replace(held, flags=getattr(targets[name], "flags", ())) for name, held in scored.items()}
