"""Targets: the number that attribution explains and patching moves.

A target reads the residual at its ``readout``, and, where that makes sense, names the direction along which a write
at a given sublayer counts (`local`). Any frozen object with these members is a target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.errors import ModelError
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
    """

    emotion: str | None
    resid_mid: Float[Tensor, "layer d_model"]
    resid_post: Float[Tensor, "layer d_model"]
    reference: Float[Tensor, " d_model"]

    @property
    def readout(self) -> Readout:
        return "resid_post", -1

    def local(self, model: HookedModel, site: Site, layer: int) -> Float[Tensor, " d_model"]:
        return (self.resid_mid if site == "resid_mid" else self.resid_post)[layer]

    def __call__(self, model: HookedModel, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        return model.final_norm(resid).float() @ self.reference.to(resid.device)

    def __sub__(self, other: DirectionTarget) -> DirectionTarget:
        """The contrast of two emotions: how much more the one is written than the other."""
        return DirectionTarget(
            self.emotion,
            self.resid_mid - other.resid_mid,
            self.resid_post - other.resid_post,
            self.reference - other.reference,
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


def samples_of(target: Target, prompts: Any) -> list[int]:
    """Indices of the prompts that are a target's samples: those asking for its emotion, or all if none does."""
    chosen = [i for i, prompt in enumerate(prompts) if target.emotion is not None and prompt.emotion == target.emotion]
    return chosen or list(range(len(prompts)))


def stacked_local(model: HookedModel, target: Target, site: Site) -> Float[Tensor, "layer d_model"]:
    """`Target.local` of every layer."""
    return torch.stack([target.local(model, site, layer) for layer in range(model.dims.n_layers)])
