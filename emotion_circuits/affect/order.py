r"""Circular order: do neighbours on a hypothesised circle lie closest in the model?

The randomisation test of hypothesised order relations (RTHOR; Hubert and Arabie 1987, Tracey 1997):

1. a circle predicts that any two labels that are closer on it than two others are more alike: for each pair of pairs
   with :math:`\delta_{ab} < \delta_{cd}` that :math:`\cos(v_a, v_b) > \cos(v_c, v_d)`;
2. the correspondence index is (predictions met - predictions violated) / predictions: 1 is a perfect circle, 0 chance;
3. p is the share of orders of the labels that reach it.

It needs no plane to be chosen, and nothing is fitted. With six labels p cannot be smaller than 12/720 = 0.017, since
turning or mirroring a circle changes nothing, and with five labels or fewer it cannot reach 0.05 by much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.affect.permutations import orders, p_value
from emotion_circuits.errors import EmotionError

_CHUNK = 2048


@dataclass(frozen=True)
class CircularOrder:
    """The test of one hypothesised circle.

    Attributes:
        expected: the labels in the order of the circle.
        index: correspondence index, from -1 to 1.
        p: share of orders that reach it.
        least_p: the smallest p that so many labels can give.
        n_predictions: pairs of pairs compared.
    """

    expected: tuple[str, ...]
    index: float
    p: float
    least_p: float
    n_predictions: int

    def __repr__(self) -> str:
        circle = " ".join(self.expected)
        return f"CircularOrder({circle}: correspondence {self.index:.2f}, p = {self.p:.3f} (least {self.least_p:.3f}))"


def circular_order(
    emotions: Sequence[str], similarity: Float[Tensor, "emotion emotion"], angles: Mapping[str, float] | None = None,
    *, seed: int = 0,
) -> CircularOrder:  # fmt: skip
    """Test whether labels lie on a circle in a given order.

    Args:
        emotions: the labels.
        similarity: of every two of them.
        angles: where each is expected on the circle, in radians; equally spaced in the order of ``emotions`` by
            default.
        seed: of random orders, where there are too many to try all.

    Raises:
        EmotionError: fewer than four labels have an angle.
    """
    n = len(emotions)
    expected = angles or {emotion: 2 * torch.pi * i / n for i, emotion in enumerate(emotions)}
    kept = [emotion for emotion in emotions if emotion in expected]
    if len(kept) < 4:
        raise EmotionError(f"a circular order needs four labels with an angle, got {', '.join(kept) or 'none'}")
    places = [list(emotions).index(emotion) for emotion in kept]
    held = similarity.double()[places][:, places]
    theta = torch.tensor([float(expected[emotion]) for emotion in kept], dtype=torch.float64)
    closer, further = _predictions(theta)
    tried = orders(len(kept), seed=seed)
    scores = torch.cat([_correspondence(held, part, closer, further) for part in tried.split(_CHUNK)])
    circle = tuple(kept[int(i)] for i in (theta % (2 * torch.pi)).argsort())
    return CircularOrder(circle, float(scores[0]), p_value(scores), _least_p(theta, tried), len(closer))


def _distance(theta: Float[Tensor, " emotion"]) -> Float[Tensor, "emotion emotion"]:
    apart = (theta[:, None] - theta[None]).abs() % (2 * torch.pi)
    return torch.minimum(apart, 2 * torch.pi - apart)


def _predictions(theta: Float[Tensor, " emotion"]) -> tuple[Tensor, Tensor]:
    """Pairs of labels that should be more alike, and the pairs that they should be more alike than."""
    pairs = torch.combinations(torch.arange(len(theta)))
    distance = _distance(theta)[pairs[:, 0], pairs[:, 1]]
    first, second = torch.nonzero(distance[:, None] < distance[None] - 1e-9, as_tuple=True)
    return pairs[first], pairs[second]


def _correspondence(similarity: Tensor, tried: Tensor, closer: Tensor, further: Tensor) -> Float[Tensor, " order"]:
    a = similarity[tried[:, closer[:, 0]], tried[:, closer[:, 1]]]
    b = similarity[tried[:, further[:, 0]], tried[:, further[:, 1]]]
    return (a - b).sign().mean(dim=1)


def _least_p(theta: Float[Tensor, " emotion"], tried: Tensor) -> float:
    """Share of orders that leave the expected distances as they are: no similarity can tell these apart."""
    distance = _distance(theta)
    n = len(theta)
    same = torch.ones(len(tried), dtype=torch.bool)
    for i in range(n):
        for j in range(i):
            same &= (distance[tried[:, i], tried[:, j]] - distance[i, j]).abs() < 1e-9
    return float(same.double().mean())
