r"""Samples in a plane, layer by layer: do the emotions part, and where? (method.md, stage 2)

1. The plane of a layer is spanned by the first two principal axes of its emotion directions.
2. A sample's residual is projected on both axes, and its group's mean over emotions is taken away: what the text itself
   does is gone, as it is from the directions. (Projecting first is the same, since both steps are linear.)
3. Principal axes are free to turn. Each layer's plane is turned onto that of the layer before it, so that the emotions'
   centres stay where they were as far as they can, and an animation over layers shows what the model does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.data.prompts import Prompt, as_prompts
from emotion_circuits.directions.result import EmotionDirections
from emotion_circuits.directions.statistics import complete_groups
from emotion_circuits.model import HookedModel
from emotion_circuits.model.batching import by_sample

if TYPE_CHECKING:
    import pandas as pd


def project_samples(
    model: HookedModel,
    prompts: object,
    directions: EmotionDirections,
    layers: Iterable[int] | None = None,
    *,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Where each sample lies in the plane of its layer's emotion directions.

    Args:
        model: the model.
        prompts: prompts or replies; those of groups that have every emotion are used.
        directions: of this model.
        layers: all by default.
        batch_size: rows in a batch.

    Returns:
        One row per layer and sample: ``layer, emotion, x, y, item, valence, text``; x and y in residual units.

    Raises:
        DataError: no group is complete.
    """
    import pandas as pd

    asked = as_prompts(prompts)
    used = [asked[i] for i in complete_groups(asked, directions.emotions)]
    chosen = [layer % directions.n_layers for layer in (range(directions.n_layers) if layers is None else layers)]
    vectors = directions.vectors[1, chosen].float()
    axes = _planes(vectors)

    def place(residual: Tensor) -> Float[Tensor, "batch layer 2"]:
        pattern = "layer batch d, layer component d -> batch layer component"
        return einsum(residual[chosen].float(), axes.to(residual.device), pattern).cpu()

    stream = model.stream(used, ("resid_post",), batch_size=batch_size, shared=True)
    placed = by_sample((batch, place(values["resid_post"])) for batch, values in stream)
    points = _centred(torch.stack(placed, dim=1), used)
    return pd.concat([_rows(layer, points[i], used) for i, layer in enumerate(chosen)], ignore_index=True)


def _planes(vectors: Float[Tensor, "layer emotion d_model"]) -> Float[Tensor, "layer 2 d_model"]:
    """Two orthonormal axes for each layer, turned onto those of the layer before."""
    axes = torch.linalg.svd(vectors, full_matrices=False).Vh[:, :2]
    for i in range(1, len(axes)):
        centres, before = vectors[i] @ axes[i].T, vectors[i - 1] @ axes[i - 1].T
        # Orthogonal Procrustes: the rotation (or reflection) that takes these centres closest to the last ones.
        left, _, right = torch.linalg.svd(centres.T @ before)
        axes[i] = (left @ right).T @ axes[i]
    return axes


def _centred(points: Float[Tensor, "layer sample 2"], prompts: list[Prompt]) -> Float[Tensor, "layer sample 2"]:
    groups = {group: i for i, group in enumerate(dict.fromkeys(prompt.group for prompt in prompts))}
    place = torch.tensor([groups[prompt.group] for prompt in prompts])
    sums = points.new_zeros(len(points), len(groups), 2).index_add(1, place, points)
    counts = torch.bincount(place, minlength=len(groups)).float()
    return points - (sums / counts[None, :, None])[:, place]


def _rows(layer: int, points: Float[Tensor, "sample 2"], prompts: list[Prompt]) -> pd.DataFrame:
    import pandas as pd

    columns = {
        "layer": layer, "emotion": [p.emotion for p in prompts], "x": points[:, 0].tolist(), "y": points[:, 1].tolist(),
        "item": [p.item for p in prompts], "valence": [p.valence for p in prompts],
        "text": [p.messages[-1][1] if p.messages else p.text for p in prompts],
    }  # fmt: skip
    return pd.DataFrame(columns)
