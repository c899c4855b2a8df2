r"""Contrastive gradients: what each node adds to a target because this emotion, and no other, was asked for.

The library's default. It explains by intervention in three choices, each of which removes a kind of false find:

1. The alternative is the same scenario under every emotion: a node moves from its activation a under emotion e to its
   mean :math:`\bar a_g` over the emotions of the group g, (scenario, valence). What follows the scenario stays.
2. Effects are `IntegratedGradients` along that move, so what a node does through later layers counts, and a neuron
   that is switched on is not judged by its slope in the end alone.
3. A circuit should work in every scenario. So with :math:`s_i` the effect in prompt i, a node's score is what it can
   be counted on for: :math:`\operatorname{mean}_i s_i - \lambda\,\operatorname{std}_i s_i`. A node that has its whole
   effect in a few scenarios falls behind one that has a smaller effect in all.

With ``ec.attribute(model, prompts, "anger")`` the target is what is *said* (`SaidTarget`) rather than what is written.
Three passes over the prompts, the third with gradients at the last token. ``docs/ground-truth.md`` has what each
choice is worth on models whose circuit is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emotion_circuits import distributed
from emotion_circuits.activations import Activations, Contrast
from emotion_circuits.attribution.gradient import IntegratedGradients
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.attribution.sums import some_prompts
from emotion_circuits.data.prompts import Prompt, as_prompts
from emotion_circuits.directions.statistics import complete_groups
from emotion_circuits.interventions import GroupMeanAblation, Samples
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.progress import progress
from emotion_circuits.targets import Target, check_contrast


@dataclass(frozen=True, eq=False)
class ContrastiveGradients:
    """Integrated gradients against the same scenario's mean over emotions, less what varies between scenarios.

    Only prompts whose group has every emotion count.

    Attributes:
        nodes: which nodes; all neurons and heads by default.
        steps: points on the path.
        steadiness: how many standard deviations over prompts are taken off a node's mean effect; 0 ranks by the mean.
        chunk: variants x prompts whose graph is kept at once; chosen from the free memory by default.

    Example:
        >>> import emotion_circuits as ec
        >>> model = ec.HookedModel.demo()
        >>> asked = [ec.Prompt.user("I moved my desk.").instructed(emotion) for emotion in ("anger", "fear")]
        >>> ec.attribute(model, asked, "anger").method
        'contrastive gradients'
    """

    nodes: NodeSet | None = None
    steps: int = 4
    steadiness: float = 0.5
    chunk: int | None = None
    name: str = "contrastive gradients"

    def __call__(
        self, model: HookedModel, prompts: object, targets: Mapping[str, Target], batch_size: int | None = None
    ) -> dict[str, Attribution]:
        """Scores of every target, with ``means`` and ``contrast`` as `DirectAttribution` gives them.

        Raises:
            DataError: the prompts ask for fewer than two emotions, or no group has all of them.
        """
        asked = as_prompts(prompts)
        emotions = check_contrast(asked)
        kept = [asked[i] for i in complete_groups(asked, emotions)]
        baseline = emotion_baseline(model, kept, batch_size=batch_size)
        effects = IntegratedGradients(baseline.ablation, self.nodes, self.steps, self.chunk)
        found = effects(model, kept, targets, batch_size)
        return {name: self._ranked(held, baseline) for name, held in found.items()}

    def _ranked(self, effects: Attribution, baseline: EmotionBaseline) -> Attribution:
        assert effects.std is not None
        mean, std = effects.values, effects.std
        values = NodeValues(
            mean.neurons - self.steadiness * std.neurons, mean.heads - self.steadiness * std.heads
        )  # fmt: skip
        return replace(
            effects,
            values=values,
            method=self.name,
            means=baseline.means,
            contrast=baseline.contrasts.get(effects.emotion or ""),
            provenance={**effects.provenance, "method": self.name, "steps": self.steps, "steadiness": self.steadiness},
        )


@dataclass(frozen=True, eq=False)
class EmotionBaseline:
    """What a scenario does to every node whatever the emotion, and what each emotion adds.

    Attributes:
        ablation: sets the nodes of prompt i, counted among those measured, to their mean over its group.
        means: over all prompts.
        contrasts: each emotion's mean minus the mean over emotions.
    """

    ablation: GroupMeanAblation
    means: Activations
    contrasts: dict[str, Contrast]


def emotion_baseline(model: HookedModel, prompts: object, *, batch_size: int | None = None) -> EmotionBaseline:
    """Mean activations at the last prompt token, by group and by emotion, from one pass.

    Args:
        model: the model.
        prompts: with emotion, item and valence; best with every emotion in every group (`complete_groups`).
        batch_size: rows in a batch.
    """
    asked = some_prompts(prompts)
    group_of, of_emotion = _index([p.group for p in asked]), _index([p.emotion for p in asked])
    sums = {kind: _zeros(model, kind, len(set(group_of))) for kind in ("neuron", "head")}
    by_emotion = {kind: _zeros(model, kind, len(set(of_emotion))) for kind in ("neuron", "head")}
    with progress("baseline", len(asked), shared=True) as advance:
        for batch, values in model.stream(asked, ("neuron", "head"), batch_size=batch_size, shared=True):
            samples = batch.samples.tolist()
            for kind in ("neuron", "head"):
                held = values[kind].float().cpu()
                sums[kind].index_add_(1, torch.tensor([group_of[i] for i in samples]), held)
                by_emotion[kind].index_add_(1, torch.tensor([of_emotion[i] for i in samples]), held)
            advance(len(batch))
    distributed.add(*sums.values(), *by_emotion.values())
    groups = Samples(*(_means(sums[kind], group_of) for kind in ("neuron", "head")))
    means = {kind: by_emotion[kind].sum(dim=1) / len(asked) for kind in by_emotion}
    emotions = {kind: _means(by_emotion[kind], of_emotion) for kind in by_emotion}
    return EmotionBaseline(
        GroupMeanAblation(groups, tuple(group_of)),
        Activations(means["neuron"], means["head"]),
        _contrasts(asked, emotions),
    )


def _contrasts(prompts: Sequence[Prompt], means: Mapping[str, Tensor]) -> dict[str, Contrast]:
    names = list(dict.fromkeys(prompt.emotion for prompt in prompts))
    centred = {kind: held - held.mean(dim=1, keepdim=True) for kind, held in means.items()}
    return {
        name: Contrast(name, "emotions", Activations(centred["neuron"][:, slot], centred["head"][:, slot]))
        for slot, name in enumerate(names)
        if name is not None
    }


def _index(labels: Sequence[object]) -> list[int]:
    """Each label's number, in order of appearance."""
    known = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return [known[label] for label in labels]


def _zeros(model: HookedModel, kind: str, n: int) -> Tensor:
    return torch.zeros(model.dims.n_layers, n, *model.dims.unit_shape(kind))  # pyright: ignore[reportArgumentType]


def _means(sums: Tensor, index: Sequence[int]) -> Tensor:
    counts = torch.bincount(torch.tensor(index)).to(sums)
    return sums / counts.view(1, -1, *[1] * (sums.ndim - 2))
