r"""What an intervention does, as far as it is one factor and one shift: :math:`x \leftarrow f x + v`.

vLLM runs compiled graphs, which no hook of ours can enter. TransformerLens puts such a transform into the graph, at
the outputs of attention, MLP and layer, and lets its numbers be changed between forwards. An intervention that is no
such transform, or one that needs to know token or sample, cannot be expressed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.errors import PatchError
from emotion_circuits.interventions import (
    Clamp,
    CounterfactualPatch,
    Enhancement,
    GroupMeanAblation,
    Intervention,
    MeanAblation,
    ProjectOut,
    ResampleAblation,
    Scale,
    Scheduled,
    Steering,
    Where,
    ZeroAblation,
)

_PER_SAMPLE = "it gives each sample values of its own, and vLLM applies one transform to all requests"
_REASONS: dict[type, str] = {
    Clamp: "a bound is not a factor and a shift",
    Steering: "it adds a share of the residual's own norm; to add a constant use Enhancement with Activations of the "
    "residual",
    ProjectOut: "it mixes the residual's coordinates",
    Scheduled: "its strength follows the reply, and vLLM's transforms cannot know the token",
    ResampleAblation: _PER_SAMPLE,
    CounterfactualPatch: _PER_SAMPLE,
    GroupMeanAblation: _PER_SAMPLE,
}


@dataclass(frozen=True, eq=False)
class Affine:
    r""":math:`x \leftarrow f x + v`.

    Attributes:
        factor: f.
        shift: v, in float64.
    """

    factor: float
    shift: Float[Tensor, "..."]

    def then(self, after: Affine) -> Affine:
        """This transform, and another one after it."""
        return Affine(self.factor * after.factor, self.shift * after.factor + after.shift)

    def spec(self) -> dict[str, Any]:
        """The transform as one of TransformerLens's operations for vLLM.

        Raises:
            PatchError: it takes both a factor and a shift, which no operation has.
        """
        moves = bool(self.shift.any())
        if self.factor == 1.0:
            return {"op": "add", "value": self.shift.tolist()}
        if self.factor == 0.0:
            return {"op": "set", "value": self.shift.tolist()} if moves else {"op": "suppress"}
        if moves:
            raise PatchError(
                f"at this place a factor ({self.factor:g}) and a shift come together, and vLLM's operations are "
                "suppress, scale, add and set; leave one of them out, or generate with hooks"
            )
        return {"op": "scale", "factor": self.factor}


def affine_of(intervention: Intervention, where: Where, shape: tuple[int, ...], *, replying: bool) -> Affine:
    """An intervention as a transform of the selected units' activations.

    Args:
        intervention: what is done.
        where: which units.
        shape: of one token's activations of these units.
        replying: prompt and reply tokens are run alike, so they must be changed alike.

    Raises:
        PatchError: it is no such transform; says why.
    """
    like = torch.zeros(shape, dtype=torch.float64)
    match intervention:
        case ZeroAblation():
            return Affine(0.0, like)
        case Scale(factor):
            return Affine(float(factor), like)
        case MeanAblation(means):
            return Affine(0.0, like + where.take(means, like))
        case Enhancement():
            prompt, reply = (intervention.offset(where, like, generated=phase) for phase in (False, True))
            if replying and not torch.equal(prompt, reply):
                raise PatchError(
                    "the contrast has one part for prompt tokens and one for the reply's, and vLLM adds the same at "
                    "every token; give Enhancement one of them: contrast.prompt or contrast.reply"
                )
            return Affine(1.0, like + prompt)
    name = type(intervention).__name__
    reason = _REASONS.get(type(intervention), "it is not known to be a factor and a shift")
    raise PatchError(f"vLLM cannot express {name}: {reason}; generate with hooks (a HookedModel) instead")
