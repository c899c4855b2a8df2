"""Controls: the circuits that a circuit's figures stand beside.

Both kinds have the same make-up as the circuit, as many nodes of each kind in every layer, so that where the nodes lie
is not what differs:

random     nodes drawn at random
shuffled   the best nodes of a ranking that was made after the emotions were permuted within every (scenario, event)
           group (`shuffled_scores`): all that the method finds where labels mean nothing

A figure that its controls reach as well says nothing about the emotion.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from emotion_circuits.attribution import attribute
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.circuits.builders import top_per_layer
from emotion_circuits.data.prompts import Prompt, as_prompts
from emotion_circuits.directions.fit import fit_relabelled
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import Node, NodeSet
from emotion_circuits.types import KINDS, NodeKind


@dataclass(frozen=True, eq=False)
class Controls:
    """Which controls a metric is measured beside.

    Attributes:
        n_random: random circuits.
        shuffled: rankings of shuffled labels, see `shuffled_scores`; one control circuit each.
        seed: of the random circuits.
    """

    n_random: int = 20
    shuffled: Sequence[Attribution] = ()
    seed: int = 0

    def __len__(self) -> int:
        return self.n_random + len(self.shuffled)

    def __repr__(self) -> str:
        return f"Controls({self.n_random} random circuits, {len(self.shuffled)} of shuffled labels)"

    def like(self, nodes: NodeSet, offset: int = 0) -> list[NodeSet]:
        """The control circuits of a circuit: the random ones, then the shuffled ones.

        Args:
            nodes: whose make-up they have.
            offset: added to the seed, so that several circuits of one call get draws of their own.
        """
        seed = (self.seed + offset) * 1_000_003
        drawn = [nodes.random_like(seed + draw) for draw in range(self.n_random)]
        return drawn + [best_like(nodes, scores) for scores in self.shuffled]

    def left_out(self, nodes: NodeSet) -> dict[tuple[NodeKind, int], tuple[list[Node], list[Node]]]:
        """Nodes that a circuit left out, for each kind and layer where it has some.

        Returns:
            By kind and layer: ``n_random`` random nodes (fewer where the layer has no more), and each shuffled
            ranking's best; both empty where nothing was left out.
        """
        generator = torch.Generator().manual_seed(self.seed)
        found: dict[tuple[NodeKind, int], tuple[list[Node], list[Node]]] = {}
        for kind in KINDS:
            for layer in nodes.mask(kind).any(dim=1).nonzero().flatten().tolist():
                others = (~nodes.mask(kind)[layer]).nonzero().flatten()
                drawn = others[torch.randperm(len(others), generator=generator)[: self.n_random]]
                rankings = [scores.ranking.values(kind)[layer][others] for scores in self.shuffled if len(others)]
                best = [others[ranking.argmax()] for ranking in rankings]
                found[kind, layer] = (
                    [Node(layer, kind, int(i)) for i in drawn],
                    [Node(layer, kind, int(i)) for i in best],
                )
        return found


USUAL = Controls()
FEW = Controls(n_random=5)
"""For curves: fewer, since every size has its own."""


def best_like(nodes: NodeSet, scores: Attribution) -> NodeSet:
    """The best nodes of a ranking, as many of each kind in every layer as ``nodes`` has."""
    values = scores.ranking
    return NodeSet(
        top_per_layer(values.neurons, nodes.neurons.sum(dim=1).tolist()),
        top_per_layer(values.heads, nodes.heads.sum(dim=1).tolist()),
    )


def shuffle_labels(prompts: Sequence[Prompt], seed: int = 0) -> list[Prompt]:
    """The same prompts with their emotions permuted within every (scenario, valence) group; texts stay as they are."""
    rng, groups = random.Random(seed), {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt.group, []).append(i)
    result = list(prompts)
    for rows in groups.values():
        emotions = [prompts[i].emotion for i in rows]
        rng.shuffle(emotions)
        for i, emotion in zip(rows, emotions, strict=True):
            result[i] = replace(prompts[i], emotion=emotion)
    return result


def shuffled_scores(
    model: HookedModel, prompts: object, emotion: str, method: Any, *, n: int = 5, seed: int = 0,
    batch_size: int | None = None,
) -> list[Attribution]:  # fmt: skip
    """Rankings for one emotion after its label was shuffled: directions are fitted and nodes scored anew each time.

    One pass over the prompts serves the directions of all shuffles; each is scored in a pass of its own.

    Args:
        model: the model.
        prompts: instructed prompts, or accepted replies, of all emotions; those that the circuit was found on.
        emotion: whose ranking.
        method: of attribution, as for `attribute`.
        n: shuffles.
        seed: of the first.
        batch_size: rows in a batch.

    Raises:
        DataError: no (scenario, event) group has every emotion.

    Example:
        >>> import emotion_circuits as ec
        >>> model, data = ec.HookedModel.demo(), ec.load_sev("demo")[0].limit(1)
        >>> asked = [item.prompt(emotion) for item in data.items for emotion in ("anger", "fear")]
        >>> (scores,) = ec.shuffled_scores(model, asked, "anger", ec.DirectAttribution(), n=1)
        >>> ec.Controls(n_random=2, shuffled=[scores])
        Controls(2 random circuits, 1 of shuffled labels)
    """
    asked = [prompt for prompt in as_prompts(prompts) if prompt.emotion is not None]
    if not n:
        return []
    relabelled = [shuffle_labels(asked, seed + draw) for draw in range(n)]
    fitted = fit_relabelled(model, asked, relabelled, batch_size=batch_size, n_splits=1)
    return [
        attribute(model, labelled, directions.target(emotion), method, batch_size=batch_size)
        for labelled, directions in zip(relabelled, fitted, strict=True)
    ]
