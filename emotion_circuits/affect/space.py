r"""The valence-arousal analysis of directions.

1. Take each emotion's reference vector and subtract the mean over emotions.
2. Principal axes: :math:`V = U S W^\top`; coordinates :math:`U S`, and the share of each axis.
3. Ridge from V to ratings of valence and of arousal, every label predicted from the others alone. The penalty is the
   mean eigenvalue of :math:`V V^\top`, which is fixed and not tuned: six labels allow no tuning.
4. The correlation of predictions and ratings, with Fisher's interval, and its p-value over all orders of the ratings.
   Predictions that leave one out are anticorrelated with the ratings when there is nothing to find, so it is p that
   decides, and not whether the interval holds zero.
5. The circular order (`order`).

With six labels all this is a sketch: the interval of a correlation of 0.9 reaches from 0.3 to 0.99.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.affect.order import CircularOrder, circular_order
from emotion_circuits.affect.permutations import orders, p_value
from emotion_circuits.data.labels import LabelSet
from emotion_circuits.directions.result import EmotionDirections
from emotion_circuits.intervals import Z95
from emotion_circuits.types import Site

if TYPE_CHECKING:
    import pandas as pd

LEAST = 4
"""Fewest rated labels that a regression is tried on."""


@dataclass(frozen=True)
class RatingFit:
    """Ratings predicted from directions, each label from the others.

    Attributes:
        rating: ``"valence"`` or ``"arousal"``.
        emotions: the rated labels.
        ratings: what people say.
        predictions: what the ridge says that has not seen the label.
        correlation: Pearson's, of predictions and ratings.
        interval: 95 %, by Fisher's transformation.
        p: share of orders of the ratings with as high a correlation.
    """

    rating: str
    emotions: tuple[str, ...]
    ratings: tuple[float, ...]
    predictions: tuple[float, ...]
    correlation: float
    interval: tuple[float, float]
    p: float

    def __repr__(self) -> str:
        low, high = self.interval
        what = f"r = {self.correlation:.2f} [{low:.2f}, {high:.2f}], p = {self.p:.3f}"
        return f"RatingFit({self.rating} of {len(self.emotions)} labels, leave one out: {what})"


@dataclass(frozen=True, eq=False)
class AffectSpace:
    """Emotions in the space that their directions span.

    Attributes:
        emotions: the labels.
        coordinates: on the principal axes, most important first.
        shares: of the variance between emotions, by axis.
        axes: unit vectors in the residual stream.
        fits: by rating; empty where too few labels have ratings.
        order: the test of the circle, or None where there is none to test.
        flags: flagged emotions, and why; what lies in the space rests on their directions too.
    """

    emotions: tuple[str, ...]
    coordinates: Float[Tensor, "emotion axis"]
    shares: Float[Tensor, " axis"]
    axes: Float[Tensor, "axis d_model"]
    fits: Mapping[str, RatingFit] = field(default_factory=dict)
    order: CircularOrder | None = None
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def angles(self) -> dict[str, float]:
        """Each emotion's angle in the plane of the first two axes, in radians."""
        plane = self.coordinates[:, :2]
        return dict(zip(self.emotions, torch.atan2(plane[:, 1], plane[:, 0]).tolist(), strict=True))

    def to_frame(self) -> pd.DataFrame:
        """One row per emotion: ``emotion, axis_1, axis_2, ..., flagged``, ratings and predictions where there are."""
        import pandas as pd

        table = pd.DataFrame({"emotion": self.emotions})
        for i, coordinate in enumerate(self.coordinates.T.tolist(), 1):
            table[f"axis_{i}"] = coordinate
        for name, fit in self.fits.items():
            for column, values in ((name, fit.ratings), (f"{name}_predicted", fit.predictions)):
                held = dict(zip(fit.emotions, values, strict=True))
                table[column] = [held.get(emotion, float("nan")) for emotion in self.emotions]
        table["flagged"] = [emotion in self.flags for emotion in self.emotions]
        return table

    def __repr__(self) -> str:
        shares = ", ".join(f"{100 * share:.0f} %" for share in self.shares[:2].tolist())
        parts = [
            f"axes {shares}",
            *(repr(fit) for fit in self.fits.values()),
            *([repr(self.order)] if self.order else []),
        ]
        flagged = f"; FLAGGED: {', '.join(self.flags)}" if self.flags else ""
        return f"AffectSpace({len(self.emotions)} emotions: {'; '.join(parts)}{flagged})"


def affect_space(
    directions: EmotionDirections, labels: LabelSet | None = None, *, layer: int | None = None,
    site: Site | str = "resid_post", seed: int = 0,
) -> AffectSpace:  # fmt: skip
    """Principal axes of the directions, how they go with valence and arousal, and their circular order.

    Args:
        directions: from `fit_directions`.
        labels: ratings and, if it is circular, the order to test; the shipped six by default. Without a circular
            set the angles of valence and arousal are tested.
        layer: one layer's directions; the reference vectors by default.
        site: of that layer.
        seed: of random orders, where there are too many to try all.

    Raises:
        EmotionError: an emotion has no direction.
    """
    labels = labels or LabelSet.load("ekman")
    vectors = [directions.reference(e) if layer is None else directions.of(e, site)[layer] for e in directions.emotions]
    held = torch.stack(vectors).double()
    centred = held - held.mean(dim=0)
    u, s, axes = torch.linalg.svd(centred, full_matrices=False)
    n_axes = max(1, min(len(vectors) - 1, len(s)))
    variance = s.square()
    fits = {name: _fit(name, centred, directions.emotions, labels, seed) for name in ("valence", "arousal")}
    return AffectSpace(
        directions.emotions,
        (u * s)[:, :n_axes],
        (variance / variance.sum().clamp(min=1e-30))[:n_axes],
        axes[:n_axes],
        {name: fit for name, fit in fits.items() if fit is not None},
        _order(centred, directions.emotions, labels, seed),
        directions.quality.flagged,
    )


def leave_one_out(
    gram: Float[Tensor, "label label"], ratings: Float[Tensor, "order label"]
) -> Float[Tensor, "order label"]:
    """Ridge predictions of each label from the others, for several orders of the ratings at once.

    Args:
        gram: inner products of the labels' vectors.
        ratings: one row per order.
    """
    n = len(gram)
    penalty = gram.diagonal().mean()
    predictions = torch.empty_like(ratings)
    for i in range(n):
        rest = [j for j in range(n) if j != i]
        # Centred on the others' mean: the left-out label takes no part in anything that it is predicted from.
        others = gram[rest][:, rest]
        row, column = others.mean(dim=1), gram[i, rest]
        kernel = others - row[None] - row[:, None] + others.mean()
        cross = column - column.mean() - row + others.mean()
        mean = ratings[:, rest].mean(dim=1, keepdim=True)
        weights = torch.linalg.solve(kernel + penalty * torch.eye(n - 1, dtype=gram.dtype), cross)
        predictions[:, i] = mean[:, 0] + (ratings[:, rest] - mean) @ weights
    return predictions


def _fit(
    name: str, centred: Float[Tensor, "emotion d_model"], emotions: tuple[str, ...], labels: LabelSet, seed: int
) -> RatingFit | None:
    ratings = {emotion: labels.ratings[emotion] for emotion in emotions if emotion in labels.ratings}
    if len(ratings) < LEAST:
        return None
    places = [emotions.index(emotion) for emotion in ratings]
    column = ("valence", "arousal").index(name)
    y = torch.tensor([pair[column] for pair in ratings.values()], dtype=torch.float64)
    gram = centred[places] @ centred[places].T
    tried = y[orders(len(y), seed=seed)]
    predictions = leave_one_out(gram, tried)
    correlations = _correlation(predictions, tried)
    r = float(correlations[0])
    return RatingFit(
        name, tuple(ratings), tuple(y.tolist()), tuple(predictions[0].tolist()), r, fisher(r, len(y)),
        p_value(correlations),
    )  # fmt: skip


def fisher(r: float, n: int) -> tuple[float, float]:
    """95 % interval of a correlation of ``n`` pairs, by Fisher's transformation."""
    if n < 4:
        return -1.0, 1.0
    z, half = math.atanh(max(-0.999999, min(0.999999, r))), Z95 / math.sqrt(n - 3)
    return math.tanh(z - half), math.tanh(z + half)


def _correlation(a: Float[Tensor, "order label"], b: Float[Tensor, "order label"]) -> Float[Tensor, " order"]:
    a, b = (x - x.mean(dim=1, keepdim=True) for x in (a, b))
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-30)


def _order(centred: Tensor, emotions: tuple[str, ...], labels: LabelSet, seed: int) -> CircularOrder | None:
    if labels.circular:
        angles = {name: 2 * math.pi * i / len(labels) for i, name in enumerate(labels) if name in emotions}
    else:
        angles = {e: math.atan2(a, v) for e, (v, a) in labels.ratings.items() if e in emotions}
    if len(angles) < LEAST:
        return None
    unit = torch.nn.functional.normalize(centred, dim=1)
    return circular_order(emotions, unit @ unit.T, angles, seed=seed)
