"""Measuring a target, with or without patches: the number that ablation and enhancement move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.data.prompts import as_prompts
from emotion_circuits.directions.quality import flag_note
from emotion_circuits.errors import DataError, PromptError
from emotion_circuits.intervals import clustered, interval_text
from emotion_circuits.interventions import Patch
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.batching import by_sample
from emotion_circuits.targets import Target


@dataclass(frozen=True, eq=False)
class Measurement:
    """A target's value for every prompt.

    Attributes:
        values: one per prompt, in the target's unit.
        clusters: the scenario of each prompt; prompts of one scenario are not independent.
        flags: why the target's direction is not to be trusted, if it failed a test of its own reliability.
    """

    values: Float[Tensor, " sample"]
    clusters: tuple[object, ...]
    flags: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """Mean over prompts."""
        return float(self.values.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean, scenarios drawn whole; NaN with fewer than two scenarios."""
        return clustered(self.values.tolist(), self.clusters)

    def __sub__(self, other: Measurement) -> Measurement:
        """The change, prompt by prompt.

        Raises:
            DataError: the two were not measured on the same prompts.
        """
        if self.clusters != other.clusters:
            raise DataError(
                "a change is taken prompt by prompt, but the two were not measured on the same scenarios in the same "
                f"order ({_prompts(self)}, and {_prompts(other)}); measure both on the same prompts"
            )
        return Measurement(self.values - other.values, self.clusters, self.flags)

    def __repr__(self) -> str:
        interval = interval_text(*self.interval, ".4g")
        return f"Measurement({self.mean:.4g} {interval}, n = {len(self.values)}{flag_note(self.flags)})"


def measure(
    model: HookedModel,
    prompts: object,
    target: Target,
    patch: Patch | Sequence[Patch] | None = None,
    *,
    batch_size: int | None = None,
) -> Measurement:
    """A target's value at the last prompt token of every prompt.

    Args:
        model: the model.
        prompts: anything that holds prompts.
        target: what to measure.
        patch: acts while measuring; several act together.
        batch_size: rows in a batch.

    Raises:
        PromptError: there are no prompts.
        NodeError: the target reads at a layer that the model does not have.
    """
    asked = as_prompts(prompts)
    if not asked:
        raise PromptError("there are no prompts to measure on; give at least one")
    patches = [] if patch is None else [patch] if isinstance(patch, Patch) else list(patch)
    site, layer = target.readout

    def read(batch: TokenBatch) -> Tensor:
        # One batch at a time, so that a patch knows which sample is in which row.
        with model.patched(*patches, samples=batch.samples):
            return target(model, model.read(batch, site, layer)).detach().cpu()

    values = by_sample(model.run_batches(asked, read, batch_size, shared=True))
    clusters = tuple(prompt.item if prompt.item is not None else i for i, prompt in enumerate(asked))
    return Measurement(torch.stack(values), clusters, getattr(target, "flags", ()))


def _prompts(measured: Measurement) -> str:
    return f"{len(measured.values)} prompts of {len(set(measured.clusters))} scenarios"
