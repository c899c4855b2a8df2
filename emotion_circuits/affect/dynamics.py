r"""Temporal dynamics: how an emotion's projection lives and decays over generated tokens.

1. Run every reply after its prompt, under the patches that made it, and project each token's residual on the
   emotion's direction, averaged over the stable layers and in units of the residual's rms:
   :math:`x_{r,t} = \frac1L \sum_l h_{l,t} \cdot v_l / \sigma_l`, t = 0 being the last prompt token.
2. The course: the mean over replies at each token, with a bootstrap interval over scenarios.
3. Its persistence: autocorrelation and half-life (`persistence`).
4. The same for random directions of the same norm in the same residuals. Every direction of a residual stream
   persists, since tokens share their past, so only what goes beyond these is the emotion's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emotion_circuits.affect import persistence
from emotion_circuits.directions.quality import flag_note
from emotion_circuits.directions.result import EmotionDirections
from emotion_circuits.errors import DataError
from emotion_circuits.interventions import Patch
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.batching import by_sample
from emotion_circuits.model.recording import project
from emotion_circuits.replies import Replies

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class EmotionDynamics:
    """The course of one emotion's projection, and how long it persists.

    Attributes:
        emotion: the emotion.
        course: mean projection at each token, in units of the residual's rms; token 0 is the last of the prompt.
        course_interval: 95 % of it, bootstrap over scenarios.
        counts: replies that are as long.
        autocorrelation: at lags 0, 1, 2, ... of generated tokens.
        autocorrelation_interval: 95 % of it.
        random: autocorrelation of every random direction.
        half_life: in tokens.
        half_life_interval: 95 % of it.
        random_half_lives: of the random directions.
        n_replies: replies.
        flags: why the direction is not to be trusted, if it failed a test of its own reliability.
    """

    emotion: str
    course: Float[Tensor, " pos"]
    course_interval: Float[Tensor, "2 pos"]
    counts: Int[Tensor, " pos"]
    autocorrelation: Float[Tensor, " lag"]
    autocorrelation_interval: Float[Tensor, "2 lag"]
    random: Float[Tensor, "draw lag"]
    half_life: float
    half_life_interval: tuple[float, float]
    random_half_lives: Float[Tensor, " draw"]
    n_replies: int
    flags: tuple[str, ...] = ()

    @property
    def p(self) -> float:
        """Share of directions, this one among them, whose mean autocorrelation is as high as this one's."""
        mine, others = self.autocorrelation[1:].mean(), self.random[:, 1:].mean(dim=1)
        return float(1 + (others >= mine).sum()) / (1 + len(others))

    def course_frame(self) -> pd.DataFrame:
        """One row per token: ``token, projection, low, high, n``."""
        import pandas as pd

        low, high = self.course_interval.tolist()
        return pd.DataFrame({
            "token": range(len(self.course)), "projection": self.course.tolist(), "low": low, "high": high,
            "n": self.counts.tolist(),
        })  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row per lag: ``lag, autocorrelation, low, high, random, random_low, random_high``."""
        import pandas as pd

        low, high = self.autocorrelation_interval.tolist()
        random_low, random_high = _band(self.random).tolist()
        return pd.DataFrame({
            "lag": range(len(self.autocorrelation)), "autocorrelation": self.autocorrelation.tolist(), "low": low,
            "high": high, "random": self.random.mean(dim=0).tolist(), "random_low": random_low,
            "random_high": random_high,
        })  # fmt: skip

    def __repr__(self) -> str:
        low, high = self.half_life_interval
        beside = float(self.random_half_lives.median())
        return (
            f"EmotionDynamics({self.emotion}: half-life {self.half_life:.1f} tokens [{low:.1f}, {high:.1f}], random "
            f"{beside:.1f}, p = {self.p:.3f}, n = {self.n_replies} replies{flag_note(self.flags)})"
        )


def emotion_dynamics(
    model: HookedModel, replies: Replies, directions: EmotionDirections, emotion: str,
    patch: Patch | Sequence[Patch] | None = None, *, layers: list[int] | None = None, n_random: int = 99,
    n_lags: int = 8, batch_size: int | None = None, seed: int = 0,
) -> EmotionDynamics:  # fmt: skip
    """How an emotion's projection lives and decays over the tokens of replies.

    Args:
        model: the model.
        replies: the model's replies, of at least three tokens each where they are to count for persistence.
        directions: of this model.
        emotion: whose direction.
        patch: what acted when the replies were made, so that it acts again; several act together.
        layers: to average over; the stable ones by default.
        n_random: random directions beside the emotion's.
        n_lags: lags of the autocorrelation; fewer where replies are shorter.
        batch_size: rows in a batch.
        seed: of random directions and of bootstrap draws.

    Raises:
        DataError: there are fewer than two replies that are long enough.
        EmotionError: the emotion has no direction.
    """
    kept = replies.filter(lambda reply: len(reply.tokens) >= 3)
    if len(kept) < 2:
        raise DataError(f"dynamics need two replies of three tokens or more, got {len(kept)} of {len(replies)}")
    patches = [] if patch is None else [patch] if isinstance(patch, Patch) else list(patch)
    vectors = _vectors(directions, emotion, layers or directions.stable_layers(), n_random, seed)

    def read(batch: TokenBatch) -> list[Tensor]:
        with model.patched(*patches, samples=batch.samples):
            summed = project(model, batch, "resid_post", vectors).sum(dim=0)  # batch pos direction
        return [row[start:] for row, start in zip(summed, batch.last_prompt.tolist(), strict=True)]

    series = by_sample(model.run_batches(kept, read, batch_size, shared=True))
    clusters = [reply.prompt.item if reply.prompt.item is not None else i for i, reply in enumerate(kept)]
    flags = directions.quality.flags(emotion)
    return dynamics_of(series, clusters, emotion, flags, n_lags=n_lags, seed=seed)


def dynamics_of(
    series: Sequence[Float[Tensor, "_ direction"]], clusters: Sequence[object], emotion: str,
    flags: tuple[str, ...] = (), *, n_lags: int = 8, n_draws: int = 400, seed: int = 0,
) -> EmotionDynamics:  # fmt: skip
    """The dynamics of series that were measured already.

    Args:
        series: one per reply, from the last prompt token on; the first direction is the emotion's, others random.
        clusters: the scenario of each reply; scenarios are drawn whole.
        emotion: the emotion.
        flags: of its direction.
        n_lags: lags of the autocorrelation; fewer where replies are shorter.
        n_draws: bootstrap draws.
        seed: of the draws.
    """
    x = persistence.padded(series)
    n_lags = min(n_lags, x.shape[1] - 3)
    sums, _ = persistence.lag_sums(x[:, 1:], n_lags)
    rho = persistence.autocorrelation(sums.sum(dim=1))  # lag direction
    draws = _draws(clusters, n_draws, seed)
    drawn = persistence.autocorrelation(torch.einsum("ds,kslo->kdlo", draws, sums[..., :1]))[..., 0]  # draw lag
    lives = persistence.half_life(persistence.decay_rate(rho.T))
    there = (~x[..., 0].isnan()).double()
    courses = (draws @ x[..., 0].nan_to_num()) / (draws @ there).clamp(min=1e-9)
    low, high = persistence.half_life(_band(persistence.decay_rate(drawn)[:, None])[:, 0]).tolist()
    return EmotionDynamics(
        emotion,
        x[..., 0].nanmean(dim=0),
        _band(courses),
        there.sum(dim=0).long(),
        rho[:, 0],
        _band(drawn),
        rho[:, 1:].T,
        float(lives[0]),
        (low, high),
        lives[1:],
        len(series),
        flags,
    )


def _vectors(
    directions: EmotionDirections, emotion: str, layers: list[int], n_random: int, seed: int
) -> Float[Tensor, "layer direction d_model"]:
    """The emotion's unit direction and random ones, over the residual's rms; zero in layers that do not count."""
    mine = directions.of(emotion)
    generator = torch.Generator().manual_seed(seed)
    # One random direction is the same vector in every layer, as an emotion's nearly is.
    drawn = torch.nn.functional.normalize(torch.randn(n_random, mine.shape[1], generator=generator), dim=-1)
    both = torch.cat([mine[:, None], drawn.expand(len(mine), -1, -1).to(mine.dtype)], dim=1)
    weights = torch.zeros(len(mine))
    weights[layers] = 1 / len(layers)
    return both * (weights / directions.sigma[1].clamp(min=1e-12))[:, None, None]


def _draws(clusters: Sequence[object], n_draws: int, seed: int) -> Float[Tensor, "draw series"]:
    """How often each series is in each bootstrap draw, its cluster drawn whole."""
    names = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(names), (n_draws, len(names)), generator=generator)
    counts = torch.nn.functional.one_hot(drawn, len(names)).sum(dim=1).double()
    return counts[:, [names[cluster] for cluster in clusters]]


def _band(values: Float[Tensor, "draw *rest"]) -> Float[Tensor, "2 *rest"]:
    """The range that holds 95 % of the draws."""
    if not len(values):
        return torch.full((2, *values.shape[1:]), torch.nan, dtype=torch.float64)
    return values.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
