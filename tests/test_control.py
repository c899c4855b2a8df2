"""Methods of control: each claim by what it does to the text, whatever the batch and with or without a cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import ids_of, prompts
from torch import Tensor

import emotion_circuits as ec
from emotion_circuits.control import PerEmotion, together
from emotion_circuits.control.share import residual_share
from emotion_circuits.data.sev import Record
from emotion_circuits.directions.pairs import fit_contrast_pairs
from emotion_circuits.errors import DataError, EmotionError
from emotion_circuits.interventions import Constant, weighted

SHORT = ec.GenerationConfig(max_new_tokens=8)
EMOTIONS = ("anger", "fear")


@pytest.fixture(scope="module")
def data() -> ec.SEV:
    events = {"positive": "it was bright", "neutral": "a bus late", "negative": "rain fell"}
    return ec.SEV(tuple(Record(f"id_{i}", f"theme_{i % 2}", f"I moved {'my desk ' * i}", events) for i in range(2)))


def contrasts() -> dict[str, ec.Contrast]:
    """Two emotions that each change the text."""
    draw = torch.Generator().manual_seed(4)

    def delta() -> ec.Activations:
        return ec.Activations(
            torch.randn(3, 48, generator=draw), torch.randn(3, 4, 8, generator=draw),
            resid_post=torch.randn(3, 32, generator=draw),
        )  # fmt: skip

    return {emotion: ec.Contrast(emotion, "emotions", delta(), delta()) for emotion in EMOTIONS}


def steering(strength: float = 0.8, positions: str = "last") -> ec.ContrastSteering:
    return ec.ContrastSteering(contrasts(), (1, 2), strength, positions)  # type: ignore[arg-type]


def vectors() -> dict[str, Tensor]:
    return {e: torch.nn.functional.normalize(c.prompt.resid_post, dim=-1) for e, c in contrasts().items()}  # type: ignore[arg-type]


def tokens(model, method, items, emotion: str = "anger", batch_size: int | None = None) -> list[tuple[int, ...]]:
    asked, patches = method.prepare(items, emotion)
    return [r.tokens for r in ec.generate(model, asked, patches, SHORT, batch_size=batch_size)]


def naive_tokens(model, method, items, emotion: str = "anger") -> list[tuple[int, ...]]:
    """Prompt by prompt, argmax by argmax, every token run anew: no batch, no cache."""
    found = []
    asked, patches = method.prepare(items, emotion)
    for i, prompt in enumerate(asked):
        mine = [replace(p, rows=None) for p in patches if p.rows is None or i in p.rows]
        ids = ids_of(model, prompt)
        width = len(ids)
        for _ in range(SHORT.max_new_tokens):
            with model.patched(*mine, prompt_width=width):
                ids.append(int(model.hf(torch.tensor([ids])).logits[0, -1].argmax()))
        found.append(tuple(ids[width:]))
    return found


def composed(model, data) -> list:
    """One of each method that is made of another."""
    condition = ec.Condition(vectors()["anger"][1], layer=1)
    middle = float(condition.projections(model, data.prompts()).median())
    condition = replace(condition, threshold=middle)
    return [
        ec.Mixture(steering(), {"anger": 0.6, "fear": ec.Ramp(4)}),
        ec.Schedule(steering(positions="all"), ec.Decay(3)),
        ec.Switch(steering(), "fear", at=3),
        ec.Conditional(steering(), condition, model),
        ec.Suppression(vectors(), (0, 1, 2), method=steering()),
    ]


# Whatever the batch, cached or not


@pytest.mark.parametrize("which", range(5))
def test_the_text_depends_neither_on_the_batch_nor_on_the_cache(qwen, data, which: int) -> None:
    method, items = composed(qwen, data)[which], data.items
    alone = tokens(qwen, method, items, batch_size=1)
    assert tokens(qwen, method, items, batch_size=4) == alone
    assert tokens(qwen, method, items) == alone
    assert naive_tokens(qwen, method, items[:2]) == alone[:2]
    assert alone not in (tokens(qwen, ec.Unmodulated(), items), tokens(qwen, steering(), items))


def test_methods_that_run_together_are_separate_runs(qwen, data) -> None:
    wanted = [(method, emotion) for method in composed(qwen, data) for emotion in EMOTIONS]
    asked, patches = together(wanted, data.items)
    found = [r.tokens for r in ec.generate(qwen, asked, patches, SHORT)]
    assert found == [row for method, emotion in wanted for row in tokens(qwen, method, data.items, emotion)]


# Schedules


def test_a_constant_schedule_is_no_schedule(qwen, data) -> None:
    for inner in (steering(), ec.SteeringVector(vectors(), (1, 2), 0.8)):
        plain = tokens(qwen, inner, data.items)
        assert tokens(qwen, ec.Schedule(inner, Constant(1.0)), data.items) == plain
        assert tokens(qwen, ec.Schedule(inner, ec.Window()), data.items) == plain
        assert tokens(qwen, ec.Schedule(inner, Constant(0.0)), data.items) == tokens(qwen, ec.Unmodulated(), data.items)
    half = tokens(qwen, steering(0.4), data.items)
    assert tokens(qwen, ec.Schedule(steering(), Constant(0.5)), data.items) == half


def test_curves_by_hand() -> None:
    step = torch.arange(5)
    assert ec.Ramp(4, 0.0, 2.0).at(step).tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert ec.Ramp(2, 1.0, 0.0).at(step).tolist() == [1.0, 0.5, 0.0, 0.0, 0.0]
    assert ec.Decay(2).at(step).tolist() == pytest.approx([1, 2**-0.5, 0.5, 2**-1.5, 0.25])
    assert ec.Window(1, 3).at(step).tolist() == [0, 1, 1, 0, 0]


@pytest.mark.parametrize("at", [0, 1, 3, 8])
def test_a_switch_follows_the_first_emotion_up_to_its_token(qwen, data, at: int) -> None:
    switched = tokens(qwen, ec.Switch(steering(), "fear", at), data.items)
    first, then = (tokens(qwen, steering(), data.items, emotion) for emotion in EMOTIONS)
    assert [row[:at] for row in switched] == [row[:at] for row in first]
    assert (switched == first) == (at == 8)
    assert (switched == then) == (at == 0)
    if at == 3:  # token 3 is made under the other emotion: a window from there on acts on the same text alike
        window = tokens(qwen, ec.Mixture(steering(), {"anger": ec.Window(0, 3), "fear": ec.Window(3, 4)}), data.items)
        assert [row[:4] for row in switched] == [row[:4] for row in window]


def test_the_step_is_the_number_of_the_token_that_is_made(qwen) -> None:
    seen: list[tuple[int, ...]] = []

    class Steps(Constant):
        def at(self, step):
            seen.append(tuple(step.flatten().tolist()))
            return super().at(step)

    (prompt,) = prompts(1)
    patch = ec.Patch(ec.Residual.of(qwen, 1), ec.Scheduled(ec.Scale(1.0), Steps(1.0)))
    ec.generate(qwen, [prompt], patch, SHORT)
    n = len(ids_of(qwen, prompt))
    assert seen == [(0,) * n, *((i,) for i in range(1, 8))]


def test_a_closed_window_lets_nothing_through(qwen) -> None:
    infinite = ec.Scheduled(ec.Scale(float("inf")), ec.Window(99))
    patch = ec.Patch(ec.Residual.of(qwen, 1), infinite)
    asked = prompts(2)
    assert ec.generate(qwen, asked, patch, SHORT) == ec.generate(qwen, asked, None, SHORT)


# Mixtures


def test_a_mixture_with_one_weight_is_that_emotion(qwen, data) -> None:
    for inner in (steering(), ec.SteeringVector(vectors(), (1,), 0.8)):
        for emotion, weights in (("anger", (1.0, 0.0)), ("fear", (0.0, 1.0))):
            mixture = ec.Mixture(inner, dict(zip(EMOTIONS, weights, strict=True)))
            assert tokens(qwen, mixture, data.items) == tokens(qwen, inner, data.items, emotion)


def test_a_mixture_adds_both_contrasts(qwen, data) -> None:
    held = contrasts()
    both = ec.Activations(resid_post=0.3 * held["anger"].prompt.resid_post + 0.5 * held["fear"].prompt.resid_post)
    layers = ec.Residual.of(qwen, 1, 2)
    mixture = ec.Mixture(steering(1.0, "last_prompt"), {"anger": 0.3, "fear": 0.5})
    asked, patches = mixture.prepare(data.items, "anger")
    with qwen.patched(*patches):
        found = qwen.record(asked, "resid_post")
    with qwen.patched(ec.Patch(layers, ec.Enhancement(both), "last_prompt")):
        expected = qwen.record(asked, "resid_post")
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_weight_goes_into_the_strength(qwen) -> None:
    steer = ec.Steering(vectors()["anger"], 0.4)
    assert weighted(steer, 0.5).strength == 0.2  # type: ignore[attr-defined]
    site = ec.Residual.of(qwen, 1)
    with qwen.patched(ec.Patch(site, weighted(ec.ZeroAblation(), 0.25), "last_prompt")):
        found = qwen.record(prompts(2), "resid_post", [1])
    assert torch.allclose(found, 0.75 * qwen.record(prompts(2), "resid_post", [1]), atol=1e-6)


# Conditions


def test_a_condition_decides_by_the_prompts_projection(qwen, data) -> None:
    items, direction = data.items, vectors()["anger"][1]
    plain, inner = tokens(qwen, ec.Unmodulated(), items), tokens(qwen, steering(), items)
    always, never = (
        ec.Conditional(steering(), ec.Condition(direction, 1, threshold), qwen)
        for threshold in (-float("inf"), float("inf"))
    )
    assert tokens(qwen, always, items) == inner
    assert tokens(qwen, never, items) == plain
    resid = qwen.record(data.prompts(), "resid_post", [1])[0]
    by_hand = [float(row @ direction) for row in resid]
    middle = sorted(by_hand)[3]
    some = tokens(qwen, ec.Conditional(steering(), ec.Condition(direction, 1, middle), qwen), items)
    assert some == [a if p >= middle else b for a, b, p in zip(inner, plain, by_hand, strict=True)]
    assert plain != some != inner


# Suppression


def test_suppression_leaves_no_projection(qwen, data) -> None:
    asked, patches = ec.Suppression(vectors(), (0, 1, 2)).prepare(data.items, "anger")
    assert [p.emotion for p in asked] == ["anger"] * 6
    with qwen.patched(*patches):
        for positions in ("last_prompt", "prompt"):
            resid = qwen.record(asked, "resid_post", positions=positions)
            left = torch.einsum("lsd,ld->ls", resid, vectors()["anger"])
            assert left.abs().max() < 1e-5
    before = torch.einsum("lsd,ld->ls", qwen.record(asked, "resid_post"), vectors()["anger"])
    assert before.abs().max() > 0.1


# Contrast pairs


def test_contrast_pairs_are_mean_differences(qwen) -> None:
    positive, negative = prompts(4)[:2], prompts(4)[2:]
    found = fit_contrast_pairs(qwen, positive, negative)
    by_hand = [
        qwen.record([p], "resid_post")[:, 0] - qwen.record([q], "resid_post")[:, 0]
        for p, q in zip(positive, negative, strict=True)
    ]
    assert torch.allclose(found.resid_post, (by_hand[0] + by_hand[1]) / 2, atol=1e-5)
    with pytest.raises(DataError, match="2 positive and 1 negative texts are no pairs"):
        fit_contrast_pairs(qwen, positive, negative[:1])


def test_steering_from_contrast_pairs(qwen, data) -> None:
    pairs = {"anger": (prompts(4)[:2], prompts(4)[2:])}
    difference = fit_contrast_pairs(qwen, *pairs["anger"]).resid_post
    addition = ec.ContrastSteering.from_contrast_pairs(qwen, pairs, (1,), 2.0, "last_prompt")
    along = ec.SteeringVector.from_contrast_pairs(qwen, pairs, (1,), 0.5, "last_prompt")
    plain = qwen.record(data.prompts(), "resid_post", [1])[0]
    for method, expected in (
        (addition, (2.0 * difference[1]).expand_as(plain)),
        (along, 0.5 * plain.norm(dim=-1, keepdim=True) * difference[1] / difference[1].norm()),
    ):
        asked, patches = method.prepare(data.items, "anger")
        with qwen.patched(*patches):
            assert torch.allclose(qwen.record(asked, "resid_post", [1])[0] - plain, expected, atol=1e-4)


# What makes no sense is refused


def test_a_method_without_patches_cannot_be_composed(qwen, data) -> None:
    for method in (
        ec.Schedule(ec.Prompting(), ec.Ramp(3)), ec.Mixture(ec.Unmodulated(), {"anger": 1.0}),
        ec.Conditional(ec.Prompting(), ec.Condition(torch.ones(32), 1), qwen),
    ):  # fmt: skip
        with pytest.raises(EmotionError, match=r"changes patches, but method '(prompting|none)' has none"):
            method.prepare(data.items, "anger")
    instructed = ec.Suppression(vectors(), (1,))
    with pytest.raises(EmotionError, match="needs a method whose prompts are the same for every emotion"):
        ec.Mixture(instructed, {"anger": 0.5, "fear": 0.5}).prepare(data.items, "anger")
    with pytest.raises(EmotionError, match="mixes nothing"):
        ec.Mixture(steering(), {}).prepare(data.items, "anger")


# Shares of the residual's norm


def test_the_share_of_steering_is_its_strength(qwen, data) -> None:
    for positions in ("last", "generated", "all", "last_prompt"):
        method = ec.SteeringVector(vectors(), (1,), 0.37, positions)
        asked, patches = method.prepare(data.items, "anger")
        replies = ec.generate(qwen, asked, patches, SHORT)
        assert residual_share(qwen, patches, replies).tolist() == pytest.approx([0.37] * 6, abs=1e-4)


def test_the_share_of_a_circuit_is_what_its_nodes_write(qwen, data) -> None:
    held = contrasts()["anger"]
    nodes = ec.NodeSet.of(qwen, "L0N3", "L2N7", "L1H2")
    patch = ec.Patch(nodes, ec.Enhancement(held, 0.5), "last_prompt")
    replies = ec.generate(qwen, data.prompts(), patch, SHORT)
    written = 0.5 * (
        held.prompt.neurons[0, 3] * qwen.writes("neuron", 0)[3]
        + held.prompt.neurons[2, 7] * qwen.writes("neuron", 2)[7]
        + held.prompt.heads[1, 2] @ qwen.writes("head", 1)[2]
    )
    norms = qwen.record(data.prompts(), "resid_post", [2])[0].norm(dim=-1)
    for batch_size in (None, 1):
        found = residual_share(qwen, [patch], replies, batch_size=batch_size)
        assert torch.allclose(found, written.norm() / norms, rtol=1e-4)
    some = residual_share(qwen, [patch.on([1, 4])], replies)
    assert [bool(share) for share in some] == [False, True, False, False, True, False]


def test_the_share_where_writes_are_normed(any_model) -> None:
    """A sublayer's only change, seen in the residual just after it."""
    patch = ec.Patch(ec.NodeSet.of(any_model, "L1N5", "L1N6"), ec.Scale(-3.0), "last_prompt")
    asked = prompts(2)
    replies = ec.generate(any_model, asked, patch, ec.GenerationConfig(max_new_tokens=2))
    plain = any_model.record(asked, "resid_post", [1])[0]
    with any_model.patched(patch):
        changed = any_model.record(asked, "resid_post", [1])[0]
    expected = (changed - plain).norm(dim=-1) / plain.norm(dim=-1)
    assert torch.allclose(residual_share(any_model, [patch], replies), expected, rtol=1e-3)


def test_every_style_asks_for_every_emotion(data) -> None:
    for style in ("named", "described", "persona", "example"):
        for emotion in ec.EKMAN:
            (prompt, *_), patches = ec.Prompting(style).prepare(data.items, emotion)
            system = dict(prompt.messages)["system"]
            assert not patches
            assert (emotion in system) == (style in ("named", "persona")), (style, emotion)


def test_per_emotion_methods_keep_their_rows(qwen, data) -> None:
    condition = ec.Condition(vectors()["anger"][1], 1, -float("inf"))
    method = PerEmotion({"anger": ec.Conditional(steering(), condition, qwen), "fear": steering(0.3)}, "both")
    asked, patches = together([(method, "anger"), (method, "fear")], data.items)
    assert [p.rows for p in patches] == [tuple(range(6)), tuple(range(6, 12))]
    assert len(asked) == 12
