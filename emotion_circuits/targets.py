"""Targets: the number that attribution explains and patching moves.

A target reads the residual at its ``readout``, and, where that makes sense, names the direction along which a write
at a given sublayer counts (`local`). Any frozen object with these members is a target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import distributed
from emotion_circuits.data.prompts import Prompt, as_prompts
from emotion_circuits.errors import DataError, EmotionError, ModelError
from emotion_circuits.model.writes import precisely
from emotion_circuits.progress import progress
from emotion_circuits.types import Site, as_site

if TYPE_CHECKING:
    from emotion_circuits.model import HookedModel

Readout = tuple[Site, int]


@runtime_checkable
class Target(Protocol):
    """See the module's docstring."""

    @property
    def emotion(self) -> str | None:
        """The emotion it measures; prompts that ask for another one are not its samples."""
        ...

    @property
    def readout(self) -> Readout:
        """Site and layer (negative counts from the end) of the residual that it reads."""
        ...

    def local(self, model: HookedModel, site: Site, layer: int) -> Float[Tensor, " d_model"]:
        """The direction along which a write before ``site`` of ``layer`` counts."""
        ...

    def __call__(self, model: HookedModel, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """The target's value for residuals at its readout."""
        ...


@dataclass(frozen=True, eq=False)
class DirectionTarget:
    r"""How strongly an emotion is written (method.md, stages 4 and 6).

    Locally, along the unit direction of the sublayer; as a whole, :math:`h_\text{final} \cdot v_\text{ref}` with
    :math:`h_\text{final}` the final normed residual.

    Attributes:
        emotion: the emotion.
        resid_mid: unit direction after each attention.
        resid_post: unit direction after each MLP.
        reference: the reference vector.
        flags: why the direction is not to be trusted, if it failed a test of its own reliability.
    """

    emotion: str | None
    resid_mid: Float[Tensor, "layer d_model"]
    resid_post: Float[Tensor, "layer d_model"]
    reference: Float[Tensor, " d_model"]
    flags: tuple[str, ...] = ()

    @property
    def readout(self) -> Readout:
        return "resid_post", -1

    def local(self, model: HookedModel, site: Site, layer: int) -> Float[Tensor, " d_model"]:
        return (self.resid_mid if site == "resid_mid" else self.resid_post)[layer]

    def __call__(self, model: HookedModel, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        return precisely(model.final_norm, resid).float() @ self.reference.to(resid.device)

    def __sub__(self, other: DirectionTarget) -> DirectionTarget:
        """The contrast of two emotions: how much more the one is written than the other."""
        return DirectionTarget(
            self.emotion,
            self.resid_mid - other.resid_mid,
            self.resid_post - other.resid_post,
            self.reference - other.reference,
            (*self.flags, *other.flags),
        )


@dataclass(frozen=True, eq=False)
class Projection:
    """The residual's projection on one vector at one sublayer, without any norm: linear in every write below it.

    Attributes:
        vector: what is projected on; not scaled.
        site: ``"resid_post"`` or ``"resid_mid"``.
        layer: the layer; the last by default.
        emotion: the emotion, if it is one's.
    """

    vector: Float[Tensor, " d_model"]
    site: Site = "resid_post"
    layer: int = -1
    emotion: str | None = None

    @property
    def readout(self) -> Readout:
        return as_site(self.site), self.layer

    def local(self, model: HookedModel, site: Site, layer: int) -> Float[Tensor, " d_model"]:
        return self.vector

    def __call__(self, model: HookedModel, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        return resid.to(self.vector.dtype) @ self.vector.to(resid.device)


@dataclass(frozen=True)
class LogitDifference:
    """Mean logit of some tokens minus the mean logit of others, for the next token.

    Attributes:
        tokens: token ids counted for.
        against: token ids counted against.
        emotion: the emotion, if it is one's.
    """

    tokens: tuple[int, ...]
    against: tuple[int, ...] = ()
    emotion: str | None = None

    def __post_init__(self) -> None:
        if not self.tokens:
            raise DataError("a logit difference needs at least one token to count for; give LogitDifference((id, ...))")

    @property
    def readout(self) -> Readout:
        return "resid_post", -1

    def local(self, model: HookedModel, site: Site, layer: int) -> Float[Tensor, " d_model"]:
        """The unembedding's difference, seen through the final norm's weights but not its scale."""
        weight = model.hf.get_output_embeddings().weight
        difference = weight[list(self.tokens)].mean(dim=0)
        if self.against:
            difference = difference - weight[list(self.against)].mean(dim=0)
        return model.norm_weight(model.final_norm) * difference

    def __call__(self, model: HookedModel, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        logits = model.unembed(resid, (*self.tokens, *self.against)).float()
        value = logits[..., : len(self.tokens)].mean(dim=-1)
        return value - logits[..., len(self.tokens) :].mean(dim=-1) if self.against else value


@dataclass(frozen=True, eq=False)
class SaidTarget:
    r"""What is said next under one emotion and not under the others, without a list of words (`said_targets`).

    .. math:: t = \sum_w \bigl(p_e(w) - \bar p_{e' \neq e}(w)\bigr)\,\text{logit}_w

    with p the mean distribution of the first token of the reply. A `DirectionTarget` asks what is *written*, of which
    later layers and the unembedding may read only a part. Biases and caps of the logits are left out.

    Attributes:
        emotion: the emotion.
        vector: the unembedding's sum over tokens, weighted as above; it meets the final normed residual.
        tokens: ids of the tokens that the emotion makes likelier, most of all first.
    """

    emotion: str
    vector: Float[Tensor, " d_model"]
    tokens: tuple[int, ...] = ()

    @property
    def readout(self) -> Readout:
        return "resid_post", -1

    def local(self, model: HookedModel, site: Site, layer: int) -> Float[Tensor, " d_model"]:
        """The vector, seen through the final norm's weights but not its scale."""
        weight = model.norm_weight(model.final_norm)
        return weight * self.vector.to(device=weight.device, dtype=weight.dtype)

    def __call__(self, model: HookedModel, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        return precisely(model.final_norm, resid).float() @ self.vector.to(resid.device)


@dataclass(frozen=True)
class ResidualFunction:
    """Any function of the residual at one sublayer; has no direction, so closed forms refuse it.

    Attributes:
        function: from ``[..., d_model]`` to ``[...]``.
        site: where it reads.
        layer: the layer; the last by default.
        emotion: the emotion, if it is one's.
    """

    function: Callable[[Tensor], Tensor]
    site: Site = "resid_post"
    layer: int = -1
    emotion: str | None = None

    @property
    def readout(self) -> Readout:
        return as_site(self.site), self.layer

    def local(self, model: HookedModel, site: Site, layer: int) -> Float[Tensor, " d_model"]:
        raise ModelError(
            "a ResidualFunction has no direction, so closed-form attribution cannot use it; use ActivationPatching or "
            "AttributionPatching"
        )

    def __call__(self, model: HookedModel, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        return self.function(resid)


def said_targets(
    model: HookedModel, prompts: object, *, n_tokens: int = 10, batch_size: int | None = None
) -> dict[str, SaidTarget]:
    """A `SaidTarget` for every emotion that the prompts ask for, from one pass over them.

    Args:
        model: the model.
        prompts: instructed prompts or accepted replies, of two emotions or more.
        n_tokens: how many tokens a target names.
        batch_size: rows in a batch.

    Raises:
        DataError: fewer than two emotions are asked for.
    """
    asked = as_prompts(prompts)
    emotions = check_contrast(asked)
    sums = torch.zeros(len(emotions), model.hf.get_output_embeddings().weight.shape[0], dtype=torch.float64)
    of_row = [emotions.index(p.emotion) if p.emotion is not None else -1 for p in asked]
    with progress("said", len(asked), shared=True) as advance, torch.no_grad():
        for batch, logits in model.run_batches(asked, lambda b: model.run(b).logits[:, -1], batch_size, shared=True):
            rows = [(row, of_row[i]) for row, i in enumerate(batch.samples.tolist()) if of_row[i] >= 0]
            said = logits.float().softmax(dim=-1).double().cpu()
            for row, slot in rows:
                sums[slot] += said[row]
            advance(len(batch))
    distributed.add(sums)
    means = sums / torch.tensor([of_row.count(slot) for slot in range(len(emotions))])[:, None]
    # p_e minus the mean over the others, from p_e minus the mean over all.
    shifts = (means - means.mean(dim=0)) * len(emotions) / (len(emotions) - 1)
    weight = model.hf.get_output_embeddings().weight.detach()
    return {
        emotion: SaidTarget(
            emotion,
            shift.to(device=weight.device, dtype=torch.float32) @ weight.float(),
            tuple(shift.argsort(descending=True)[:n_tokens].tolist()),
        )
        for emotion, shift in zip(emotions, shifts, strict=True)
    }


def check_contrast(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """The emotions that the prompts ask for, in order of appearance.

    Raises:
        DataError: fewer than two.
    """
    emotions = tuple(dict.fromkeys(prompt.emotion for prompt in prompts if prompt.emotion is not None))
    if len(emotions) < 2:
        raise DataError(
            f"the prompts ask for {emotions[0] if emotions else 'no emotion'} alone, so there is nothing to compare "
            "with; give the same scenarios under several emotions, or name a target and DirectAttribution()"
        )
    return emotions


def samples_of(target: Target, prompts: Any) -> list[int]:
    """Indices of the prompts that are a target's samples: those asking for its emotion.

    Where none does, those that ask for no emotion; all prompts for a target without an emotion.

    Raises:
        EmotionError: every prompt asks for another emotion.
    """
    if target.emotion is None:
        return list(range(len(prompts)))
    asking: dict[str | None, list[int]] = {}
    for i, prompt in enumerate(prompts):
        asking.setdefault(prompt.emotion, []).append(i)
    chosen = asking.get(target.emotion) or asking.get(None)
    if chosen is None and asking:
        raise EmotionError(
            f"none of the {len(prompts)} prompts asks for {target.emotion!r}; they ask for "
            f"{', '.join(map(str, asking))}. Give prompts that ask for {target.emotion!r} or for no emotion, or a "
            "target whose emotion is None, of which all prompts are samples"
        )
    return chosen or []


def stacked_local(model: HookedModel, target: Target, site: Site) -> Float[Tensor, "layer d_model"]:
    """`Target.local` of every layer."""
    return torch.stack([target.local(model, site, layer) for layer in range(model.dims.n_layers)])
