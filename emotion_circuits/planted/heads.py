"""Writing attention heads: each looks from replying tokens at one kind of token, and copies features.

1. Query and key use the pair of dimensions that rotary embedding turns slowest, so distance does not matter.
2. ``value`` reads features into a head's own dimensions; ``o_proj`` writes other features from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.planted.features import D_MODEL, Features
from emotion_circuits.types import EKMAN

N_HEADS, D_HEAD = 6, 16
SLOWEST = D_HEAD // 2 - 1
RMS = 0.72  # of the residual's usual tokens; scales reads so that gates see numbers near 1
SHARP = 20.0  # attention score of what a head looks for
EMOTION_SIZE = 2.0  # of a feature at the token that brings it

Place = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Attention:
    """One layer's weights."""

    q: Float[Tensor, "row d_model"]
    k: Float[Tensor, "row d_model"]
    v: Float[Tensor, "row d_model"]
    o: Float[Tensor, "d_model row"]

    @classmethod
    def zeros(cls) -> Attention:
        rows = N_HEADS * D_HEAD
        q, k, v = torch.zeros(3, rows, D_MODEL).unbind()
        return cls(q, k, v, torch.zeros(D_MODEL, rows))

    def write(
        self,
        head: int,
        query: Float[Tensor, " d_model"],
        key: Float[Tensor, " d_model"],
        read: Float[Tensor, "feature d_model"],
        write: Float[Tensor, "feature d_model"],
    ) -> None:
        """Make ``head`` copy ``read`` at tokens with ``key`` to ``write`` at tokens with ``query``."""
        start, size = head * D_HEAD, len(read)
        gain = math.sqrt(SHARP * math.sqrt(D_HEAD)) * RMS / EMOTION_SIZE
        self.q[start + SLOWEST], self.k[start + SLOWEST] = gain * query, gain * key
        self.v[start : start + size] = read * RMS / EMOTION_SIZE
        self.o[:, start : start + size] = write.T


def places_of_carriers(n: int) -> list[Place]:
    """Layer and head of the planted heads: the first two layers in turn, so that neurons above can read them."""
    return [(i % 2, 1 + 2 * (i // 2)) for i in range(n)]


def write_heads(
    layers: Sequence[Attention], features: Features, carriers: Sequence[Place], scenario: float, circuit: bool
) -> None:
    """Carriers, and in the places between them heads that only look like carriers.

    - a pair in layer 0 that carries the scenario's topic, one half along the emotions and one against them;
    - in every layer one that would write what carriers write, but rests at the sink.
    """
    heard, name = features.emotions[1], features.emotions[0]
    lookup = features.asked + 0.5 * features.sink
    for layer, head in carriers if circuit else ():
        layers[layer].write(head, features.replying, lookup, name, EMOTION_SIZE / len(carriers) * heard)
    mix = torch.randn(len(features.topics), len(EKMAN), generator=features.generator) @ heard
    for head, sign in ((0, 1.0), (2, -1.0)):
        write = 1.5 * features.topics + sign * scenario * mix
        layers[0].write(head, features.replying, features.content, features.topics, write)
    for layer in layers:
        layer.write(4, features.replying, features.sink, name, 2 * EMOTION_SIZE * heard)
