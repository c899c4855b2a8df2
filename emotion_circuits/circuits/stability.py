"""Stability: would other data have given the same circuit?

1. Score every node on each scenario's prompts alone. A score is a mean over samples, so the score on any resample of
   whole scenarios is the weighted mean of these: one attribution of the data serves all resamples. The resamples are
   drawn beforehand, and each scenario's scores are added to theirs at once: memory does not grow with the scenarios.
2. Choose a circuit on each bootstrap resample; a node's frequency is the share of resamples that chose it.
3. Choose circuits on pairs of disjoint halves of the scenarios: again a frequency for every node, and the mean Jaccard
   index of the two circuits of a pair, which says how far half the data agrees with the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import artefacts, distributed
from emotion_circuits.attribution import attribute_each
from emotion_circuits.checked import build, parts
from emotion_circuits.circuits.node_sets import clusters_of
from emotion_circuits.data.prompts import Prompt, as_prompts
from emotion_circuits.data.sev import SEV
from emotion_circuits.errors import DataError
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.targets import Target, samples_of
from emotion_circuits.types import KINDS, ModelDims, NodeKind

if TYPE_CHECKING:
    import pandas as pd

N_HALVES = 20
_BLOCK = 16  # scenarios whose scores are added at once, as one product

Choose = Callable[[NodeValues], NodeSet]
"""From scores to a circuit's nodes."""


@dataclass(frozen=True, eq=False)
class Stability:
    """How often each node is chosen.

    Attributes:
        circuit: what all of the data gives.
        frequency: share of the bootstrap resamples that chose each node.
        half_frequency: share of the halves of the data that chose it.
        halves: mean Jaccard index of the circuits of two disjoint halves of the scenarios.
        n_draws: resamples.
        n_scenarios: scenarios in the data.
    """

    circuit: NodeSet
    frequency: NodeValues
    half_frequency: NodeValues
    halves: float
    n_draws: int
    n_scenarios: int

    def core(self, share: float = 0.9) -> NodeSet:
        """The nodes that at least this share of the resamples chose, and of the halves too."""
        both = (self.frequency, self.half_frequency)
        return NodeSet(
            *((both[0].values(kind) >= share) & (both[1].values(kind) >= share) for kind in KINDS),
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per node ever chosen: ``node, kind, layer, index, frequency, half_frequency, in_circuit, core``."""
        table, halves = (held.to_frame() for held in (self.frequency, self.half_frequency))
        table = table.rename(columns={"value": "frequency"})
        in_halves = dict(zip(halves["node"], halves["value"], strict=True))
        table["half_frequency"] = [in_halves[name] for name in table["node"]]
        for column, nodes in (("in_circuit", self.circuit), ("core", self.core())):
            table[column] = table["node"].isin(nodes.names())
        ever = (table["frequency"] > 0) | (table["half_frequency"] > 0) | table["in_circuit"]
        return table.loc[ever].reset_index(drop=True)

    def save(self, path: str | Path) -> None:
        """Write one file."""
        held = {"circuit": self.circuit, "frequency": self.frequency, "half_frequency": self.half_frequency}
        tensors = {f"{name}.{part}": getattr(of, part) for name, of in held.items() for part in ("neurons", "heads")}
        meta = {"halves": self.halves, "n_draws": self.n_draws, "n_scenarios": self.n_scenarios}
        artefacts.save(path, "stability", tensors, meta)

    @classmethod
    def load(cls, path: str | Path) -> Stability:
        """Read what `save` wrote.

        Raises:
            ArtefactError: the file is damaged or something else.
        """
        tensors, meta = artefacts.load(path, "stability")
        circuit = build(NodeSet, path, parts("circuit", tensors))
        sizes = {"layer": len(circuit.heads), "neuron": circuit.neurons.shape[1], "head": circuit.heads.shape[1]}
        often = {n: build(NodeValues, path, parts(n, tensors), **sizes) for n in ("frequency", "half_frequency")}
        return build(cls, path, {"circuit": circuit, **often, **meta})

    def __repr__(self) -> str:
        kept = len(self.core() & self.circuit)
        return (
            f"Stability({kept} of {len(self.circuit)} nodes in at least 90 % of {self.n_draws} resamples and of the "
            f"halves of {self.n_scenarios} scenarios; halves agree by {self.halves:.3f})"
        )


def stability(
    model: HookedModel, prompts: object, target: Target, method: Any, choose: Choose, *, n_draws: int = 200,
    seed: int = 0, batch_size: int | None = None,
) -> Stability:  # fmt: skip
    """Selection frequencies over bootstrap resamples and halves of the scenarios.

    Args:
        model: the model.
        prompts: a SEV (its items are instructed with the target's emotion), or prompts.
        target: what is attributed.
        method: of attribution, e.g. ``ec.DirectAttribution()``; one that scores each sample by itself, so not one whose
            intervention or baseline is made of the other prompts.
        choose: from scores to a circuit's nodes, e.g. ``lambda values: values.top(50)``.
        n_draws: resamples.
        seed: of the draws.
        batch_size: rows in a batch.

    Raises:
        DataError: there are fewer than two scenarios to resample.
    """
    options = {"n_draws": n_draws, "seed": seed, "batch_size": batch_size}
    return stability_each(model, prompts, {"": target}, method, {"": choose}, **options)[""]


def stability_each(
    model: HookedModel, prompts: object, targets: Mapping[str, Target], method: Any, choose: Mapping[str, Choose], *,
    n_draws: int = 200, seed: int = 0, batch_size: int | None = None,
) -> dict[str, Stability]:  # fmt: skip
    """`stability` of several targets from one attribution of all prompts; arguments by the target's name."""
    asked = _instructed(prompts, targets.values())
    rows_of = {name: samples_of(target, asked) for name, target in targets.items()}
    scenarios = clusters_of(asked, range(len(asked)))
    counts = {name: dict.fromkeys((scenarios[i] for i in rows), 0) for name, rows in rows_of.items()}
    for name, rows in rows_of.items():
        for i in rows:
            counts[name][scenarios[i]] += 1
        if len(counts[name]) < 2:
            raise DataError(
                f"there is {len(counts[name])} scenario to resample; stability needs prompts of two or more"
            )
    members: dict[object, list[Prompt]] = {}
    for prompt, scenario in zip(asked, scenarios, strict=True):
        members.setdefault(scenario, []).append(prompt)
    mine = distributed.share(list(members.items()))
    sums = {name: _Resamples(model.dims, held, n_draws, seed) for name, held in counts.items()}
    with distributed.apart():
        for scenario, prompts_there in mine:
            present = {name: target for name, target in targets.items() if scenario in counts[name]}
            for name, found in attribute_each(model, prompts_there, present, method, batch_size=batch_size).items():
                sums[name].add(scenario, found.values)
    return {name: held.stability(choose[name]) for name, held in sums.items()}


def _instructed(prompts: object, targets: Iterable[Target]) -> list[Prompt]:
    if not isinstance(prompts, SEV):
        return as_prompts(prompts)
    return [prompt for target in targets for prompt in prompts.prompts(target.emotion)]


class _Resamples:
    """One target's scores on every resample of the scenarios: on all of them, on bootstrap draws, on pairs of halves.

    Args:
        dims: sizes of the model.
        counts: samples of each scenario.
        n_draws: bootstrap resamples.
        seed: of the draws.
    """

    def __init__(self, dims: ModelDims, counts: Mapping[object, int], n_draws: int, seed: int) -> None:
        self.n_draws, self.n = n_draws, len(counts)
        self.place = {scenario: i for i, scenario in enumerate(counts)}
        often = _drawn(self.n, n_draws, seed) * torch.tensor(list(counts.values()), dtype=torch.float64)
        self.shares = often / often.sum(dim=1, keepdim=True)
        self.waiting: list[tuple[int, NodeValues]] = []
        sizes: dict[NodeKind, tuple[int, int]] = {
            "neuron": (dims.n_layers, dims.d_mlp),
            "head": (dims.n_layers, dims.n_heads),
        }
        self.sums: dict[NodeKind, Tensor] = {
            kind: torch.zeros(len(often), *sizes[kind], dtype=torch.float64) for kind in KINDS
        }

    def add(self, scenario: object, values: NodeValues) -> None:
        """Add a scenario's scores to the resamples that have it."""
        self.waiting.append((self.place[scenario], values))
        if len(self.waiting) == _BLOCK:
            self._flush()

    def _flush(self) -> None:
        shares = self.shares[:, [place for place, _ in self.waiting]]
        for kind, total in self.sums.items() if self.waiting else ():
            total += torch.tensordot(shares, torch.stack([v.values(kind) for _, v in self.waiting]).double(), dims=1)
        self.waiting = []

    def stability(self, choose: Choose) -> Stability:
        """Choose on every resample; all processes' scenarios count."""
        self._flush()
        distributed.add(*self.sums.values())
        every, *chosen = [
            choose(NodeValues(*(self.sums[kind][i].float() for kind in KINDS))) for i in range(len(self.shares))
        ]
        draws, halves = chosen[: self.n_draws], chosen[self.n_draws :]
        pairs = zip(halves[::2], halves[1::2], strict=True)
        agreement = sum(len(a & b) / max(1, len(a | b)) for a, b in pairs) / N_HALVES
        return Stability(every, _share(draws), _share(halves), agreement, self.n_draws, self.n)


def _drawn(n: int, n_draws: int, seed: int) -> Float[Tensor, "resample scenario"]:
    """How often each resample has each of n scenarios: all once, the bootstrap draws, then both halves of each pair."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (n_draws, n), generator=generator)
    rows = [torch.ones(n), *(torch.bincount(draw, minlength=n) for draw in drawn)]
    for _ in range(N_HALVES):
        first = torch.zeros(n)
        first[torch.randperm(n, generator=generator)[: n // 2]] = 1.0
        rows += [first, 1 - first]
    return torch.stack([row.double() for row in rows])


def _share(sets: list[NodeSet]) -> NodeValues:
    """The share of some sets that have each node."""
    return NodeValues(*(torch.stack([held.mask(kind) for held in sets]).float().mean(dim=0) for kind in KINDS))
