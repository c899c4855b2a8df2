"""Running sums of scores over samples, from which every method makes its `Attribution`.

A target's samples are the prompts that ask for its emotion (or those that ask for none, if none does). Each batch adds
the scores of every sample, weighted 1 where it is the target's and 0 where it is not; sums of the score, its positive
part and its square give mean, positive and negative part, and standard deviation. Memory does not grow with the
samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emotion_circuits import distributed
from emotion_circuits.attribution.edits import below
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.data.prompts import Prompt, as_prompts
from emotion_circuits.errors import DataError
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.targets import Target, samples_of
from emotion_circuits.types import ModelDims, NodeKind

Result = TypeVar("Result")


def some_prompts(prompts: object) -> list[Prompt]:
    """The prompts in ``prompts``.

    Raises:
        DataError: there are none, so there is nothing to take a mean over.
    """
    asked = as_prompts(prompts)
    if not asked:
        raise DataError("a mean over prompts needs at least one prompt, and none was given; check what was filtered")
    return asked


class SampleSet:
    """Which prompts are samples of which target; only those of some target are run.

    Args:
        prompts: anything that holds prompts.
        targets: by name.

    Raises:
        DataError: there are no prompts.

    Attributes:
        prompts: all prompts given, to which ``TokenBatch.samples`` refers.
        member: for each target the prompts that are its samples.
    """

    def __init__(self, prompts: object, targets: Mapping[str, Target]) -> None:
        self.prompts = some_prompts(prompts)
        self.member = {name: torch.zeros(len(self.prompts), dtype=torch.bool) for name in targets}
        for name, target in targets.items():
            self.member[name][samples_of(target, self.prompts)] = True
        self.used = torch.stack(list(self.member.values())).any(dim=0).nonzero().flatten()

    def __len__(self) -> int:
        return len(self.used)

    def run(
        self,
        model: HookedModel,
        work: Callable[[TokenBatch], Result],
        batch_size: int | None,
        *,
        shared: bool = False,
    ) -> Iterator[tuple[TokenBatch, Result]]:
        """Batches of the used prompts, ``samples`` counting among all prompts, with what ``work`` makes of each."""
        used = [self.prompts[i] for i in self.used.tolist()]
        batches = model.run_batches(used, lambda batch: work(self.among_all(batch)), batch_size, shared=shared)
        for batch, result in batches:
            yield self.among_all(batch), result

    def among_all(self, batch: TokenBatch) -> TokenBatch:
        """A batch whose ``samples`` counts among the used prompts, with ``samples`` counting among all."""
        return replace(batch, samples=self.used.to(batch.samples.device)[batch.samples])

    def rows(self, name: str, batch: TokenBatch) -> Int[Tensor, " row"]:
        """The rows of ``batch`` that are samples of the target called ``name``."""
        return self.member[name][batch.samples.cpu()].nonzero().flatten().to(batch.samples.device)


class ScoreSums:
    """Sums of one target's scores over its samples.

    Args:
        dims: sizes of the model.

    Attributes:
        n: samples added.
        sums: of the score, of its positive part, and of its square, by kind of node.
    """

    def __init__(self, dims: ModelDims) -> None:
        self.dims, self.n = dims, 0
        self.sums: dict[NodeKind, Float[Tensor, "sum layer unit"]] = {
            "neuron": torch.zeros(3, dims.n_layers, dims.d_mlp, dtype=torch.float64),
            "head": torch.zeros(3, dims.n_layers, dims.n_heads, dtype=torch.float64),
        }

    def add(
        self, kind: NodeKind, layer: int, units: Int[Tensor, " node"], scores: Float[Tensor, "sample node"]
    ) -> None:
        """Add the scores of some units of one layer; count the samples themselves with `count`."""
        where = units.cpu()
        for slot, part in enumerate((scores, scores.relu(), scores.square())):
            self.sums[kind][slot, layer].index_add_(0, where, part.sum(dim=0).double().cpu())

    def count(self, n: int) -> None:
        """Count ``n`` samples as added."""
        self.n += n

    def attribution(
        self, method: str, target: Target, nodes: NodeSet, source: Mapping[str, Any], kinds: tuple[NodeKind, ...]
    ) -> Attribution:
        """Means over the samples added.

        Args:
            method: the method's name.
            target: what was explained.
            nodes: the nodes that were asked for. Those of them that lie above the target's readout count as not
                scored; nodes that were not scored have the value zero.
            source: provenance.
            kinds: kinds of node that were scored.
        """
        (n1, n2, n3), (h1, h2, h3) = (self.sums[kind] / self.n for kind in ("neuron", "head"))
        std = NodeValues(_std(n1, n3), _std(h1, h3))
        nodes = nodes & below(self.dims, target.readout)
        every = all(bool(nodes.mask(kind).all()) for kind in kinds)
        return Attribution(
            NodeValues(n1.float(), h1.float()), method, target.emotion, self.n, self.dims, kinds=kinds, std=std,
            positive=NodeValues(n2.float(), h2.float()),
            negative=NodeValues((n1 - n2).float(), (h1 - h2).float()),
            scored=None if every else nodes, provenance=source,
        )  # fmt: skip


def put_together(sums: Mapping[str, ScoreSums]) -> None:
    """Add up, target by target, the sums of all processes, once each has added its share."""
    for held in sums.values():
        count = torch.tensor(held.n)
        distributed.add(count, *held.sums.values())
        held.n = int(count)


def kinds_of(nodes: NodeSet) -> tuple[NodeKind, ...]:
    """The kinds of node that ``nodes`` has."""
    held: list[tuple[NodeKind, int]] = [("neuron", nodes.n_neurons), ("head", nodes.n_heads)]
    return tuple(kind for kind, n in held if n)


def _std(mean: Tensor, squares: Tensor) -> Tensor:
    return (squares - mean.square()).clamp(min=0).sqrt().float()
