"""Contrast pairs: the mean difference between texts that differ in one thing only."""

from __future__ import annotations

from emotion_circuits.activations import Activations
from emotion_circuits.data.prompts import as_prompts
from emotion_circuits.errors import DataError
from emotion_circuits.model import HookedModel
from emotion_circuits.types import Position


def fit_contrast_pairs(
    model: HookedModel,
    positive: object,
    negative: object,
    *,
    positions: Position = "last_prompt",
    batch_size: int | None = None,
) -> Activations:
    r"""Mean difference of the residual over pairs: :math:`\frac1n \sum_i r(p_i) - r(q_i)`, at every sublayer.

    Args:
        model: the model.
        positive: prompts or replies that show what is wanted.
        negative: their counterparts, in the same order.
        positions: tokens to measure at; ``"generated"`` takes the mean over each reply's tokens.
        batch_size: rows in a batch.

    Returns:
        ``resid_mid`` and ``resid_post``, in units of the residual.

    Raises:
        DataError: the two lists are empty or not equally long.

    Reference: Rimsky et al., 2024, arXiv 2312.06681 (contrastive activation addition).
    """
    n, n_negative = len(as_prompts(positive)), len(as_prompts(negative))
    if n != n_negative or not n:
        raise DataError(f"{n} positive and {n_negative} negative texts are no pairs; give as many of each, in order")

    def mean(prompts: object, site: str):
        return model.record(prompts, site, positions=positions, batch_size=batch_size).mean(dim=1)

    return Activations(**{site: mean(positive, site) - mean(negative, site) for site in ("resid_mid", "resid_post")})
