"""Tracing: every number by a plain forward pass, every token once, every token in its place."""

from __future__ import annotations

import pytest
import tiny
import torch
from helpers import instructed, naive_run, unchecked

import emotion_circuits as ec
from emotion_circuits import plots
from emotion_circuits.errors import DataError, PromptError
from emotion_circuits.model.tokens import render
from emotion_circuits.tracing import windows_of

EMOTIONS = ("anger", "fear")
CHAT = (
    ("system", "always reply in anger"),
    ("user", "I moved my desk , and rain fell"),
    ("assistant", "it was cold"),
    ("user", "it was cold and dark"),
)
LONG = " ".join(["I moved my desk to the window . rain fell and the bus was late , a friend called home"] * 8)


@pytest.fixture(scope="module")
def directions(qwen) -> ec.EmotionDirections:
    return ec.fit_directions(qwen, instructed(3, EMOTIONS))


def by_hand(model, ids: list[int], directions, site: str = "resid_post") -> torch.Tensor:
    """Projections by one unpadded pass: ``[layer, token, emotion]``."""
    run = naive_run(model.hf, ids)
    return torch.stack(
        [
            torch.stack([run[site, l] @ directions.of(e, site)[l] for e in directions.emotions], dim=-1)
            for l in range(model.dims.n_layers)
        ]
    )


@pytest.mark.parametrize("site", ["resid_post", "resid_mid"])
def test_a_trace_is_the_projection_of_every_token(qwen, directions, site) -> None:
    found = ec.trace(qwen, CHAT, directions, site=site)
    ids = render(qwen.tokenizer, ec.Prompt(CHAT))
    torch.testing.assert_close(found.projections, by_hand(qwen, ids, directions, site), rtol=1e-4, atol=1e-5)
    frame = found.to_frame()
    assert len(frame) == qwen.dims.n_layers * len(ids) * 2
    row = frame.iloc[len(ids) * 2 * 1 + 2 * 5 + 1]  # layer 1, token 5, the second emotion
    assert (row["layer"], row["position"], row["emotion"]) == (1, 5, directions.emotions[1])
    assert row["projection"] == pytest.approx(float(found.projections[1, 5, 1]))
    assert found.to_frame(-1)["layer"].unique().tolist() == [qwen.dims.n_layers - 1]


def test_tokens_know_whose_they_are(qwen, directions) -> None:
    found = ec.trace(qwen, CHAT, directions)
    for turn, (role, content) in enumerate(CHAT):
        mine = [t for t in found.tokens if t.turn == turn]
        assert {t.role for t in mine} == {role}
        assert found.text[mine[0].start : mine[-1].end] == content
        assert [t.text for t in mine] == content.split()
    # What the template adds belongs to nobody, though "system" and "user" are words too.
    assert [t.text for t in found.tokens if t.turn < 0][:2] == ["<|im_start|>", "system"]
    means = found.by_turn(-1).set_index(["turn", "emotion"])
    place = [i for i, t in enumerate(found.tokens) if t.turn == 2]
    assert means.loc[(2, "anger"), "projection"] == pytest.approx(float(found.projections[-1, place, 0].mean()))
    assert means.loc[(2, "anger"), "n_tokens"] == 3


def test_a_document_keeps_its_own_characters(directions, qwen) -> None:
    text = "I moved my desk,\n\n  rain   fell."
    found = ec.trace(qwen, text, directions)
    assert found.text == text
    assert [text[t.start : t.end] for t in found.tokens] == ["I", "moved", "my", "desk", ",", "rain", "fell", "."]
    assert {t.role for t in found.tokens} == {""}


def test_windows_equal_one_pass_where_the_context_suffices() -> None:
    # Three layers that each look back 7 tokens: nothing further than 21 tokens away can matter.
    model = tiny.model("mistral")
    held = ec.fit_directions(model, instructed(3, EMOTIONS))
    ids = model.tokenizer(LONG)["input_ids"]
    whole = by_hand(model, ids, held)
    for window, overlap, batch_size in ((64, 21, None), (40, 30, 1), (22, 21, 5)):
        found = ec.trace(model, LONG, held, window=window, overlap=overlap, batch_size=batch_size)
        torch.testing.assert_close(found.projections, whole, rtol=1e-4, atol=1e-5)
        assert found.provenance["settings"]["n_windows"] > 1
    short = ec.trace(model, LONG, held, window=40, overlap=4)
    assert float((short.projections[:, :40] - whole[:, :40]).abs().max()) < 1e-4
    assert float((short.projections - whole).abs().max()) > 0.01  # and it can fail


def test_a_text_longer_than_the_context_is_read(qwen, directions) -> None:
    text = " ".join([LONG] * 4)
    assert len(qwen.tokenizer(text)["input_ids"]) > qwen.context
    assert len(ec.trace(qwen, text, directions)) == len(qwen.tokenizer(text)["input_ids"])


@pytest.mark.parametrize(
    ("n", "window", "overlap", "begin"), [(10, 20, 5, 0), (100, 16, 8, 1), (17, 16, 0, 0), (33, 8, 7, 0)]
)
def test_every_token_is_reported_once(n, window, overlap, begin) -> None:
    held = list(windows_of(n, window, overlap, begin))
    assert [i for _, end, reported in held for i in range(reported, end)] == list(range(n))
    for start, end, reported in held:
        assert end - start + (begin if start else 0) <= window
        assert reported - start == (overlap if start else 0)


def test_patches_in_force_act(qwen, directions) -> None:
    push = ec.Steering(torch.ones(3, 32) / 32**0.5, 0.5)
    with qwen.patched(ec.Patch(ec.Residual((1,)), push, "all")):
        patched = ec.trace(qwen, CHAT, directions).projections
    plain = ec.trace(qwen, CHAT, directions).projections
    torch.testing.assert_close(patched[0], plain[0])
    assert not torch.allclose(patched[1], plain[1], atol=0.01)


def test_what_cannot_be_traced(qwen, directions) -> None:
    with pytest.raises(PromptError, match="nothing to trace"):
        ec.trace(qwen, "", directions)
    with pytest.raises(PromptError, match="choose an overlap below 16"):
        ec.trace(qwen, LONG, directions, window=16, overlap=16)
    with pytest.raises(ValueError, match="directions exist at"):
        unchecked(ec.trace, qwen, LONG, directions, site="attn_out")


def test_a_trace_is_drawn(qwen, directions) -> None:
    found = ec.trace(qwen, CHAT, directions)
    every = plots.trace_heatmap(found.to_frame())
    assert list(every.data[0].y) == list(EMOTIONS)
    assert list(every.data[0].z[1]) == pytest.approx(found.projections[-1, :, 1].tolist())
    layers = plots.trace_heatmap(found.to_frame(), "fear")
    assert list(layers.data[0].y) == [0, 1, 2]
    assert list(layers.data[0].z[0]) == pytest.approx(found.projections[0, :, 1].tolist())
    assert [a.text for a in every.layout.annotations] == ["system", "user", "assistant", "user"]
    lines = plots.emotion_trace(found.to_frame(-1))
    assert len(lines.data) == 2
    with pytest.raises(DataError, match="trace_heatmap of joy got a table without rows"):
        plots.trace_heatmap(found.to_frame(), "joy")
