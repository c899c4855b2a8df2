"""Quality of directions: good ones pass, bad ones are flagged, and the flag goes wherever the direction goes."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from helpers import EMOTIONS, instructed, naive_record

import emotion_circuits as ec
from emotion_circuits import artefacts
from emotion_circuits.directions.check import theme_test
from emotion_circuits.directions.quality import QualityTest, reliability, split_half_test
from emotion_circuits.errors import EmotionError


@pytest.fixture(scope="module")
def demo() -> ec.HookedModel:
    return ec.HookedModel.demo()


@pytest.fixture(scope="module")
def asked() -> list[ec.Prompt]:
    train, _, _ = ec.load_sev("demo")
    return [prompt for emotion in ("anger", "fear", "surprise") for prompt in train.limit(8).prompts(emotion)]


@pytest.fixture(scope="module")
def fitted(demo, asked) -> ec.EmotionDirections:
    return ec.check_directions(demo, asked, unnamed=[p.instructed(p.emotion, "described") for p in asked])


@pytest.fixture(scope="module")
def drawn(demo, asked, fitted) -> ec.EmotionDirections:
    """Random directions in the place of one emotion's."""
    vectors = fitted.vectors.clone()
    made = torch.randn(vectors[:, :, 1].shape, generator=torch.Generator().manual_seed(0))
    vectors[:, :, 1] = torch.nn.functional.normalize(made, dim=-1)
    return ec.check_directions(demo, asked, replace(fitted, vectors=vectors, tests=()))


def test_the_demos_directions_pass(fitted) -> None:
    assert [test.name for test in fitted.quality.tests] == ["split halves", "leave one theme out", "named and unnamed"]
    assert fitted.quality.flagged == {}
    assert min(fitted.quality["split halves"].values) > 0.95
    assert min(fitted.quality["leave one theme out"].values) > 0.6
    assert "FLAGGED" not in repr(fitted)
    assert fitted.target("anger").flags == ()


def test_a_random_direction_is_flagged(drawn) -> None:
    assert list(drawn.quality.flagged) == ["fear"]
    assert drawn.quality["refit"].values[0] == pytest.approx(1, abs=1e-4)
    assert abs(drawn.quality["refit"].values[1]) < 0.4
    assert "FLAGGED: fear" in repr(drawn)
    assert "FLAGGED fear" in repr(drawn.quality)


def test_directions_of_shuffled_labels_are_flagged(demo, asked) -> None:
    groups = defaultdict(list)
    for prompt in asked:
        groups[prompt.group].append(prompt)
    rng, shuffled = random.Random(0), []
    for held in groups.values():
        labels = [prompt.emotion for prompt in held]
        rng.shuffle(labels)
        shuffled += [replace(prompt, emotion=label) for prompt, label in zip(held, labels, strict=True)]
    directions = ec.fit_directions(demo, shuffled)  # no further test is needed: split halves come with the fit
    assert set(directions.quality.flagged) == {"anger", "fear", "surprise"}


def test_the_flag_goes_where_the_direction_goes(demo, asked, drawn, tmp_path) -> None:
    target = drawn.target("fear")
    assert target.flags == drawn.quality.flags("fear")
    assert target.flags[0].startswith("refit: ")
    assert (drawn.target("anger") - target).flags == target.flags
    scores = ec.attribute(demo, asked, target, ec.DirectAttribution())
    circuit = ec.build_circuit(scores, size=20)
    measured = ec.measure(demo, asked[:3], target)
    for result in (scores, circuit, measured, measured - measured, circuit.with_nodes(circuit.nodes)):
        assert result.flags == target.flags
        assert "FLAGGED direction (refit: " in repr(result)
    score = ec.faithfulness(demo, circuit, asked[24:27], target, ec.ZeroAblation(), controls=ec.Controls(0))
    assert score.flags == target.flags
    influence = ec.sublayer_influence(demo, asked[:2], drawn, strengths=(0.5,))
    influence.save(tmp_path / "influence")
    assert ec.Influence.load(tmp_path / "influence").flags == {"fear": target.flags}
    assert "FLAGGED" in circuit.summary()
    scores.save(tmp_path / "scores")
    circuit.save(tmp_path / "circuit")
    assert ec.Attribution.load(tmp_path / "scores").flags == target.flags
    assert ec.Circuit.load(tmp_path / "circuit").flags == target.flags
    clean = ec.attribute(demo, asked, drawn.target("anger"), ec.DirectAttribution())
    assert clean.flags == ()
    assert replace(clean, emotion=scores.emotion).with_heads(scores).flags == target.flags
    mixed = ec.mix([circuit, ec.build_circuit(clean, size=20)], [1.0, 1.0])
    assert mixed.flags == tuple(f"fear, {flag}" for flag in target.flags)


def test_saved_tests_come_back_and_older_files_still_load(fitted, drawn, tmp_path) -> None:
    drawn.save(tmp_path / "d")
    loaded = ec.EmotionDirections.load(tmp_path / "d")
    assert loaded.tests == drawn.tests
    assert loaded.quality.flagged == drawn.quality.flagged
    tensors, meta = artefacts.load(tmp_path / "d", "directions")
    del meta["tests"]
    artefacts.save(tmp_path / "old", "directions", tensors, meta)
    old = ec.EmotionDirections.load(tmp_path / "old")
    assert [test.name for test in old.quality.tests] == ["split halves"]


def test_reliability_is_what_another_fit_would_agree() -> None:
    # Halves of noise variance 2 s agree by 1 / (1 + 2 s), whole sets of variance s by 1 / (1 + s).
    for noise in (0.1, 0.5, 2.0):
        value = reliability(torch.full((2, 3, 1), 1 / (1 + 2 * noise)))
        assert float(value) == pytest.approx(1 / (1 + noise))
    assert float(reliability(torch.full((2, 1, 1), -0.3))) == pytest.approx(-0.3)


def test_what_could_not_be_measured_did_not_pass() -> None:
    test = split_half_test(torch.full((2, 1, 2), torch.nan))
    quality = ec.DirectionQuality(("anger", "fear"), (test,))
    assert quality.flags("anger") == ("split halves: could not be measured",)
    with pytest.raises(EmotionError, match="no emotion 'joy' in this quality; choose among anger, fear"):
        quality.flags("joy")
    better = QualityTest("split halves", (0.9, 0.85), 0.8, intervals=((0.8, 1.0), (0.7, 0.9)))
    assert quality.updated([better]).flagged == {}
    row = quality.updated([better]).to_frame().iloc[1]
    assert (row["value"], row["low"], row["passed"]) == (0.85, 0.7, True)


def test_leave_one_theme_out_is_the_naive_one(qwen) -> None:
    asked = instructed(6)
    directions = ec.fit_directions(qwen, asked)
    layers = directions.stable_layers()
    x = torch.stack([naive_record(qwen, asked, site)[layers] for site in ("resid_mid", "resid_post")])
    x = (x / directions.sigma[:, layers, None, None]).double()  # site layer sample unit
    hits = dict.fromkeys(EMOTIONS, 0)
    for i, prompt in enumerate(asked):
        means = {
            e: x[:, :, [j for j, p in enumerate(asked) if p.theme != prompt.theme and p.emotion == e]].mean(dim=2)
            for e in EMOTIONS
        }
        middle = torch.stack(list(means.values())).mean(dim=0)
        score = {
            e: float(((x[:, :, i] - middle) * torch.nn.functional.normalize(m - middle, dim=-1)).sum())
            for e, m in means.items()
        }
        hits[str(prompt.emotion)] += max(score, key=score.__getitem__) == prompt.emotion
    test = theme_test(qwen, asked, directions, batch_size=4)
    assert test.values == pytest.approx([hits[e] / 12 for e in EMOTIONS])
    assert test.threshold == pytest.approx(2 / 3)
    assert test.intervals is not None
    assert all(low <= value <= high for value, (low, high) in zip(test.values, test.intervals, strict=True))


def test_prompt_and_reply(qwen) -> None:
    asked = instructed(4)
    replies = ec.Replies(tuple(ec.Reply(p, "", (5, 6 + i % 3, 7), p.emotion) for i, p in enumerate(asked)))
    reply = ec.fit_directions(qwen, replies, positions="generated")
    x = qwen.record(replies, "resid_post", positions="generated")[2]
    means = torch.stack([x[[r.emotion == e for r in replies]].mean(dim=0) for e in EMOTIONS])
    expected = torch.nn.functional.normalize(means - means.mean(dim=0), dim=-1)
    torch.testing.assert_close(reply.vectors[1, 2], expected, atol=2e-5, rtol=2e-5)
    again = ec.fit_directions(qwen, replies)
    torch.testing.assert_close(again.vectors, ec.fit_directions(qwen, asked).vectors, atol=2e-5, rtol=2e-5)
    tested = ec.check_directions(qwen, replies)
    assert tested.quality["prompt and reply"].flags is False
    assert "prompt and reply" not in str(tested.quality.flagged)
