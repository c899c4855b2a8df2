"""Activations of a whole model at one token, and the contrast between two conditions.

`Activations`  one activation for every unit: a scalar per neuron, a ``d_head`` vector per head, a ``d_model`` vector
               per residual; e.g. the means to ablate with.
`Contrast`     what an emotion changes in them, measured where it will be added: at the last prompt token and, if
               wanted, at the reply's tokens (method.md, stages 5 and 7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import artefacts
from emotion_circuits.checked import build, parts
from emotion_circuits.errors import NodeError
from emotion_circuits.types import Site, as_site

Baseline = Literal["emotions", "uninstructed"]
"""What an emotion is compared with: the mean over all emotions, or the same prompts without an instruction."""


@dataclass(frozen=True, eq=False)
class Activations:
    """One activation for every unit of a model, at each site; ``None`` where a site was not measured."""

    neurons: Float[Tensor, "layer neuron"] | None = None
    heads: Float[Tensor, "layer head d_head"] | None = None
    resid_mid: Float[Tensor, "layer d_model"] | None = None
    resid_post: Float[Tensor, "layer d_model"] | None = None

    def at(self, site: Site | str, layer: int) -> Tensor:
        """The activation at one site of one layer.

        Raises:
            NodeError: nothing was measured there.
        """
        name = {"neuron": "neurons", "head": "heads"}.get(as_site(site), as_site(site))
        values = getattr(self, name, None)
        if values is None:
            raise NodeError(f"these activations hold nothing at site {site!r}; measure that site first")
        return values[layer]

    def map(self, function: Callable[[Tensor], Tensor]) -> Activations:
        """``function`` applied to every tensor held."""
        return Activations(*(None if v is None else function(v) for v in self._values()))

    def _values(self) -> list[Tensor | None]:
        return [getattr(self, field.name) for field in fields(self)]

    def _with(self, other: Activations, function: Callable[[Tensor, Tensor], Tensor]) -> Activations:
        pairs = zip(self._values(), other._values(), strict=True)
        return Activations(*(None if a is None or b is None else function(a, b) for a, b in pairs))

    def __add__(self, other: Activations) -> Activations:
        return self._with(other, torch.add)

    def __sub__(self, other: Activations) -> Activations:
        return self._with(other, torch.sub)

    def __mul__(self, factor: float) -> Activations:
        return self.map(lambda values: values * factor)

    __rmul__ = __mul__


@dataclass(frozen=True, eq=False)
class Contrast:
    """What one emotion changes in a model's activations.

    Attributes:
        emotion: the emotion.
        baseline: what it was compared with.
        prompt: mean difference at the last prompt token.
        reply: mean difference over the tokens of the model's own replies, or None to use ``prompt`` there too.
            A residual can be several times larger at the last prompt token than at reply tokens, so one difference
            for both is too big or too small.
    """

    emotion: str
    baseline: Baseline
    prompt: Activations
    reply: Activations | None = None

    def __mul__(self, factor: float) -> Contrast:
        reply = None if self.reply is None else self.reply * factor
        return Contrast(self.emotion, self.baseline, self.prompt * factor, reply)

    __rmul__ = __mul__

    def save(self, path: str | Path) -> None:
        """Write one file."""
        tensors = {
            f"{phase}.{field.name}": getattr(held, field.name)
            for phase, held in (("prompt", self.prompt), ("reply", self.reply))
            if held is not None
            for field in fields(held)
        }
        artefacts.save(path, "contrast", tensors, {"emotion": self.emotion, "baseline": self.baseline})

    @classmethod
    def load(cls, path: str | Path) -> Contrast:
        """Read what `save` wrote.

        Raises:
            ArtefactError: the file is damaged or something else.
        """
        tensors, meta = artefacts.load(path, "contrast")
        emotion, baseline = (artefacts.field(meta, name, path) for name in ("emotion", "baseline"))
        reply = parts("reply", tensors)
        held = {
            "emotion": emotion, "baseline": baseline,
            "prompt": build(Activations, path, parts("prompt", tensors)),
            "reply": build(Activations, path, reply) if reply else None,
        }  # fmt: skip
        return build(cls, path, held)
