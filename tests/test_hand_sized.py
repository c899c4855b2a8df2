"""A model small enough to do by hand: every expected number below is worked out in the comments.

d_model 4, two heads of size 2 over one key-value head, three neurons, ReLU instead of SiLU, no epsilon. Queries and
keys are zero, so a token attends evenly to itself and those before it. Every vector that meets a norm has
coordinates of one magnitude, so the norm only takes the magnitude away. Layer 1 is all zeros.

    E[a] = (1, 1, 1, 1)   E[b] = (1, -1, 1, -1)      W_V keeps the first two coordinates
    head 0: z -> z0 (6, -6, 0, 0) + z1 (0, 12, 0, 0)  head 1: z -> z0 (0, 0, 6, -6) + z1 (0, 0, 0, 12)
    neuron 0: relu(x0) 3 x2 -> (1, 0, 0, 0)           neuron 1: relu(-2 x1) x0 -> (0, 1, 0, 1)
    neuron 2: relu(x1) 2 x3 -> (0, 0, 1, 0)

Prompt "a":    z = v(a) = (1, 1); heads write (6, 6, 0, 0) and (0, 0, 6, 6); r_mid = (7, 7, 7, 7), normed (1, 1, 1, 1);
               neurons 1*3 = 3, 0*1 = 0, 1*2 = 2; the MLP writes (3, 0, 2, 0); r_post = (10, 7, 9, 7)
Prompt "a b":  z = ((1, 1) + (1, -1)) / 2 = (1, 0); heads write (6, -6, 0, 0) and (0, 0, 6, -6);
               r_mid = (7, -7, 7, -7), normed (1, -1, 1, -1); neurons 1*3 = 3, 2*1 = 2, 0; the MLP writes (3, 2, 0, 2);
               r_post = (10, -5, 7, -5)
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import emotion_circuits as ec

A, AB = ec.Prompt.raw("a"), ec.Prompt.raw("a b")
V_MID, V_POST = torch.tensor([0.0, 1, 1, 0]), torch.tensor([1.0, 2, 1, 1])


@pytest.fixture(scope="module")
def model() -> ec.HookedModel:
    config = Qwen2Config(
        vocab_size=4, hidden_size=4, intermediate_size=3, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8, rms_norm_eps=0.0, hidden_act="relu", eos_token_id=3,
        pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    hf = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        hf.model.embed_tokens.weight.copy_(torch.tensor([[9.0, 9, 9, 9], [1, 1, 1, 1], [1, -1, 1, -1], [9, 9, 9, 9]]))
        layer = hf.model.layers[0]
        layer.self_attn.v_proj.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]]))
        # One row per input: z of head 0, then z of head 1.
        rows = [[6.0, -6, 0, 0], [0, 12, 0, 0], [0, 0, 6, -6], [0, 0, 0, 12]]
        layer.self_attn.o_proj.weight.copy_(torch.tensor(rows).T)
        layer.mlp.gate_proj.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, -2, 0, 0], [0, 1, 0, 0]]))
        layer.mlp.up_proj.weight.copy_(torch.tensor([[0.0, 0, 3, 0], [1, 0, 0, 0], [0, 0, 0, 2]]))
        layer.mlp.down_proj.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]]).T)
    inner = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "b": 2, "[END]": 3}, unk_token="[PAD]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", eos_token="[END]")
    return ec.HookedModel.from_hf(hf, tokenizer)


@pytest.fixture(scope="module")
def target() -> ec.DirectionTarget:
    return ec.DirectionTarget(None, torch.stack([V_MID] * 2), torch.stack([V_POST] * 2), torch.tensor([1.0, 0, 0, 0]))


@pytest.mark.parametrize(
    ("site", "a", "ab"),
    [
        ("resid_pre", [1, 1, 1, 1], [1, -1, 1, -1]),
        ("head", [[1, 1], [1, 1]], [[1, 0], [1, 0]]),
        ("attn_out", [6, 6, 6, 6], [6, -6, 6, -6]),
        ("resid_mid", [7, 7, 7, 7], [7, -7, 7, -7]),
        ("neuron", [3, 0, 2], [3, 2, 0]),
        ("mlp_out", [3, 0, 2, 0], [3, 2, 0, 2]),
        ("resid_post", [10, 7, 9, 7], [10, -5, 7, -5]),
    ],
)
def test_activations(model, site: str, a: list, ab: list) -> None:
    # Both prompts in one batch, so that "a" is padded; layer 1 writes nothing.
    recorded = model.record([AB, A], site)
    torch.testing.assert_close(recorded[0], torch.tensor([ab, a], dtype=torch.float32), atol=1e-5, rtol=0)
    last = (
        recorded[0] * 0
        if site not in ("resid_pre", "resid_mid", "resid_post")
        else model.record([AB, A], "resid_post")[0]
    )
    torch.testing.assert_close(recorded[1], last, atol=1e-5, rtol=0)


def test_writes(model) -> None:
    assert model.writes("neuron", 0).tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert model.writes("head", 0)[0].tolist() == [[6, -6, 0, 0], [0, 12, 0, 0]]
    assert model.writes("head", -2)[1].tolist() == [[0, 0, 6, -6], [0, 0, 0, 12]]


def test_direct_attribution(model, target) -> None:
    scores = ec.attribute(model, [A, AB], target, ec.DirectAttribution())
    # What a unit of each neuron writes along (1, 2, 1, 1): 1, 2 + 1 = 3, 1.
    assert scores.beta[0].tolist() == [1, 3, 1]
    # "a": 3, 0, 2. "a b": 3, 2 * 3 = 6, 0. Means 3, 3, 1; half the distances 0, 3, 1.
    torch.testing.assert_close(scores.values.neurons[0], torch.tensor([3.0, 3, 1]))
    torch.testing.assert_close(scores.std.neurons[0], torch.tensor([0.0, 3, 1]), atol=1e-3, rtol=0)
    # Along (0, 1, 1, 0): "a" 6 and 6, "a b" -6 and 6.
    torch.testing.assert_close(scores.values.heads[0], torch.tensor([0.0, 6]), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.positive.heads[0], torch.tensor([3.0, 6]), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.negative.heads[0], torch.tensor([-3.0, 0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.std.heads[0], torch.tensor([6.0, 0]), atol=1e-3, rtol=0)
    assert not scores.values.neurons[1].any()
    assert scores.n_samples == 2


def test_sum_identity(model) -> None:
    # On (1, 2, 1, 1), "a b": embedding 1 - 2 + 1 - 1 = -1, heads 6 - 12 = -6 and 6 - 6 = 0, neurons 3 + 6 + 0 = 9.
    along = ec.Projection(V_POST)
    scores = ec.attribute(model, [AB], along, ec.DirectAttribution())
    assert scores.values.heads[0].tolist() == pytest.approx([-6, 0])
    assert scores.values.neurons[0].tolist() == pytest.approx([3, 6, 0])
    # (10, -5, 7, -5) on it: 10 - 10 + 7 - 5 = 2 = -1 - 6 + 9.
    assert ec.measure(model, [AB], along).mean == pytest.approx(2)


def test_head_importance(model, target) -> None:
    scores = ec.attribute(model, [AB], target, ec.HeadImportance())
    # ln2(r_mid) = (1, -1, 1, -1): 0 on (0, 1, 1, 0). Without head 0 r_mid = (1, -1, 7, -7), mean square
    # (1 + 1 + 49 + 49) / 4 = 25, so (1, -1, 7, -7) / 5: 6 / 5. Without head 1 (7, -7, 1, -1) / 5: -6 / 5.
    assert scores.values.heads[0].tolist() == pytest.approx([-1.2, 1.2], abs=1e-6)
    assert scores.values.heads[1].tolist() == pytest.approx([0, 0], abs=1e-6)


def test_zero_ablation_of_a_head(model) -> None:
    # r_mid = (1, -1, 7, -7), normed (0.2, -0.2, 1.4, -1.4); neurons 0.2 * 4.2 = 0.84, 0.4 * 0.2 = 0.08, 0;
    # r_post = (1.84, -0.92, 7, -6.92): 1.84 - 1.84 + 7 - 6.92 = 0.08.
    patch = ec.Patch(ec.NodeSet.of(model, "L0H0"), ec.ZeroAblation())
    assert ec.measure(model, [AB], ec.Projection(V_POST), patch).mean == pytest.approx(0.08, abs=1e-5)


def test_enhancement_of_a_neuron(model) -> None:
    # Neuron 1 from 2 to 2 + 2 * 1: its write along the vector grows by 2 * 3, from 2 to 8.
    delta = ec.Activations(torch.tensor([[0.0, 1, 0], [0, 0, 0]]), torch.zeros(2, 2, 2))
    patch = ec.Patch(ec.NodeSet.of(model, "L0N1"), ec.Enhancement(delta, 2.0))
    assert ec.measure(model, [AB], ec.Projection(V_POST), patch).mean == pytest.approx(8, abs=1e-5)


def test_steering_and_projecting_out(model) -> None:
    # |(10, -5, 7, -5)| = sqrt(199); half of it along the first axis.
    first, ones = torch.tensor([[1.0, 0, 0, 0]] * 2), torch.full((2, 4), 0.5)
    steer = ec.Patch(ec.Residual.of(model, 0), ec.Steering(first, 0.5))
    assert ec.measure(model, [AB], ec.Projection(first[0]), steer).mean == pytest.approx(10 + 0.5 * 199**0.5, abs=1e-5)
    # On (1, 1, 1, 1) / 2: 7 / 2. Taking it out leaves 10 - 7 / 4 = 8.25 on the first axis.
    remove = ec.Patch(ec.Residual.of(model, 0), ec.ProjectOut(ones))
    assert ec.measure(model, [AB], ec.Projection(first[0]), remove).mean == pytest.approx(8.25, abs=1e-5)


def test_directions_and_contrast(model) -> None:
    group = [
        replace(A, emotion="anger", item="i", valence="neutral"),
        replace(AB, emotion="fear", item="i", valence="neutral"),
    ]
    directions = ec.fit_directions(model, group)
    # Half of (7, 7, 7, 7) - (7, -7, 7, -7) is (0, 7, 0, 7), of length 7 sqrt 2.
    assert directions.of("anger", "resid_mid")[0].tolist() == pytest.approx([0, 0.5**0.5, 0, 0.5**0.5], abs=1e-6)
    assert float(directions.norms[0, 0, 0]) == pytest.approx(7 * 2**0.5)
    # Half of (10, 7, 9, 7) - (10, -5, 7, -5) is (0, 6, 1, 6), of length sqrt 73.
    expected = [0, -6 / 73**0.5, -1 / 73**0.5, -6 / 73**0.5]
    assert directions.of("fear", "resid_post")[1].tolist() == pytest.approx(expected, abs=1e-6)
    # Mean rms after attention: both 7.
    assert float(directions.sigma[0, 0]) == pytest.approx(7)
    contrast = ec.attribute(model, group, directions.target("anger"), ec.DirectAttribution()).contrast
    # Half of (3, 0, 2) - (3, 2, 0), and of (1, 1) - (1, 0) in both heads.
    assert contrast.prompt.neurons[0].tolist() == pytest.approx([0, -1, 1])
    assert contrast.prompt.heads[0].flatten().tolist() == pytest.approx([0, 0.5, 0, 0.5])
