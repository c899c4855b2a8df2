"""Fitting contrasts: what each emotion changes in neurons, heads and residuals (method.md, stages 5 and 7).

Two choices decide much of what a contrast can do, and both are parameters:

baseline   ``"emotions"``: the emotion's mean minus the mean over emotions (the reference's), which lacks the axis
           from neutral to emotional; ``"uninstructed"``: minus the same items without an instruction.
positions  with ``match_positions`` the contrast is measured twice, at the last prompt token and over the tokens of
           the model's own replies, and each is added where it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from emotion_circuits import distributed
from emotion_circuits.activations import Activations, Baseline, Contrast
from emotion_circuits.data.prompts import as_emotions, as_prompts
from emotion_circuits.directions.statistics import complete_groups
from emotion_circuits.errors import DataError
from emotion_circuits.model import HookedModel
from emotion_circuits.progress import progress
from emotion_circuits.replies import Replies
from emotion_circuits.types import Position, Site, as_choice

_SITES: tuple[Site, ...] = ("neuron", "head", "resid_mid", "resid_post")

_NO_UNINSTRUCTED = (
    "baseline='uninstructed' needs replies to the uninstructed prompts of the same items; pass "
    "uninstructed=ec.generate(model, data)"
)


def fit_contrasts(
    model: HookedModel,
    accepted: Replies,
    uninstructed: Replies | None = None,
    *,
    emotions: Sequence[str] | None = None,
    baseline: Baseline = "emotions",
    match_positions: bool = True,
    unit_heads: bool = False,
    batch_size: int | None = None,
) -> dict[str, Contrast]:
    """The contrast of every emotion.

    Args:
        model: the model.
        accepted: accepted replies to instructed prompts; only groups with every emotion count.
        uninstructed: replies to the uninstructed prompts of the same items; needed by ``baseline="uninstructed"``.
        emotions: which; those of the replies by default.
        baseline: what an emotion is compared with.
        match_positions: also measure over reply tokens, and add that at generated tokens.
        unit_heads: scale each layer's heads, all together, to unit length, as the reference does; it loses how much
            they change.
        batch_size: rows in a batch.

    Returns:
        One `Contrast` per emotion, in units of the activations.

    Raises:
        DataError: no complete group, the uninstructed replies are missing, one emotion alone is to be compared with
            the mean over emotions, or there is no such baseline.
    """
    as_choice(baseline, Baseline, "baseline")
    needed = uninstructed if baseline == "uninstructed" else None
    if baseline == "uninstructed" and needed is None:
        needed = Replies(())
    means = ConditionMeans.measure(
        model, accepted, needed, emotions=emotions, match_positions=match_positions, batch_size=batch_size
    )
    return means.contrasts(baseline, unit_heads=unit_heads)


def _unit_heads(contrast: Contrast) -> Contrast:
    def unit(held: Activations | None) -> Activations | None:
        if held is None or held.heads is None:
            return held
        length = held.heads.flatten(1).norm(dim=1).clamp(min=torch.finfo(held.heads.dtype).tiny)
        return replace(held, heads=held.heads / length[:, None, None])

    return replace(contrast, prompt=unit(contrast.prompt), reply=unit(contrast.reply))


@dataclass(frozen=True)
class ConditionMeans:
    """Mean activations under every emotion and under no instruction: what contrasts are differences of.

    Attributes:
        emotions: the emotions.
        prompt: at the last prompt token, by emotion; None is uninstructed.
        reply: over reply tokens, or None if that was not measured.
    """

    emotions: tuple[str, ...]
    prompt: Mapping[str | None, Activations]
    reply: Mapping[str | None, Activations] | None

    @classmethod
    def measure(
        cls,
        model: HookedModel,
        accepted: Replies,
        uninstructed: Replies | None,
        *,
        emotions: Sequence[str] | None = None,
        match_positions: bool = True,
        batch_size: int | None = None,
    ) -> ConditionMeans:
        """Run the replies once per position; arguments as for `fit_contrasts`."""
        emotions = as_emotions(emotions or accepted.emotions)
        kept = Replies(tuple(accepted[i] for i in complete_groups(accepted.prompts, emotions)))
        if uninstructed is not None:
            groups = {reply.prompt.group for reply in kept}
            base = uninstructed.filter(lambda reply: reply.prompt.emotion is None and reply.prompt.group in groups)
            if not len(base):
                raise DataError(_NO_UNINSTRUCTED)
            kept = kept + base
        prompt = mean_activations(model, kept, "last_prompt", batch_size=batch_size)
        reply = mean_activations(model, kept, "generated", batch_size=batch_size) if match_positions else None
        return cls(emotions, prompt, reply)

    def contrasts(self, baseline: Baseline, *, unit_heads: bool = False) -> dict[str, Contrast]:
        """Every emotion's contrast against one baseline; ``unit_heads`` as for `fit_contrasts`.

        Raises:
            DataError: there is nothing to compare with, or no such baseline.
        """
        as_choice(baseline, Baseline, "baseline")
        if baseline == "emotions" and len(self.emotions) < 2:
            raise DataError(
                f"baseline='emotions' compares with the mean over emotions, which is {', '.join(self.emotions)} itself "
                "when there is no other; give several emotions, or baseline='uninstructed' with uninstructed replies"
            )
        if baseline == "uninstructed" and None not in self.prompt:
            raise DataError(_NO_UNINSTRUCTED)
        result = {}
        for emotion in self.emotions:
            prompt = _difference(self.prompt, emotion, self.emotions, baseline)
            reply = None if self.reply is None else _difference(self.reply, emotion, self.emotions, baseline)
            contrast = Contrast(emotion, baseline, prompt, reply)
            result[emotion] = _unit_heads(contrast) if unit_heads else contrast
        return result


def mean_activations(
    model: HookedModel, replies: object, positions: Position = "last_prompt", *, batch_size: int | None = None
) -> dict[str | None, Activations]:
    """Mean activation of every unit, per emotion that the prompts ask for (None: no emotion).

    Args:
        model: the model.
        replies: prompts, or replies where positions beyond the prompt are meant.
        positions: which tokens; means weigh every sample equally, however long.
        batch_size: rows in a batch.
    """
    prompts = as_prompts(replies)
    names = list(dict.fromkeys(prompt.emotion for prompt in prompts))
    counts = {name: sum(prompt.emotion == name for prompt in prompts) for name in names}
    zeros = {site: torch.zeros(model.dims.n_layers, *model.dims.unit_shape(site)).double() for site in _SITES}
    sums = {(name, site): zeros[site].clone() for name in names for site in _SITES}
    with progress("activations", len(prompts), shared=True) as advance:
        for batch, values in model.stream(replies, _SITES, positions, batch_size=batch_size, shared=True):
            of_row = [prompts[i].emotion for i in batch.samples.tolist()]
            for site, held in values.items():
                for name in dict.fromkeys(of_row):
                    rows = torch.tensor([i for i, e in enumerate(of_row) if e == name], device=held.device)
                    sums[name, site] += held.index_select(1, rows).double().sum(dim=1).cpu()
            advance(len(batch))
    distributed.add(*sums.values())
    return {n: Activations(*((sums[n, site] / counts[n]).float() for site in _SITES)) for n in names}


def _difference(
    means: Mapping[str | None, Activations], emotion: str, emotions: Sequence[str], baseline: Baseline
) -> Activations:
    if baseline == "uninstructed":
        return means[emotion] - means[None]
    total = means[emotions[0]]
    for other in emotions[1:]:
        total = total + means[other]
    return means[emotion] - total * (1 / len(emotions))
