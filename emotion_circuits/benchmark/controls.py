"""Negative controls: the same analysis where there is nothing to find.

An analysis is any function of a `Subject` (a model, prompts, directions, and the nodes it is about) that gives numbers.
`with_controls` runs it once as it is and once per control and draw:

shuffled labels    directions fitted after the emotions were permuted within every scenario
random nodes       as many nodes of each kind in every layer, drawn at random
random directions  of the same norm, drawn at random
no circuit         a planted model with everything but the circuit; only where the subject is a planted one

A number that its controls reach as well says nothing about emotions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from emotion_circuits.circuits.controls import shuffle_labels
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.directions import EmotionDirections, fit_directions
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import NodeSet
from emotion_circuits.planted import PlantedConfig, PlantedModel, planted

if TYPE_CHECKING:
    import pandas as pd

Analysis = Callable[["Subject"], Mapping[str, float]]
ACTUAL = "actual"


@dataclass(frozen=True, eq=False)
class Subject:
    """What an analysis is given.

    Attributes:
        model: the model.
        prompts: instructed prompts with emotion, item and valence.
        directions: of the emotions.
        nodes: what the analysis ablates, enhances or scores.
        planted: the configuration, if the model is a planted one.
    """

    model: HookedModel
    prompts: tuple[Prompt, ...]
    directions: EmotionDirections
    nodes: NodeSet
    planted: PlantedConfig | None = None

    @classmethod
    def of(cls, source: PlantedModel, nodes: NodeSet | None = None) -> Subject:
        """A planted model, with its true nodes by default."""
        prompts = tuple(source.prompts())
        directions = fit_directions(source.model, prompts)
        return cls(source.model, prompts, directions, source.truth if nodes is None else nodes, source.config)


def shuffled_labels(subject: Subject, seed: int = 0) -> Subject:
    """Directions of permuted emotions; the prompts themselves stay as they are."""
    relabelled = shuffle_labels(subject.prompts, seed)
    emotions = subject.directions.emotions
    return replace(subject, directions=fit_directions(subject.model, relabelled, emotions))


def random_nodes(subject: Subject, seed: int = 0) -> Subject:
    """Nodes that match the subject's in number, kind and layer, and are none of them where there is room."""
    free = NodeSet.all(subject.model) - subject.nodes
    for kind in ("neuron", "head"):
        short = subject.nodes.mask(kind).sum(dim=1) > free.mask(kind).sum(dim=1)
        layers = short.nonzero().flatten().tolist()
        free = free | NodeSet.all(subject.model).only(kind).in_layers(layers)
    return replace(subject, nodes=subject.nodes.random_like(seed, within=free))


def random_directions(subject: Subject, seed: int = 0) -> Subject:
    """Directions drawn at random, with every sublayer's and emotion's norm."""
    held = subject.directions
    drawn = torch.randn(held.vectors.shape, generator=torch.Generator().manual_seed(seed))
    length = held.vectors.norm(dim=-1, keepdim=True)
    vectors = length * drawn / drawn.norm(dim=-1, keepdim=True)
    return replace(subject, directions=replace(held, vectors=vectors.to(held.vectors)))


def no_circuit(subject: Subject, seed: int = 0) -> Subject | None:
    """The same planted model without its circuit, with its own directions; None if the model is not planted."""
    if subject.planted is None:
        return None
    source = planted(replace(subject.planted, circuit=False, seed=subject.planted.seed + seed))
    return Subject.of(source, subject.nodes)


CONTROLS: dict[str, Callable[[Subject, int], Subject | None]] = {
    "shuffled labels": shuffled_labels,
    "random nodes": random_nodes,
    "random directions": random_directions,
    "no circuit": no_circuit,
}


def with_controls(analysis: Analysis, subject: Subject, *, n_draws: int = 3, seed: int = 0) -> pd.DataFrame:
    """An analysis beside its negative controls.

    Args:
        analysis: called with the subject and with every control of it.
        subject: what is analysed.
        n_draws: draws of every control.
        seed: of the first draw.

    Returns:
        One row per run and number: ``condition`` (``"actual"`` or the control), ``draw, measure, value``.

    Example:
        >>> from emotion_circuits.planted import PlantedConfig, planted
        >>> subject = Subject.of(planted(PlantedConfig(n_scenarios=1)))
        >>> table = with_controls(lambda s: {"reliability": float(s.directions.split_half.mean())}, subject, n_draws=1)
        >>> sorted(table["condition"])
        ['actual', 'no circuit', 'random directions', 'random nodes', 'shuffled labels']
    """
    import pandas as pd

    rows = [
        {"condition": condition, "draw": draw, "measure": measure, "value": float(value)}
        for condition, draw, given in _runs(subject, n_draws, seed)
        for measure, value in analysis(given).items()
    ]
    return pd.DataFrame(rows)


def _runs(subject: Subject, n_draws: int, seed: int) -> Iterator[tuple[str, int, Subject]]:
    yield ACTUAL, 0, subject
    for name, control in CONTROLS.items():
        for draw in range(n_draws):
            given = control(subject, seed + draw)
            if given is not None:
                yield name, draw, given
