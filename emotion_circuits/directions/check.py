r"""Testing directions on samples (the tests are explained in `quality`).

1. Fit the directions again on the samples, at the last prompt token and, where there are replies, over their tokens.
2. Fit them on the same items under instructions that do not name the emotion.
3. For each theme t, with the means of all other themes, sort every sample of t to the emotion with the largest
   :math:`\sum_s (x_s - \bar m_s) \cdot v_{s,e} / \sigma_s` over the stable layers' sublayers s, :math:`\bar m` being
   the mean over emotions. Nothing of t, and no other sample of the same group, is used for its samples.

Samples are streamed twice and never kept, so memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import distributed
from emotion_circuits.data.prompts import Prompt, as_prompts
from emotion_circuits.directions.fit import fit_directions
from emotion_circuits.directions.quality import ABOVE_CHANCE, AGREES, RELIABLE, QualityTest, reliability
from emotion_circuits.directions.result import RESIDUAL_SITES, EmotionDirections
from emotion_circuits.directions.statistics import complete_groups
from emotion_circuits.intervals import clustered
from emotion_circuits.model import HookedModel
from emotion_circuits.progress import progress
from emotion_circuits.replies import Replies


def check_directions(
    model: HookedModel,
    samples: object,
    directions: EmotionDirections | None = None,
    *,
    unnamed: object = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> EmotionDirections:
    """The directions with every test of their quality that these samples allow.

    Args:
        model: the model.
        samples: instructed prompts, usually the accepted replies that the directions were fitted on. With replies,
            prompt and reply are compared too.
        directions: what to test; fitted on ``samples`` by default.
        unnamed: prompts for the same items that ask for the emotions without naming them, e.g. in the style
            ``"described"``.
        batch_size: rows in a batch.
        seed: of the random halves.

    Returns:
        The same directions; their ``quality`` holds the tests, and everything made with them carries the flags.

    Raises:
        DataError: no group has every emotion.
        EmotionError: an emotion has no sample.
    """
    prompts = as_prompts(samples)
    again = fit_directions(model, prompts, directions and directions.emotions, batch_size=batch_size, seed=seed)
    tested = directions or again
    tests = [] if directions is None else [refit_test(tested, again)]
    if len({prompt.theme for prompt in prompts}) > 1:
        tests.append(theme_test(model, prompts, tested, batch_size=batch_size))
    if unnamed is not None:
        other = fit_directions(model, unnamed, tested.emotions, batch_size=batch_size)
        tests.append(agreement_test("named and unnamed", tested, other))
    if isinstance(samples, Replies):
        other = fit_directions(model, samples, tested.emotions, positions="generated", batch_size=batch_size)
        tests.append(agreement_test("prompt and reply", tested, other))
    return tested.tested(*tests)


def refit_test(tested: EmotionDirections, again: EmotionDirections) -> QualityTest:
    """Whether directions are those of these samples."""
    return QualityTest("refit", tuple(_cosines(tested, again).tolist()), RELIABLE)


def agreement_test(name: str, tested: EmotionDirections, other: EmotionDirections) -> QualityTest:
    """Whether directions measured in another way are the same, corrected for the noise of both."""
    layers = tested.stable_layers()
    noise = [reliability(held.split_half[:, layers]) for held in (tested, other)]
    ceiling = (noise[0].clamp(min=0) * noise[1].clamp(min=0)).sqrt()
    values = torch.where(ceiling > 0, _cosines(tested, other) / ceiling, torch.nan).clamp(-1, 1)
    return QualityTest(name, tuple(values.tolist()), AGREES, flags=False)


def theme_test(
    model: HookedModel, prompts: list[Prompt], tested: EmotionDirections, *, batch_size: int | None = None
) -> QualityTest:
    """Accuracy on each theme of directions that were fitted on the others, by emotion."""
    emotions, layers = tested.emotions, tested.stable_layers()
    kept = [prompts[i] for i in complete_groups(prompts, emotions)]
    themes = list(dict.fromkeys(prompt.theme for prompt in kept))
    spots = [(themes.index(prompt.theme), emotions.index(str(prompt.emotion))) for prompt in kept]
    sigma = tested.sigma[:, layers].double().unsqueeze(-1)
    counts = torch.zeros(len(themes), len(emotions), 1, 1, 1, dtype=torch.float64)
    sums = torch.zeros(len(themes), len(emotions), *sigma.shape[:-1], tested.vectors.shape[-1], dtype=torch.float64)
    for i, x in _samples(model, kept, layers, batch_size):
        sums[spots[i]] += x / sigma
        counts[spots[i]] += 1
    distributed.add(sums, counts)
    rest = (sums.sum(dim=0) - sums) / (counts.sum(dim=0) - counts).clamp(min=1)  # theme emotion site layer d_model
    centre = rest.mean(dim=1, keepdim=True)
    vectors = torch.nn.functional.normalize(rest - centre, dim=-1)
    nearest: dict[int, Tensor] = {}
    for i, x in _samples(model, kept, layers, batch_size):
        theme = spots[i][0]
        nearest[i] = ((x / sigma - centre[theme]) * vectors[theme]).sum(dim=(1, 2, 3)).argmax()
    hits: list[list[bool]] = [[] for _ in emotions]
    items: list[list[object]] = [[] for _ in emotions]
    for i, found in sorted(distributed.merge(nearest).items()):
        emotion = spots[i][1]
        hits[emotion].append(int(found) == emotion)
        items[emotion].append(kept[i].item)
    chance = 1 / len(emotions)
    return QualityTest(
        "leave one theme out",
        tuple(sum(held) / len(held) for held in hits),
        chance + ABOVE_CHANCE * (1 - chance),
        intervals=tuple(clustered(held, of) for held, of in zip(hits, items, strict=True)),
    )


def _samples(
    model: HookedModel, prompts: list[Prompt], layers: list[int], batch_size: int | None
) -> Iterator[tuple[int, Float[Tensor, "2 layer d_model"]]]:
    """Each prompt's index and residuals at its last token; of the prompts that are this process's."""
    with progress("themes", len(prompts), shared=True) as advance:
        for batch, values in model.stream(prompts, RESIDUAL_SITES, batch_size=batch_size, shared=True):
            held = torch.stack([values[site][layers] for site in RESIDUAL_SITES]).double().cpu()
            yield from ((sample, held[:, :, row]) for row, sample in enumerate(batch.samples.tolist()))
            advance(len(batch))


def _cosines(a: EmotionDirections, b: EmotionDirections) -> Float[Tensor, " emotion"]:
    layers = a.stable_layers()
    return (a.vectors[:, layers].double() * b.vectors[:, layers].double()).sum(dim=-1).mean(dim=(0, 1))
