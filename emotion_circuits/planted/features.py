r"""Features: the directions of the residual stream that a planted model reads and writes.

1. Core features are orthonormal and lie under a random rotation: the constant, flags, steps of the reply, topics, and
   four per emotion, ``name`` (at the instruction's word), ``heard`` (carried to the newest token), ``relay`` (the
   indirect path) and ``felt`` (what the unembedding reads).
2. Superposition s tilts heard, relay and felt: :math:`\sqrt{1-s^2}\,f + s\,u` with u random.
3. Distractors get directions of their own outside the core, tilted into it in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.planted.language import N_TOPICS, STEPS
from emotion_circuits.types import EKMAN

D_MODEL = 96
ROLES = ("name", "heard", "relay", "felt")


@dataclass(frozen=True, eq=False)
class Features:
    """Unit vectors.

    Attributes:
        constant: in every token.
        asked: at the instruction's emotion word.
        sink: at the system role, where attention rests when there is no emotion word.
        replying: at the newest token of a reply, the prompt's last token included.
        content: at scenario words.
        absent: nowhere.
        steps: which word of the reply comes next; the last one is the end.
        topics: of scenario words.
        emotions: by role and emotion.
        outside: a basis of what is left.
        superposition: cosine of the tilt.
        generator: of the directions still to be drawn.
    """

    constant: Float[Tensor, " d_model"]
    asked: Float[Tensor, " d_model"]
    sink: Float[Tensor, " d_model"]
    replying: Float[Tensor, " d_model"]
    content: Float[Tensor, " d_model"]
    absent: Float[Tensor, " d_model"]
    steps: Float[Tensor, "step d_model"]
    topics: Float[Tensor, "topic d_model"]
    emotions: Float[Tensor, "role emotion d_model"]
    outside: Float[Tensor, "rest d_model"]
    superposition: float
    generator: torch.Generator

    @classmethod
    def draw(cls, superposition: float, generator: torch.Generator) -> Features:
        """All features of one model."""
        basis = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=generator, dtype=torch.float64))[0].float()
        sizes = [1] * 6 + [STEPS + 1, N_TOPICS, len(ROLES) * len(EKMAN)]
        *parts, outside = basis.split([*sizes, D_MODEL - sum(sizes)])
        emotions = parts[8].view(len(ROLES), len(EKMAN), D_MODEL).clone()
        random = torch.randn(emotions[1:].shape, generator=generator)
        emotions[1:] = tilt(emotions[1:], random, superposition)
        constant, asked, sink, replying, content, absent = (part[0] for part in parts[:6])
        return cls(
            constant, asked, sink, replying, content, absent, parts[6], parts[7], emotions, outside,
            superposition, generator,
        )  # fmt: skip

    def of(self, role: str, emotion: int) -> Float[Tensor, " d_model"]:
        """One feature of one emotion."""
        return self.emotions[ROLES.index(role), emotion]

    def elsewhere(self) -> Float[Tensor, " d_model"]:
        """A new direction outside the core, tilted by the superposition."""
        own = torch.randn(len(self.outside), generator=self.generator) @ self.outside
        return tilt(own / own.norm(), torch.randn(D_MODEL, generator=self.generator), self.superposition)


def tilt(
    vectors: Float[Tensor, "*batch d_model"], towards: Float[Tensor, "*batch d_model"], cosine: float
) -> Float[Tensor, "*batch d_model"]:
    """Unit ``vectors`` turned towards others, which need not be of unit length."""
    towards = towards / towards.norm(dim=-1, keepdim=True)
    tilted = math.sqrt(1 - cosine**2) * vectors + cosine * towards
    return tilted / tilted.norm(dim=-1, keepdim=True)
