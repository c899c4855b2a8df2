r"""Sublayer influence: what a push at a sublayer does to the end (method.md, stage 6).

1. Run each uninstructed prompt once.
2. At sublayer s and strength :math:`\alpha`, add :math:`\alpha\,\sigma_s\,v_{s,e}` to the last token's residual
   (:math:`\sigma_s` its mean rms, v sign-aligned with the reference vector).
3. :math:`I_{s,e}` = change of :math:`h_\text{final} \cdot v_\text{ref}`, divided by :math:`\alpha\,\sigma_s`; mean
   over samples and strengths.

All (sublayer, strength, emotion) variants of a batch go up together as suffix passes, which is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import artefacts, distributed
from emotion_circuits.checked import build
from emotion_circuits.data.prompts import as_prompts, check_emotions
from emotion_circuits.directions.result import RESIDUAL_SITES, EmotionDirections
from emotion_circuits.errors import ArtefactError
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.suffix import Edit, SuffixRun
from emotion_circuits.progress import progress
from emotion_circuits.provenance import provenance

if TYPE_CHECKING:
    import pandas as pd

STRENGTHS = (0.1, 0.3, 0.5, 0.7)


@dataclass(frozen=True, eq=False)
class Influence:
    """Influence of every sublayer on every emotion.

    Attributes:
        emotions: order of the emotion axis.
        values: mean influence; the first axis is attention, MLP.
        std: standard deviation over samples, of the mean over strengths.
        by_strength: mean over samples at each strength.
        strengths: the strengths, as multiples of the residual's rms.
        n_samples: prompts averaged over.
        provenance: model, data and settings.
        flags: by emotion, why its direction is not to be trusted; empty where every one passed its own tests.
    """

    emotions: tuple[str, ...]
    values: Float[Tensor, "2 layer emotion"]
    std: Float[Tensor, "2 layer emotion"]
    by_strength: Float[Tensor, "strength 2 layer emotion"]
    strengths: tuple[float, ...]
    n_samples: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, emotion: str) -> Float[Tensor, "2 layer"]:
        """One emotion's influence: row 0 attention, row 1 MLP."""
        check_emotions([emotion], self.emotions, "this influence")
        return self.values[..., self.emotions.index(emotion)]

    def to_frame(self) -> pd.DataFrame:
        """One row per sublayer and emotion: ``layer, sublayer, emotion, influence, std``."""
        import pandas as pd

        rows = [
            {
                "layer": layer, "sublayer": sublayer, "emotion": emotion,
                "influence": float(self.values[s, layer, e]), "std": float(self.std[s, layer, e]),
            }
            for e, emotion in enumerate(self.emotions) for layer in range(self.values.shape[1])
            for s, sublayer in enumerate(("attention", "mlp"))
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def save(self, path: str | Path) -> None:
        """Write one file, tensors and provenance."""
        meta = {
            "emotions": self.emotions, "strengths": self.strengths, "n_samples": self.n_samples,
            "provenance": dict(self.provenance), "flags": dict(self.flags),
        }  # fmt: skip
        tensors = {"values": self.values, "std": self.std, "by_strength": self.by_strength}
        artefacts.save(path, "influence", tensors, meta)

    @classmethod
    def load(cls, path: str | Path) -> Influence:
        """Read what `save` wrote.

        Raises:
            ArtefactError: the file is damaged or something else.
        """
        tensors, meta = artefacts.load(path, "influence")
        held = {name: artefacts.field(tensors, name, path) for name in ("values", "std", "by_strength")}
        kept = {
            name: artefacts.field(meta, name, path) for name in ("emotions", "strengths", "n_samples", "provenance")
        }
        # Files of earlier versions have no flags.
        result = build(cls, path, held | kept | {"flags": meta.get("flags", {})})
        given, expected = result.by_strength.shape, (len(result.strengths), *result.values.shape)
        if given != expected or result.values.shape[2] != len(result.emotions):
            raise ArtefactError(f"{path} is damaged: its tensors do not have one entry per emotion and strength")
        return result


def sublayer_influence(
    model: HookedModel,
    prompts: object,
    directions: EmotionDirections,
    *,
    strengths: Sequence[float] = STRENGTHS,
    batch_size: int | None = None,
) -> Influence:
    """How strongly a push along each emotion's direction, at each sublayer, reaches the end.

    Args:
        model: the model.
        prompts: uninstructed prompts, e.g. ``train.prompts()``.
        directions: of this model.
        strengths: pushes, as multiples of the residual's rms (``directions.sigma``).
        batch_size: prompts run together; the result does not depend on it.

    Returns:
        Influence, in units of the reference vector per unit of push.
    """
    asked = as_prompts(prompts)
    reference = torch.stack([directions.reference(emotion) for emotion in directions.emotions])
    push = _pushes(directions, reference, strengths)
    total = torch.zeros(len(strengths), 2, model.dims.n_layers, len(directions.emotions), dtype=torch.float64)
    squares = torch.zeros_like(total[0])

    def changes(batch: TokenBatch) -> Tensor:
        return _changes(model, SuffixRun(model, batch), push, reference)

    with progress("influence", len(asked), shared=True) as advance:
        for batch, change in model.run_batches(asked, changes, batch_size, stage="influence", shared=True):
            scale = directions.sigma[None, None, :, :, None] * torch.tensor(strengths)[None, :, None, None, None]
            influence = (change / scale).double()  # batch strength site layer emotion
            total += influence.sum(dim=0)
            squares += influence.mean(dim=1).square().sum(dim=0)
            advance(len(batch))
    distributed.add(total, squares)
    n = len(asked)
    mean = total.mean(dim=0) / n
    return Influence(
        emotions=directions.emotions,
        values=mean.float(),
        std=(squares / n - mean.square()).clamp(min=0).sqrt().float(),
        by_strength=(total / n).float(),
        strengths=tuple(strengths),
        n_samples=n,
        provenance=provenance(model, asked, strengths=list(strengths)),
        flags=directions.quality.flagged,
    )


def _pushes(
    directions: EmotionDirections, reference: Float[Tensor, "emotion d_model"], strengths: Sequence[float]
) -> Float[Tensor, "2 layer variant d_model"]:
    aligned = torch.where((directions.vectors * reference).sum(-1, keepdim=True) < 0, -1.0, 1.0) * directions.vectors
    scaled = directions.sigma[..., None, None, None] * torch.tensor(strengths)[None, None, :, None, None]
    return (scaled * aligned[:, :, None]).flatten(2, 3)


@torch.no_grad()
def _changes(
    model: HookedModel, run: SuffixRun, push: Float[Tensor, "2 layer variant d_model"], reference: Tensor
) -> Float[Tensor, "batch strength 2 layer emotion"]:
    n_sites, n_layers, n_variants = push.shape[:3]
    device, dtype = run.final().device, run.final().dtype
    held = push.to(device=device, dtype=dtype)

    def adds(vectors: Tensor):
        return lambda resid, variants: resid + vectors[variants]

    edits = [
        Edit(RESIDUAL_SITES[s], layer, n_variants, adds(held[s, layer]))
        for s in range(n_sites)
        for layer in range(n_layers)
    ]
    vectors = reference.to(device)
    before = model.final_norm(run.final()).float() @ vectors.T  # batch emotion
    n_emotions, result = len(vectors), torch.empty(len(before), len(edits) * n_variants)
    for places, final in run.stream(edits):
        after = model.final_norm(final).float() @ vectors.T  # batch variant emotion
        emotion = places % n_emotions  # the variants of an edit run over strengths, then emotions
        chosen = after.gather(2, emotion[None, :, None].expand(len(after), -1, 1))[..., 0]
        result[:, places.cpu()] = (chosen - before[:, emotion]).cpu()
    shaped = result.view(len(before), n_sites, n_layers, n_variants // n_emotions, n_emotions)
    return shaped.permute(0, 3, 1, 2, 4)
