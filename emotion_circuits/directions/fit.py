r"""Fitting directions (method.md, stage 2).

1. Keep the groups in which every emotion has an accepted sample.
2. Run them and record ``resid_mid`` and ``resid_post`` of every layer, at the last prompt token.
3. :math:`v_{s,e} \propto \frac1G \sum_g \left(x_{g,e} - \bar x_g\right) - \text{mean over } e`, scaled to unit length.

Nothing but running sums is kept, so memory does not grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emotion_circuits import distributed
from emotion_circuits.data.prompts import Prompt, as_emotions, as_prompts
from emotion_circuits.directions.result import RESIDUAL_SITES, EmotionDirections
from emotion_circuits.directions.statistics import GroupStatistics, complete_groups
from emotion_circuits.model import HookedModel
from emotion_circuits.progress import progress
from emotion_circuits.provenance import provenance
from emotion_circuits.replies import Replies
from emotion_circuits.types import Position


def fit_directions(
    model: HookedModel,
    prompts: object,
    emotions: Sequence[str] | None = None,
    *,
    positions: Position = "last_prompt",
    batch_size: int | None = None,
    n_splits: int = 8,
    seed: int = 0,
) -> EmotionDirections:
    """Unit directions of every emotion after every sublayer.

    Args:
        model: the model.
        prompts: instructed prompts with emotion, item and valence, usually the accepted replies of `elicit`.
        emotions: which, and in which order; those of the prompts by default.
        positions: the tokens to average over; the last prompt token is the reference's. Those beyond the prompt need
            replies.
        batch_size: rows in a batch.
        n_splits: random halves for the split-half agreement.
        seed: of the halves.

    Returns:
        The directions, with their reliability.

    Raises:
        DataError: no group has every emotion.
        EmotionError: an emotion has no sample, or ``emotions`` is one string.
    """
    (fitted,) = fit_relabelled(
        model, prompts, [as_prompts(prompts)], emotions,
        positions=positions, batch_size=batch_size, n_splits=n_splits, seed=seed,
    )  # fmt: skip
    return fitted


def fit_relabelled(
    model: HookedModel,
    prompts: object,
    labellings: Sequence[Sequence[Prompt]],
    emotions: Sequence[str] | None = None,
    *,
    positions: Position = "last_prompt",
    batch_size: int | None = None,
    n_splits: int = 8,
    seed: int = 0,
) -> list[EmotionDirections]:
    """`fit_directions` under several labellings of the same samples, from one pass over them.

    Args:
        model: the model.
        prompts: the samples, as for `fit_directions`.
        labellings: the same prompts with other emotions, which must be permuted within (scenario, valence) groups, so
            that the complete groups stay the same.
        emotions: as for `fit_directions`, and so are the others.
        positions: see there.
        batch_size: see there.
        n_splits: see there.
        seed: see there.
    """
    asked = as_prompts(prompts)
    emotions = as_emotions(emotions or dict.fromkeys(p.emotion for p in asked if p.emotion is not None))
    chosen = complete_groups(asked, emotions)
    kept = [[labelled[i] for i in chosen] for labelled in labellings]
    samples = Replies(tuple(prompts[i] for i in chosen)) if isinstance(prompts, Replies) else [asked[i] for i in chosen]
    shape = (len(RESIDUAL_SITES), model.dims.n_layers, model.dims.d_model)
    statistics = [GroupStatistics(labelled, emotions, shape, n_splits, seed) for labelled in kept]
    rms_sum = torch.zeros(shape[:2], dtype=torch.float64)
    with progress("directions", len(chosen), shared=True) as advance:
        for batch, values in model.stream(
            samples, RESIDUAL_SITES, positions, batch_size=batch_size, sort=False, shared=True
        ):
            held = torch.stack([values[site] for site in RESIDUAL_SITES]).double().cpu()  # site layer batch d_model
            rms_sum += held.square().mean(dim=-1).sqrt().sum(dim=-1)
            for row, sample in enumerate(batch.samples.tolist()):
                for sums, labelled in zip(statistics, kept, strict=True):
                    sums.add(labelled[sample], held[:, :, row])
            advance(len(batch))
    distributed.add(rms_sum)
    fitted = []
    for sums, labelled in zip(statistics, kept, strict=True):
        sums.put_together()
        source = provenance(model, labelled, seed=seed, positions=positions)
        fitted.append(_directions(sums, rms_sum / len(chosen), source))
    return fitted


def _directions(statistics: GroupStatistics, sigma: Tensor, source: dict) -> EmotionDirections:
    differences = statistics.centred.movedim(0, 2)  # site layer emotion d_model
    norms = differences.norm(dim=-1)
    group, emotion = statistics.variance_shares()
    split_half = statistics.split_half().mean(dim=0).movedim(0, 2)
    return EmotionDirections(
        emotions=statistics.emotions,
        vectors=(differences / norms.clamp(min=1e-12)[..., None]).float(),
        norms=norms.float(),
        sigma=sigma.float(),
        n_groups=statistics.n_groups,
        split_half=split_half.float(),
        variance_group=group.float(),
        variance_emotion=emotion.float(),
        provenance=source,
    )
