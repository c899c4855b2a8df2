"""Affect: planted circles, ratings, languages and time series are found, and nothing is found where nothing is."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from helpers import EMOTIONS, instructed

import emotion_circuits as ec
from emotion_circuits.affect import affect_space, circular_order, emotion_dynamics, language_agreement, persistence
from emotion_circuits.affect.dynamics import dynamics_of
from emotion_circuits.affect.space import leave_one_out
from emotion_circuits.data.labels import LabelSet
from emotion_circuits.errors import DataError, EmotionError

EIGHT = LabelSet.load("circumplex")


def directions_of(vectors: torch.Tensor, emotions: tuple[str, ...]) -> ec.EmotionDirections:
    """Directions that are the same after every sublayer of two layers."""
    unit = torch.nn.functional.normalize(vectors.float(), dim=-1)
    held = unit.expand(2, 2, *unit.shape)
    ones, flat = torch.ones(held.shape[:-1]), torch.ones(2, 2)
    return ec.EmotionDirections(emotions, held, ones, flat, 4, ones, flat, flat)


def circle(labels: LabelSet, noise: float, seed: int = 0, width: int = 64) -> ec.EmotionDirections:
    """A planted circumplex: ratings on two orthogonal axes, and noise."""
    generator = torch.Generator().manual_seed(seed)
    plane = torch.linalg.qr(torch.randn(width, 2, generator=generator)).Q.T
    held = torch.tensor([labels.ratings[name] for name in labels]) @ plane
    return directions_of(held + noise * torch.randn(held.shape, generator=generator) / math.sqrt(width), labels.names)


# Circular order


def naive_index(similarity, order, angles) -> float:
    """The correspondence index with loops, from its definition."""
    n, met, total = len(angles), 0, 0
    apart = lambda a, b: min(abs(a - b) % (2 * math.pi), 2 * math.pi - abs(a - b) % (2 * math.pi))  # noqa: E731
    pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
    for a, b in pairs:
        for c, d in pairs:
            if apart(angles[a], angles[b]) < apart(angles[c], angles[d]) - 1e-9:
                more, less = similarity[order[a]][order[b]], similarity[order[c]][order[d]]
                met, total = met + (more > less) - (more < less), total + 1
    return met / total


def test_the_index_and_p_are_the_naive_ones() -> None:
    names, x = ("a", "b", "c", "d", "e"), torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    angles = dict(zip(names, (0.1, 1.0, 2.5, 3.9, 5.5), strict=True))
    result = circular_order(names, x @ x.T, angles)
    every = [naive_index((x @ x.T).tolist(), order, list(angles.values())) for order in permutations(range(5))]
    assert result.index == pytest.approx(every[0])
    assert result.p == pytest.approx(sum(value >= every[0] - 1e-12 for value in every) / 120)
    assert result.least_p == pytest.approx(1 / 120)


def test_a_planted_circle_is_found() -> None:
    space = affect_space(circle(EIGHT, 0.5), EIGHT)
    assert space.order is not None
    assert space.order.index > 0.9
    assert space.order.p == pytest.approx(16 / 40320)  # no order but the turned and mirrored circle does as well
    found = sorted(space.angles, key=space.angles.__getitem__)
    start = found.index(EIGHT.names[0])
    turned = (*found[start:], *found[:start])
    assert turned in (EIGHT.names, (EIGHT.names[0], *EIGHT.names[:0:-1]))
    assert float(space.shares[:2].sum()) > 0.7
    for rating in ("valence", "arousal"):
        assert space.fits[rating].correlation > 0.9
        assert space.fits[rating].p < 0.01
        assert space.fits[rating].interval[0] > 0.5


@pytest.mark.parametrize("names", [("a", "b", "c", "d", "e", "f"), ec.EKMAN])
def test_p_is_uniform_where_there_is_nothing(names) -> None:
    labels = LabelSet.load("ekman") if names == ec.EKMAN else LabelSet(LabelSet.of(*names).labels, circular=True)
    ps: dict[str, list[float]] = {"circle": [], "valence": []}
    for seed in range(120):
        vectors = torch.randn(6, 40, generator=torch.Generator().manual_seed(seed))
        space = affect_space(directions_of(vectors, names), labels)
        assert space.order is not None
        ps["circle"].append(space.order.p)
        ps["valence"] += [space.fits["valence"].p] if space.fits else []
    for name, held in ps.items():
        for level in (0.05, 0.2, 0.5):
            expected = level * len(held)
            below = sum(p <= level for p in held)
            assert below <= expected + 3.3 * math.sqrt(expected * (1 - level)) + 1e-9, (name, level)
        assert not held or sum(p <= 0.5 for p in held) >= 0.5 * len(held) - 3.3 * math.sqrt(len(held) / 4) - 5, name


def test_too_few_labels() -> None:
    with pytest.raises(EmotionError, match="needs four labels with an angle, got a, b, c"):
        circular_order(("a", "b", "c"), torch.eye(3))
    space = affect_space(directions_of(torch.randn(3, 8), ("anger", "fear", "awe")))
    assert space.order is None
    assert not space.fits


# Ratings


def test_leave_one_out_is_a_regression_without_the_label() -> None:
    x = torch.randn(6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    held = leave_one_out(x @ x.T, y[None])[0]
    penalty = (x @ x.T).diagonal().mean()
    for i in range(6):
        rest = [j for j in range(6) if j != i]
        a, b = x[rest] - x[rest].mean(0), y[rest] - y[rest].mean()
        w = torch.linalg.solve(a.T @ a + penalty * torch.eye(20, dtype=torch.float64), a.T @ b)
        assert float(held[i]) == pytest.approx(float(y[rest].mean() + (x[i] - x[rest].mean(0)) @ w))


def test_flagged_directions_are_named() -> None:
    held = circle(EIGHT, 0.1)
    halves = held.split_half.clone()
    halves[..., 2] = 0.1
    space = affect_space(replace(held, split_half=halves), EIGHT)
    assert list(space.flags) == ["excited"]
    assert "FLAGGED: excited" in repr(space)
    assert space.to_frame().query("flagged")["emotion"].tolist() == ["excited"]


# Languages


def test_languages_agree_as_far_as_noise_lets_them() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.nn.functional.normalize(torch.randn(6, 200, generator=generator), dim=-1)

    def measured(noise: float) -> ec.EmotionDirections:
        # Directions of all groups, and the cosine of halves that have twice the variance of noise each.
        made = directions_of(true + noise * torch.randn(true.shape, generator=generator) / math.sqrt(200), ec.EKMAN)
        return replace(made, split_half=torch.full_like(made.split_half, 1 / (1 + 2 * noise**2)))

    result = language_agreement({"en": measured(0.3), "de": measured(0.7), "xx": measured(0.0)}, layers=[0, 1])
    table = result.to_frame().set_index(["a", "b"])
    ceiling = table.loc[("en", "de"), "ceiling"].iloc[0]
    assert ceiling == pytest.approx(1 / math.sqrt((1 + 0.3**2) * (1 + 0.7**2)), rel=1e-6)
    assert table.loc[("en", "de"), "cosine"].mean() == pytest.approx(ceiling, abs=0.05)
    assert table["corrected"].mean() == pytest.approx(1, abs=0.05)
    assert set(result.p) == {1 / 720}
    assert abs(table["others"].mean()) < 0.1


def test_languages_that_swap_emotions_or_share_nothing() -> None:
    x, y = (torch.randn(6, 50, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    swapped = directions_of(x[[1, 0, 3, 2, 5, 4]], ec.EKMAN)
    result = language_agreement(
        {"en": directions_of(x, ec.EKMAN), "swapped": swapped, "other": directions_of(y, ec.EKMAN)}
    )
    assert min(result.p) > 0.05
    reordered = directions_of(x.flip(0), ec.EKMAN[::-1])
    assert language_agreement({"en": directions_of(x, ec.EKMAN), "again": reordered}).p == (1 / 720,)
    with pytest.raises(EmotionError, match="needs directions in two languages, got en"):
        language_agreement({"en": swapped})
    with pytest.raises(EmotionError, match="directions in 'b' have anger, fear and shape"):
        language_agreement({"a": swapped, "b": directions_of(x[:2], ("anger", "fear"))})


def test_languages_on_a_tiny_model(qwen) -> None:
    train, _, _ = ec.load_sev("demo")
    held = {
        language: ec.fit_directions(qwen, [
            p for e in EMOTIONS for p in train.limit(3).worded(LabelSet.of(*EMOTIONS).wording(language)).prompts(e)
        ])
        for language in ("en", "de")
    }  # fmt: skip
    result = language_agreement(held)
    assert result.pairs == (("en", "de"),)
    assert -1 <= float(result.cosines.min()) <= float(result.cosines.max()) <= 1
    assert "en-de" in repr(result)


# Dynamics


def ar1(phi: float, n: int, length: int, seed: int, noise: float = 0.0) -> list[torch.Tensor]:
    """Stationary series; ``noise`` lies on top of them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(n, length, dtype=torch.float64)
    x[:, 0] = torch.randn(n, generator=generator, dtype=torch.float64)
    for t in range(1, length):
        step = torch.randn(n, generator=generator, dtype=torch.float64)
        x[:, t] = phi * x[:, t - 1] + math.sqrt(1 - phi**2) * step
    x += noise * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    lengths = torch.randint(length // 2, length, (n,), generator=generator).tolist()
    return [row[:m] for row, m in zip(x, lengths, strict=True)]


def beside_white_noise(series: list[torch.Tensor], n_random: int = 19) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.cat([s[:, None], torch.randn(len(s), n_random, generator=generator)], dim=1) for s in series]


@pytest.mark.parametrize(("phi", "noise"), [(0.9, 0.0), (0.5, 0.0), (0.9, 1.0)])
def test_half_life_of_a_known_process(phi: float, noise: float) -> None:
    series = beside_white_noise(ar1(phi, 150, 40, seed=1, noise=noise))
    result = dynamics_of(series, list(range(150)), "anger")
    true = math.log(0.5) / math.log(phi)
    assert result.half_life_interval[0] <= true <= result.half_life_interval[1]
    assert result.half_life == pytest.approx(true, rel=0.25)
    expected = phi ** torch.arange(9) / (1 + noise**2)
    torch.testing.assert_close(result.autocorrelation[1:], expected[1:].double(), atol=0.06, rtol=0)
    assert result.p == 0.05  # first of twenty
    assert float(result.random[:, 1:].abs().max()) < 0.15


def test_one_random_direction_among_others_is_not_special() -> None:
    ps = []
    for seed in range(40):
        x = torch.randn(12, 20, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ps.append(dynamics_of(list(x), list(range(12)), "anger", n_draws=4).p)
    assert 0.35 < sum(ps) / len(ps) < 0.7
    assert sum(p <= 0.05 for p in ps) <= 6


def test_the_autocorrelation_is_the_naive_one() -> None:
    series = [s[:, None] for s in ar1(0.7, 6, 12, seed=2)]
    rho = persistence.autocorrelation(persistence.lag_sums(persistence.padded(series), 3)[0].sum(dim=1))[:, 0]
    longest = max(len(s) for s in series)
    means = [torch.stack([s[t, 0] for s in series if len(s) > t]).mean() for t in range(longest)]
    for lag in range(4):
        pairs = [
            (float(s[t, 0] - means[t]), float(s[t + lag, 0] - means[t + lag]))
            for s in series for t in range(len(s) - lag)
        ]  # fmt: skip
        top = sum(a * b for a, b in pairs)
        assert float(rho[lag]) == pytest.approx(
            top / math.sqrt(sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs))
        )


def test_dynamics_project_each_token(qwen) -> None:
    asked = instructed(3)
    directions = ec.fit_directions(qwen, asked)
    replies = ec.Replies(tuple(ec.Reply(p, "", tuple(range(4, 9 + i % 3)), p.emotion) for i, p in enumerate(asked)))
    result = emotion_dynamics(qwen, replies, directions, "fear", layers=[0, 2], n_random=5, n_lags=2)
    values = []
    for reply in replies:  # the last prompt token and the first generated one, by recording
        one = ec.Replies((replace(reply, tokens=reply.tokens[:1]),))
        rows = [qwen.record(one, "resid_post", positions=where)[[0, 2], 0] for where in ("last_prompt", "generated")]
        along = directions.of("fear")[[0, 2]] / directions.sigma[1, [0, 2], None]
        values.append([float((row * along).sum(dim=-1).mean()) for row in rows])
    torch.testing.assert_close(result.course[:2], torch.tensor(values).double().mean(dim=0), atol=1e-4, rtol=1e-4)
    assert result.counts.tolist() == [18] * 6 + [12, 6]
    assert result.random.shape == (5, 3)
    assert len(result.course_frame()) == 8
    assert result.to_frame()["autocorrelation"].iloc[0] == pytest.approx(1)
    assert result.flags == directions.quality.flags("fear")
    with pytest.raises(DataError, match="two replies of three tokens or more, got 0 of 1"):
        emotion_dynamics(qwen, ec.Replies((replace(replies[0], tokens=(4,)),)), directions, "fear")


def test_modulation_on_the_demo_model() -> None:
    model = ec.HookedModel.demo()
    train, _, test = ec.load_sev("demo")
    elicited, plain = (
        ec.elicit(model, train.limit(4), ("anger", "fear", "surprise")),
        ec.generate(model, train.limit(4)),
    )
    directions = ec.fit_directions(model, elicited, positions="generated")
    contrasts = ec.fit_contrasts(model, elicited, plain, baseline="uninstructed")
    items = test.limit(6)

    def lift(positions) -> torch.Tensor:
        (patch,) = ec.ContrastSteering(contrasts, (2, 3), positions=positions).prepare([], "anger")[1]
        replies = ec.generate(model, items, patch)
        held = (emotion_dynamics(model, replies, directions, "anger", p, n_random=1) for p in (patch, None))
        acted, same_text = held
        return acted.course[:10] - same_text.course[:10]

    kept_up, once = lift("last"), lift("last_prompt")
    torch.testing.assert_close(kept_up[0], once[0], atol=1e-3, rtol=1e-3)
    assert float(kept_up.min()) > 0.5  # it lives as long as it is fed,
    assert float(once[1:].abs().max()) < 0.5 * float(once[0])  # and what one push leaves is soon gone


def test_dynamics_see_the_patch(qwen) -> None:
    asked = instructed(2)
    directions = ec.fit_directions(qwen, asked)
    replies = ec.Replies(tuple(ec.Reply(p, "", (5, 6, 7, 8), p.emotion) for p in asked))
    vectors = {e: directions.of(e) for e in directions.emotions}
    prepared = ec.SteeringVector(vectors, (2,), 0.5, "generated").prepare([], "anger")[1]
    before, after = (
        emotion_dynamics(qwen, replies, directions, "anger", patch, layers=[2], n_random=1)
        for patch in (None, prepared)
    )
    assert float((after.course - before.course)[0].abs()) < 1e-5  # nothing acts at the prompt
    assert float((after.course - before.course)[1:].min()) > 0.05
