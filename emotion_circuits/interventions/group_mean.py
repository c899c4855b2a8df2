"""Group mean ablation: what a node does under every emotion of the same scenario stays, what one emotion does goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from emotion_circuits.errors import PatchError
from emotion_circuits.interventions.base import Place, Where
from emotion_circuits.interventions.exchange import Samples
from emotion_circuits.interventions.fit import check_samples
from emotion_circuits.types import ModelDims, Site


@dataclass(frozen=True, eq=False)
class GroupMeanAblation:
    """Set a sample's activations to their mean over the sample's group, e.g. a scenario under all emotions.

    Against `MeanAblation` over all samples, whose values also differ in the scenario, this changes the emotion alone.
    `emotion_circuits.attribution.emotion_baseline` measures it.

    Attributes:
        means: one sample per group.
        group_of: of each prompt that will be run, its group's index; -1 where it has none.
    """

    means: Samples
    group_of: tuple[int, ...]
    acts_on: ClassVar[tuple[Place, ...]] = ("nodes",)

    def check(self, dims: ModelDims, site: Site, layers: Sequence[int]) -> None:
        check_samples("GroupMeanAblation", self.means.at(site), dims, site)

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        samples = range(len(activation)) if where.samples is None else where.samples.tolist()
        groups = [self.group_of[i] if i < len(self.group_of) else -1 for i in samples]
        if -1 in groups:
            raise PatchError(
                f"sample {list(samples)[groups.index(-1)]} belongs to no group of these means; measure them on the "
                "prompts that are run, in the same order"
            )
        return self.means.rows(torch.tensor(groups), where, activation).expand_as(activation)
