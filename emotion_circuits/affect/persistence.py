r"""Persistence of series: autocorrelation over several short series, and the half-life that it gives.

For series x of replies r, with the mean over replies at each position taken off,

1. :math:`\rho_k = \sum_{r,t} x_{r,t} x_{r,t+k} \,/\, \sqrt{\sum x_{r,t}^2 \sum x_{r,t+k}^2}` over the pairs k apart;
2. :math:`\rho_k \approx A \varphi^k` is fitted over the lags by least squares, A and :math:`\varphi` in [0, 1]. A is
   below 1 where noise lies on top of what persists, which :math:`\rho_1` alone would take for quick decay;
3. the half-life is :math:`\ln \tfrac12 / \ln \varphi` tokens.

The mean is taken over replies and not along each of them, since that would bend short series towards
anticorrelation. So a difference between replies that lasts counts as persistence, as it should.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_RATES = torch.cat([torch.linspace(0.005, 0.95, 190), torch.linspace(0.951, 0.999, 49)]).double()


def padded(series: Sequence[Float[Tensor, "_ direction"]]) -> Float[Tensor, "series pos direction"]:
    """Series of several lengths side by side, NaN where one has ended."""
    held = [s.double() for s in series]
    return torch.nn.utils.rnn.pad_sequence(held, batch_first=True, padding_value=torch.nan)


def lag_sums(
    x: Float[Tensor, "series pos direction"], n_lags: int
) -> tuple[Float[Tensor, "3 series lag direction"], Float[Tensor, "pos direction"]]:
    """For each series and lag (from 0) the sums of products and of both squares; and the mean over series."""
    mean = x.nanmean(dim=0)
    centred = x - mean
    rows = []
    for lag in range(n_lags + 1):
        a, b = centred[:, : x.shape[1] - lag], centred[:, lag:]
        both = ~(a.isnan() | b.isnan())
        a, b = (torch.where(both, side, 0.0) for side in (a, b))
        rows.append(torch.stack([(a * b).sum(dim=1), (a * a).sum(dim=1), (b * b).sum(dim=1)]))
    return torch.stack(rows, dim=2), mean


def autocorrelation(sums: Float[Tensor, "3 *draw lag direction"]) -> Float[Tensor, "*draw lag direction"]:
    """The autocorrelation from sums over series."""
    products, first, second = sums
    return products / (first * second).sqrt().clamp(min=1e-30)


def decay_rate(rho: Float[Tensor, "*draw lag"]) -> Float[Tensor, "*draw"]:
    r"""The :math:`\varphi` that fits best, from lags 0, 1, 2, ...; lag 0 is 1 whatever the noise, and is left out."""
    lags = torch.arange(1, rho.shape[-1], dtype=torch.float64)
    curves = _RATES[:, None] ** lags  # rate lag
    seen = rho[..., 1:]
    scale = ((seen @ curves.T) / curves.square().sum(dim=1)).clamp(0, 1)
    error = (seen[..., None, :] - scale[..., None] * curves).square().sum(dim=-1)
    return _RATES[error.argmin(dim=-1)]


def half_life(rate: Float[Tensor, "*draw"]) -> Float[Tensor, "*draw"]:
    """Tokens until half of a deviation is gone; infinite at the slowest rate that is told apart from none."""
    return torch.where(rate < _RATES[-1], math.log(0.5) / rate.log(), torch.inf)
