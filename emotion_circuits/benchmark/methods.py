"""What is compared: ways to rank a model's nodes for an emotion, and ways to choose a circuit from a ranking.

1. A `Case` is one planted model with everything that methods share: prompts, directions, baselines.
2. A ranking (`RANKINGS`) gives every emotion an `Attribution`.
3. A choice (`CHOICES`) gives every emotion a `NodeSet` of the true size, by a builder from a ranking.
4. Edges between the nodes of a choice are ranked by `attribute_edges`, as many as there are true ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from emotion_circuits.attribution import (
    ActivationPatching,
    Attribution,
    AttributionPatching,
    ContrastiveGradients,
    DirectAttribution,
    FinalDirectAttribution,
    HeadImportance,
    Influence,
    IntegratedGradients,
    attribute_each,
    emotion_baseline,
    sublayer_influence,
)
from emotion_circuits.attribution.direct import write_along
from emotion_circuits.circuits.builders import Builder, GlobalTop, Quota, Threshold
from emotion_circuits.circuits.edge_attribution import attribute_edges
from emotion_circuits.circuits.groups import TARGET
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.directions import EmotionDirections, fit_directions
from emotion_circuits.directions.contrasts import mean_activations
from emotion_circuits.interventions import GroupMeanAblation, MeanAblation
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.planted import PlantedModel
from emotion_circuits.planted.language import NEUTRAL_WORDS
from emotion_circuits.targets import LogitDifference, SaidTarget, Target, said_targets
from emotion_circuits.types import EKMAN, NodeKind

Scorer = Callable[..., dict[str, Attribution]]
"""An attribution method: called with model, prompts and targets."""
Ranking = Callable[["Case"], dict[str, Attribution]]
Choice = Callable[["Case"], dict[str, NodeSet]]
DEFAULT = "default (contrastive gradients)"
"""What ``ec.attribute(model, prompts, emotion)`` ranks with."""
WRITES = "direct + head importance"
"""The pipeline's ranking, for control: what is written along the emotion's direction."""


@dataclass(frozen=True, eq=False)
class Case:
    """One planted model, and what every method needs of it; computed once."""

    planted: PlantedModel

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Every item under every instruction."""
        return self.planted.prompts()

    @cached_property
    def directions(self) -> EmotionDirections:
        """As the pipeline fits them."""
        return fit_directions(self.planted.model, self.prompts)

    @cached_property
    def direct(self) -> dict[str, Attribution]:
        """Direct attribution of every emotion."""
        return self.attribute(DirectAttribution())

    @cached_property
    def default(self) -> dict[str, Attribution]:
        """What users get who name no target and no method."""
        return attribute_each(self.planted.model, self.prompts)

    @cached_property
    def said(self) -> dict[str, SaidTarget]:
        """The default's targets."""
        return said_targets(self.planted.model, self.prompts)

    @cached_property
    def writes(self) -> dict[str, Attribution]:
        """The pipeline's ranking."""
        heads = self.attribute(HeadImportance())
        return {emotion: scores.with_heads(heads[emotion]) for emotion, scores in self.direct.items()}

    @cached_property
    def words(self) -> dict[str, LogitDifference]:
        """What is said, for those who know the words: each emotion's first against the others' and the neutral."""
        tokenizer, lexicon = self.planted.model.tokenizer, self.planted.lexicon
        first = {emotion: tokenizer.convert_tokens_to_ids(lexicon[emotion][0]) for emotion in EKMAN}
        neutral = tokenizer.convert_tokens_to_ids(NEUTRAL_WORDS[0])
        others = {e: (*(i for other, i in first.items() if other != e), neutral) for e in EKMAN}
        return {e: LogitDifference((first[e],), others[e], emotion=e) for e in EKMAN}

    @cached_property
    def integrated_words(self) -> dict[str, Attribution]:
        """Integrated gradients on the words: the best of the methods before the default."""
        return self.attribute(IntegratedGradients(self.ablation, steps=4), self.words)

    @cached_property
    def influence(self) -> Influence:
        """Of every sublayer, on the uninstructed prompts."""
        return sublayer_influence(self.planted.model, self.planted.data.prompts(), self.directions)

    @cached_property
    def every(self) -> NodeSet:
        """All nodes."""
        return NodeSet.all(self.planted.model)

    @property
    def ablation(self) -> MeanAblation:
        """To the mean over emotions."""
        means = self.direct[EKMAN[0]].means
        assert means is not None
        return MeanAblation(means)

    @cached_property
    def within(self) -> GroupMeanAblation:
        """To the mean over emotions of the same scenario."""
        return emotion_baseline(self.planted.model, self.prompts).ablation

    def attribute(self, method: Scorer, targets: Mapping[str, Target] | None = None) -> dict[str, Attribution]:
        """Scores of every emotion, for its direction by default."""
        return method(self.planted.model, self.prompts, targets or self.directions.targets())

    def scored(self, values: Mapping[str, NodeValues], kinds: tuple[NodeKind, ...]) -> dict[str, Attribution]:
        """Plain numbers as attributions."""
        kept = {"std": None, "positive": None, "negative": None, "beta": None, "centred": None}
        return {e: replace(self.direct[e], values=v, kinds=kinds, **kept) for e, v in values.items()}


BOTH: tuple[NodeKind, NodeKind] = ("neuron", "head")


def activation_alone(case: Case) -> dict[str, Attribution]:
    """Mean activation of neurons, mean output's length of heads."""
    means = mean_activations(case.planted.model, case.prompts)
    values = {}
    for emotion in EKMAN:
        held = means[emotion]
        assert held.neurons is not None and held.heads is not None
        values[emotion] = NodeValues(held.neurons, held.heads.norm(dim=-1))
    return case.scored(values, BOTH)


def activation_difference(case: Case) -> dict[str, Attribution]:
    """How much more active under the emotion than under the others."""
    values = {}
    for emotion, scores in case.direct.items():
        assert scores.contrast is not None
        held = scores.contrast.prompt
        assert held.neurons is not None and held.heads is not None
        values[emotion] = NodeValues(held.neurons, held.heads.norm(dim=-1))
    return case.scored(values, BOTH)


def weights_alone(case: Case) -> dict[str, Attribution]:
    """What a unit of activation would write along the direction (beta); for heads its length."""
    values = {}
    for emotion, target in case.directions.targets().items():
        neurons, heads = write_along(case.planted.model, target)
        values[emotion] = NodeValues(neurons.float(), heads.norm(dim=-1).float())
    return case.scored(values, BOTH)


def at_random(case: Case) -> dict[str, Attribution]:
    """Chance."""
    g, dims = torch.Generator().manual_seed(case.planted.config.seed), case.planted.model.dims
    draw = {e: (torch.rand(dims.n_layers, n, generator=g) for n in (dims.d_mlp, dims.n_heads)) for e in EKMAN}
    return case.scored({emotion: NodeValues(*both) for emotion, both in draw.items()}, BOTH)


RANKINGS: dict[str, Ranking] = {
    DEFAULT: lambda case: case.default,
    "contrastive gradients, mean alone": lambda case: case.attribute(ContrastiveGradients(steadiness=0.0), case.said),
    "contrastive gradients, direction": lambda case: case.attribute(ContrastiveGradients()),
    WRITES: lambda case: case.writes,
    "direct": lambda case: case.direct,
    "direct, centred": lambda case: case.attribute(DirectAttribution(centred=True)),
    "final direct": lambda case: case.attribute(FinalDirectAttribution()),
    "head importance": lambda case: case.attribute(HeadImportance()),
    "activation patching": lambda case: case.attribute(ActivationPatching(case.ablation, case.every)),
    "activation patching, group mean": lambda case: case.attribute(ActivationPatching(case.within, case.every)),
    "activation patching, group mean, said": lambda case: case.attribute(
        ActivationPatching(case.within, case.every), case.said
    ),
    "attribution patching": lambda case: case.attribute(AttributionPatching(case.ablation)),
    "integrated gradients": lambda case: case.attribute(IntegratedGradients(case.ablation, steps=4)),
    "final direct, words": lambda case: case.attribute(FinalDirectAttribution(), case.words),
    "attribution patching, words": lambda case: case.attribute(AttributionPatching(case.ablation), case.words),
    "integrated gradients, words": lambda case: case.integrated_words,
    "activation alone": activation_alone,
    "activation difference": activation_difference,
    "weights alone": weights_alone,
    "random": at_random,
}


def chosen_by(builder: Builder, ranking: Ranking) -> Choice:
    """A builder, given a ranking, the sublayers' influence, and the true number of nodes of each kind."""

    def choose(case: Case) -> dict[str, NodeSet]:
        found = {}
        for emotion, scores in ranking(case).items():
            truth = case.planted.truth_of[emotion]
            wanted: dict[NodeKind, int] = {"neuron": truth.n_neurons, "head": truth.n_heads}
            found[emotion] = builder(scores.values, case.influence.of(emotion), wanted)
        return found

    return choose


CHOICES: dict[str, Choice] = {
    "default -> global top": chosen_by(GlobalTop(), lambda case: case.default),
    "default -> quota": chosen_by(Quota(), lambda case: case.default),
    "default -> threshold": chosen_by(Threshold(), lambda case: case.default),
    f"{WRITES} -> global top": chosen_by(GlobalTop(), lambda case: case.writes),
    f"{WRITES} -> quota": chosen_by(Quota(), lambda case: case.writes),
    "integrated gradients, words -> global top": chosen_by(GlobalTop(), lambda case: case.integrated_words),
}


def found_edges(case: Case, emotion: str, nodes: NodeSet) -> list[tuple[str, str]]:
    """Edges between single nodes that carry most of what is said, as many as are true."""
    true = case.planted.edges_of(emotion)
    asked = [prompt for prompt in case.prompts if prompt.emotion == emotion]
    rows = [i for i, prompt in enumerate(case.prompts) if prompt.emotion == emotion]
    within = replace(case.within, group_of=tuple(case.within.group_of[i] for i in rows))
    groups = {str(node): NodeSet.of(case.planted.model, node) for node in nodes}
    table = attribute_edges(case.planted.model, groups, asked, case.said[emotion], within)
    # What an edge carries, its ablation takes away: the most negative effects come first.
    between: Any = table[table["target"] != TARGET]  # pandas' types cannot follow a selection
    between = between.sort_values("effect", kind="stable")
    return list(between[["source", "target"]].head(len(true)).itertuples(index=False, name=None))
