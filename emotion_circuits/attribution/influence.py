r"""Sublayer influence: what a push at a sublayer does to the end (method.md, stage 6).

1. Run each uninstructed prompt once.
2. At sublayer s and strength :math:`\alpha`, add :math:`\alpha\,\sigma_s\,v_{s,e}` to the last token's residual
   (:math:`\sigma_s` its mean rms, v sign-aligned with the reference vector).
3. :math:`I_{s,e}` = change of :math:`h_\text{final} \cdot v_\text{ref}`, divided by :math:`\alpha\,\sigma_s`; mean
   over samples and strengths. In bfloat16 much of a small push is lost when it is added, so what is divided by is the
   part of it that arrived: the change of :math:`r_s \cdot v_{s,e}`, which in float32 is :math:`\alpha\,\sigma_s`.

All (sublayer, strength, emotion) variants of a batch go up together as suffix passes, which is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import artefacts, distributed
from emotion_circuits.attribution.sums import some_prompts
from emotion_circuits.checked import build
from emotion_circuits.data.prompts import check_emotions
from emotion_circuits.directions.result import RESIDUAL_SITES, EmotionDirections
from emotion_circuits.errors import ArtefactError, ModelError, PatchError
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.suffix import Edit, SuffixRun
from emotion_circuits.model.writes import precise, precisely
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

    Raises:
        DataError: there are no prompts.
        PatchError: a strength is zero or no number, or there is none.
        ArtefactError: the directions are of a model of another shape.
        ModelError: a push is too small for the model's dtype.
    """
    asked = some_prompts(prompts)
    _check(model, directions, strengths)
    reference = torch.stack([directions.reference(emotion) for emotion in directions.emotions])
    push = _Pushes.of(directions, reference, strengths)
    total = torch.zeros(len(strengths), 2, model.dims.n_layers, len(directions.emotions), dtype=torch.float64)
    squares = torch.zeros_like(total[0])

    def work(batch: TokenBatch) -> Tensor:
        return _influence(model, SuffixRun(model, batch), push, reference).double()

    with progress("influence", len(asked), shared=True) as advance:
        for batch, influence in model.run_batches(asked, work, batch_size, stage="influence", shared=True):
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


def _check(model: HookedModel, directions: EmotionDirections, strengths: Sequence[float]) -> None:
    if not strengths or not all(math.isfinite(strength) and strength for strength in strengths):
        raise PatchError(
            f"influence is measured per unit of push, which strengths {tuple(strengths)} do not give; they must be "
            f"numbers other than 0, e.g. {STRENGTHS}"
        )
    given, own = (directions.n_layers, directions.vectors.shape[-1]), (model.dims.n_layers, model.dims.d_model)
    if given != own:
        raise ArtefactError(
            f"the directions are of a model of {given[0]} layers and d_model {given[1]}, and {model.name} has "
            f"{own[0]} and {own[1]}; fit them on this model, with fit_directions"
        )


@dataclass(frozen=True, eq=False)
class _Pushes:
    """What is added at every sublayer; variants run over strengths, then emotions.

    Attributes:
        along: each emotion's unit direction, sign-aligned with its reference vector.
        sizes: length of each variant's push, negative where it points the other way.
    """

    along: Float[Tensor, "2 layer emotion d_model"]
    sizes: Float[Tensor, "2 layer variant"]

    @classmethod
    def of(
        cls, directions: EmotionDirections, reference: Float[Tensor, "emotion d_model"], strengths: Sequence[float]
    ) -> _Pushes:
        signs = torch.where((directions.vectors * reference).sum(-1, keepdim=True) < 0, -1.0, 1.0)
        each = torch.tensor(strengths).repeat_interleave(len(directions.emotions))
        return cls(signs * directions.vectors, directions.sigma[..., None] * each)


@torch.no_grad()
def _influence(
    model: HookedModel, run: SuffixRun, push: _Pushes, reference: Float[Tensor, "emotion d_model"]
) -> Float[Tensor, "batch strength 2 layer emotion"]:
    n_sites, n_layers, n_variants = push.sizes.shape
    n_emotions, n_samples = len(reference), len(run.batch)
    arrived = torch.empty(n_samples, n_sites, n_layers, n_variants)

    def adds(s: int, layer: int):
        def function(resid: Tensor, variants: Tensor) -> Tensor:
            along = push.along[s, layer].to(resid.device)[variants % n_emotions]
            sizes = push.sizes[s, layer].to(resid.device)[variants]
            new = resid + (sizes[:, None] * along).to(resid.dtype)
            moved = precise(new) - precise(resid)
            kept = einsum(moved, along.to(moved.dtype), "batch variant d_model, variant d_model -> batch variant")
            # A direction is zero where no emotion shows; nothing is pushed then, and nothing lost.
            length = along.square().sum(-1)
            share = torch.where(length > 0, kept.float() / (sizes * length), 1.0)
            arrived[:, s, layer, variants.cpu()] = (sizes * share).cpu()
            return new

        return function

    edits = [
        Edit(RESIDUAL_SITES[s], layer, n_variants, adds(s, layer)) for s in range(n_sites) for layer in range(n_layers)
    ]
    vectors = reference.to(run.final().device)
    before = precisely(model.final_norm, run.final()).float() @ vectors.T  # batch emotion
    change = torch.empty(n_samples, len(edits) * n_variants)
    for places, final in run.stream(edits):
        after = precisely(model.final_norm, final).float() @ vectors.T  # batch variant emotion
        emotion = places % n_emotions
        chosen = after.gather(2, emotion[None, :, None].expand(len(after), -1, 1))[..., 0]
        change[:, places.cpu()] = (chosen - before[:, emotion]).cpu()
    _check_arrived(model, arrived, push)
    shaped = (change.view_as(arrived) / arrived).unflatten(-1, (n_variants // n_emotions, n_emotions))
    return shaped.permute(0, 3, 1, 2, 4)


def _check_arrived(model: HookedModel, arrived: Float[Tensor, "batch 2 layer variant"], push: _Pushes) -> None:
    lost = (arrived * push.sizes.sign() <= 0) & (push.sizes != 0)
    if bool(lost.any()):
        layer = int(lost.nonzero()[0, 2])
        raise ModelError(
            f"nothing of a push at layer {layer} is left once it is added in {model.dtype}; use larger strengths, or "
            "load the model with dtype='float32'"
        )
