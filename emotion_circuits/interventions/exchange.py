"""Exchanges: replace activations by those of another sample.

Both take the activations of a whole list of prompts, recorded beforehand
(``Samples(model.record(prompts, "neuron"), model.record(prompts, "head"))``), and know which of
them belongs to which row of the batch that is being run.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.errors import PatchError
from emotion_circuits.interventions.base import Place, Where
from emotion_circuits.interventions.fit import check_samples
from emotion_circuits.types import ModelDims, Site


@dataclass(frozen=True, eq=False)
class Samples:
    """Recorded activations of a list of prompts.

    Attributes:
        neurons: every neuron of every sample, or None.
        heads: every head of every sample, or None.
    """

    neurons: Float[Tensor, "layer sample neuron"] | None = None
    heads: Float[Tensor, "layer sample head d_head"] | None = None

    def __len__(self) -> int:
        held = self.neurons if self.neurons is not None else self.heads
        return 0 if held is None else held.shape[1]

    def at(self, site: Site) -> Tensor | None:
        """What was recorded at a site, ``[layer, sample, node(, d_head)]``."""
        return {"neuron": self.neurons, "head": self.heads}.get(site)

    def mean_within(self, groups: Sequence[Hashable]) -> Samples:
        """Every sample's activations replaced by the mean over its group.

        With a group per (scenario, valence), patching these in is the mean ablation over the emotions of a group: it
        keeps what the scenario does to a node and takes away what the emotion does.

        Args:
            groups: the group of each sample, e.g. ``[prompt.group for prompt in prompts]``.
        """
        if len(groups) != len(self):
            raise PatchError(f"{len(groups)} groups were given for {len(self)} samples; give one per sample")
        names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
        place = torch.tensor([names[name] for name in groups], dtype=torch.long)
        counts = torch.bincount(place, minlength=len(names))

        def averaged(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            sums = values.new_zeros(len(values), len(names), *values.shape[2:]).index_add(1, place, values)
            return (sums / counts.view(1, -1, *[1] * (values.ndim - 2)).to(values))[:, place]

        return Samples(averaged(self.neurons), averaged(self.heads))

    def rows(self, samples: Tensor, where: Where, like: Tensor) -> Tensor:
        """The selected units of ``samples`` at ``where``: ``[batch, 1, node(, d_head)]``."""
        held = self.at(where.site)
        if held is None:
            raise PatchError(f"no {where.site} activations were recorded to exchange; record that site as well")
        values = held[where.layer, samples.to(held.device)]
        values = values if where.units is None else values[:, where.units.to(held.device)]
        return values[:, None].to(device=like.device, dtype=like.dtype)


@dataclass(frozen=True, eq=False)
class CounterfactualPatch:
    """Give sample ``i`` the activations of source sample ``i``: the same scenario under another emotion.

    Attributes:
        source: the counterfactual prompts' activations, in the order of the prompts that will be run.
    """

    source: Samples
    acts_on: ClassVar[tuple[Place, ...]] = ("nodes",)

    def check(self, dims: ModelDims, site: Site, layers: Sequence[int]) -> None:
        check_samples("CounterfactualPatch", self.source.at(site), dims, site)

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        samples = _samples(where, activation)
        if int(samples.max()) >= len(self.source):
            raise PatchError(
                f"sample {int(samples.max())} has no counterfactual: the source holds {len(self.source)} samples; "
                "record one counterfactual prompt for each prompt, in the same order"
            )
        return self.source.rows(samples, where, activation).expand_as(activation)


@dataclass(frozen=True, eq=False)
class ResampleAblation:
    """Give sample ``i`` the activations of a sample drawn at random from ``source``.

    The draw depends on the seed and on the sample only, so every node of a sample takes its value from the same
    other sample, and the result does not depend on how samples are batched.

    Attributes:
        source: activations to draw from.
        seed: seed of the draw.
        groups: for each source sample the group it belongs to, and for each sample the group to draw from;
            None draws from all of them.
    """

    source: Samples
    seed: int = 0
    groups: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    acts_on: ClassVar[tuple[Place, ...]] = ("nodes",)

    def check(self, dims: ModelDims, site: Site, layers: Sequence[int]) -> None:
        check_samples("ResampleAblation", self.source.at(site), dims, site)

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        drawn = torch.tensor([self._draw(int(sample)) for sample in _samples(where, activation)])
        return self.source.rows(drawn, where, activation).expand_as(activation)

    def _draw(self, sample: int) -> int:
        pool = list(range(len(self.source)))
        if self.groups is not None:
            of_source, of_sample = self.groups
            pool = [i for i in pool if of_source[i] == of_sample[sample]]
        pool = [i for i in pool if i != sample] or pool
        if not pool:
            raise PatchError(f"sample {sample} has no source sample in its group to resample from")
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + sample)
        return pool[int(torch.randint(len(pool), (1,), generator=generator))]


def _samples(where: Where, activation: Tensor) -> Tensor:
    return torch.arange(len(activation)) if where.samples is None else where.samples.cpu()
