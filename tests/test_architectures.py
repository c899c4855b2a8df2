"""Architectures, dtypes, devices and quantised weights: what works everywhere, and what is refused."""

from __future__ import annotations

import pytest
import tiny
import torch
import transformers
from helpers import instructed, prompts
from torch import nn

import emotion_circuits as ec
from emotion_circuits.errors import ModelError, NodeError, PatchError, PromptError
from emotion_circuits.model import writes

SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 256, "eos_token_id": 2, "bos_token_id": None, "pad_token_id": 0,
}  # fmt: skip
GROUPED = SMALL | {"num_key_value_heads": 2}
EXPERTS = GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def build(name: str, config: dict, **options) -> ec.HookedModel:
    torch.manual_seed(0)
    hf = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**config, **options))
    return ec.HookedModel.from_hf(hf, tiny.tokenizer(), name=name)


def gpt2() -> ec.HookedModel:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=256, eos_token_id=2)
    hf = transformers.GPT2LMHeadModel(config)
    for parameter in hf.parameters():
        nn.init.normal_(parameter, std=0.2)
    return ec.HookedModel.from_hf(hf, tiny.tokenizer(), name="gpt2")


# Sums: what nodes are said to write is what the model adds


@pytest.mark.parametrize("n", [1, 4])
def test_the_scores_of_all_nodes_sum_to_what_was_written(any_model, n: int) -> None:
    asked = prompts(n)
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))
    found = ec.attribute(any_model, asked, ec.Projection(vector), ec.DirectAttribution())
    for values, out in ((found.values.neurons, "mlp_out"), (found.values.heads, "attn_out")):
        written = (any_model.record(asked, out) @ vector).mean(dim=1)
        assert torch.allclose(values.sum(dim=1), written, atol=1e-4, rtol=1e-4)


def test_embedding_and_all_nodes_are_the_final_projection(any_model) -> None:
    asked, vector = prompts(3), torch.randn(32, generator=torch.Generator().manual_seed(2))
    found = ec.attribute(any_model, asked, ec.Projection(vector), ec.DirectAttribution())
    start = (any_model.record(asked, "resid_pre", [0])[0] @ vector).mean()
    final = (any_model.record(asked, "resid_post", [-1])[0] @ vector).mean()
    total = start + found.values.neurons.sum() + found.values.heads.sum()
    assert total == pytest.approx(float(final), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
def test_a_normed_write_by_hand(architecture: str) -> None:
    model = tiny.model(architecture)
    vector = torch.randn(32, generator=torch.Generator().manual_seed(3))
    asked = instructed()
    target = ec.Projection(vector, emotion="fear")
    found = ec.attribute(model, asked, target, ec.DirectAttribution())
    mine = [p for p in asked if p.emotion == "fear"]
    layer = model.hf.model.layers[1]
    a = model.record(mine, "neuron", [1])[0]
    raw = a @ layer.mlp.down_proj.weight.T
    norm = layer.post_feedforward_layernorm
    scale = 1 / (raw.square().mean(dim=-1, keepdim=True) + norm.eps).sqrt()
    beta = (layer.mlp.down_proj.weight * (1 + norm.weight)[:, None]).T @ vector
    each = a * scale * beta
    assert torch.allclose(found.values.neurons[1], each.mean(dim=0), atol=1e-5)
    assert torch.allclose(found.std.neurons[1], each.std(dim=0, unbiased=False), atol=1e-4)  # type: ignore[union-attr]
    assert torch.allclose(found.positive.neurons[1], each.relu().mean(dim=0), atol=1e-5)  # type: ignore[union-attr]
    targets = [ec.Projection(vector, emotion=emotion) for emotion in ("anger", "sadness", "fear")]
    heads = torch.stack([ec.attribute(model, asked, target, ec.DirectAttribution()).values.heads for target in targets])
    assert torch.allclose(found.centred.heads, heads[2] - heads.mean(dim=0), atol=1e-5)  # type: ignore[union-attr]


def test_activations_are_kept_as_they_are(any_model) -> None:
    asked = instructed()
    found = ec.attribute(any_model, asked, ec.Projection(torch.ones(32), emotion="fear"), ec.DirectAttribution())
    assert torch.allclose(found.means.neurons, any_model.record(asked, "neuron").mean(dim=1), atol=1e-5)  # type: ignore[union-attr]
    fear = any_model.record([p for p in asked if p.emotion == "fear"], "neuron").mean(dim=1)
    assert torch.allclose(found.contrast.prompt.neurons, fear - found.means.neurons, atol=1e-5)  # type: ignore[union-attr]


def test_a_write_norm_that_is_no_rms_norm_is_refused(monkeypatch) -> None:
    model = tiny.model("gemma2")
    monkeypatch.setattr(model.sites, "write_norm", lambda sublayer, layer: nn.LayerNorm(32))
    with pytest.raises(
        ModelError, match="not an RMS norm, so closed-form scores have no exact form; use ActivationPatching"
    ):
        ec.attribute(model, prompts(2), ec.Projection(torch.ones(32)), ec.DirectAttribution())


# Mixtures of experts


@pytest.fixture(scope="module", params=["Mixtral", "Qwen2Moe", "Qwen3Moe"])
def experts(request) -> ec.HookedModel:
    if request.param == "Mixtral":
        return build("Mixtral", GROUPED, num_local_experts=4, num_experts_per_tok=2)
    own = (
        {"shared_expert_intermediate_size": 24, "mlp_only_layers": [0]}
        if request.param == "Qwen2Moe"
        else {"head_dim": 8}
    )
    return build(request.param, EXPERTS, **own)


def test_a_mixture_of_experts_has_no_neurons_but_everything_else(experts) -> None:
    assert experts.dims.d_mlp == 0
    assert experts.dims.n_nodes == 3 * 4
    report = experts.check()
    assert report.ok, str(report)
    assert {f.check for f in report.findings if f.passed is None} == {"sum of neurons = MLP output"}


def test_neurons_of_a_mixture_are_refused(experts) -> None:
    message = "mixture of experts, where a neuron would be a unit of one expert"
    with pytest.raises(ModelError, match=message):
        experts.record(prompts(2), "neuron", [1, 2])
    with pytest.raises(ModelError, match=message):
        experts.writes("neuron", 2)
    with pytest.raises(ModelError, match=message):
        ec.attribute(experts, prompts(2), ec.Projection(torch.ones(32)), ec.DirectAttribution())
    with pytest.raises(NodeError, match="outside the model"):
        ec.NodeSet.of(experts, "L0N1")


def test_heads_of_a_mixture_are_nodes(experts) -> None:
    asked = instructed()
    directions = ec.fit_directions(experts, asked)
    scores = ec.attribute(experts, asked, directions.target("fear"), ec.HeadImportance())
    top = scores.top(2)
    assert len(top) == 2
    assert len(scores.to_frame()) == 12
    with experts.patched(ec.Patch(top, ec.ZeroAblation())):
        assert not torch.equal(experts.logits(asked[:2]), torch.zeros(2, 64))
    assert torch.isfinite(ec.sublayer_influence(experts, prompts(2), directions).values).all()


# Other architectures


def test_gpt2_hooks_and_closed_form() -> None:
    model = gpt2()
    report = model.check()
    assert report.ok, str(report)
    asked, vector = [ec.Prompt.raw("home rain fell"), ec.Prompt.raw("work")], torch.randn(32)
    found = ec.attribute(model, asked, ec.Projection(vector), ec.DirectAttribution())
    # Here projections have biases, which no node writes.
    bias = torch.stack([block.mlp.c_proj.bias for block in model.hf.transformer.h]) @ vector
    written = (model.record(asked, "mlp_out") @ vector).mean(dim=1)
    assert torch.allclose(found.values.neurons.sum(dim=1) + bias, written, atol=1e-4)


def test_parallel_layers_have_no_residual_between_attention_and_mlp() -> None:
    model = build("GPTNeoX", SMALL | {"bos_token_id": 2})
    report = model.check()
    # Queries, keys and values lie interleaved in one matrix, of which TransformerLens makes copies.
    assert report.failed == ("twin shares the weights",), str(report)
    message = "attention and MLP read the same residual and run in parallel"
    with pytest.raises(ModelError, match=message):
        model.record(prompts(2), "resid_mid")
    with pytest.raises(ModelError, match=message):
        ec.fit_directions(model, instructed())
    with (
        pytest.raises(ModelError, match=message),
        model.patched(ec.Patch(ec.Residual.of(model, 1, site="resid_mid"), ec.Scale(0.5))),
    ):
        pass
    assert model.record(prompts(2), "resid_post").shape == (3, 2, 32)


def test_olmo2_norms_its_writes_too() -> None:
    model = build("Olmo2", GROUPED)
    assert model.check().ok
    vector = torch.randn(32)
    found = ec.attribute(model, prompts(3), ec.Projection(vector), ec.DirectAttribution())
    written = (model.record(prompts(3), "mlp_out") @ vector).mean(dim=1)
    assert torch.allclose(found.values.neurons.sum(dim=1), written, atol=1e-4)


# dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("architecture", ["qwen2", "gemma3"])
def test_statistics_are_float32_or_better(architecture: str, dtype) -> None:
    model, reference = tiny.model(architecture, dtype=dtype), tiny.model(architecture)
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    asked = instructed()
    assert model.record(asked, "neuron").dtype == wanted
    assert model.record(asked, "neuron", positions="all").dtype == wanted
    assert model.logits(asked[:2]).dtype == wanted
    directions, expected = ec.fit_directions(model, asked), ec.fit_directions(reference, asked)
    agreement = (directions.vectors * expected.vectors).sum(dim=-1)
    assert directions.vectors.dtype == torch.float32
    assert agreement.min() > (0.9 if dtype.itemsize == 2 else 1 - 1e-5)
    scores = ec.attribute(model, asked, directions.target("fear"), ec.DirectAttribution())
    assert scores.values.neurons.dtype == scores.beta.dtype == torch.float32  # type: ignore[union-attr]
    influence = ec.sublayer_influence(model, prompts(2), directions)
    assert torch.isfinite(influence.values).all()
    replies = ec.generate(
        model, prompts(2), ec.Patch(scores.top(4), ec.Scale(2.0)), ec.GenerationConfig(max_new_tokens=3)
    )
    assert len(replies) == 2


# Devices


def test_a_dispatched_model_is_the_model(qwen, tmp_path) -> None:
    from accelerate import dispatch_model

    hf = tiny.hf_model()
    names = [
        "model.embed_tokens",
        "model.norm",
        "model.rotary_emb",
        "lm_head",
        *(f"model.layers.{i}" for i in range(3)),
    ]
    hf = dispatch_model(hf, dict.fromkeys(names, "cpu"), force_hooks=True)
    assert hasattr(hf.model.layers[1], "_hf_hook")
    model = ec.HookedModel.from_hf(hf, tiny.tokenizer(), name="dispatched")
    assert torch.equal(model.logits(prompts(3)), qwen.logits(prompts(3)))
    report = model.check()
    assert report.ok, str(report)
    directions = ec.fit_directions(model, instructed())
    assert torch.equal(directions.vectors, ec.fit_directions(qwen, instructed()).vectors)
    mine, theirs = (ec.sublayer_influence(m, prompts(2), directions).values for m in (model, qwen))
    assert torch.allclose(mine, theirs, atol=1e-5)


def test_device_map_is_passed_on(tmp_path) -> None:
    tiny.hf_model().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    model = ec.HookedModel.from_pretrained(tmp_path, dtype="float32", device_map="cpu")
    assert model.check().ok


# Quantised weights


class Int8Params(nn.Parameter):
    """Stands in for bitsandbytes' class of the same name."""


def quantised(model: ec.HookedModel) -> ec.HookedModel:
    for layer in model.hf.model.layers:
        layer.mlp.down_proj.weight = Int8Params(torch.ones(32, 48, dtype=torch.int8), requires_grad=False)
    return model


def test_eight_bit_weights_are_dequantised_where_that_is_possible(monkeypatch) -> None:
    model = quantised(tiny.model())
    import transformers.integrations.bitsandbytes as theirs

    monkeypatch.setattr(theirs, "dequantize_bnb_weight", lambda weight, state: weight.float() * 0.5)
    assert torch.equal(model.writes("neuron", 1), torch.full((48, 32), 0.5))


def test_eight_bit_weights_without_bitsandbytes_are_refused() -> None:
    pytest.importorskip("transformers")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        with pytest.raises(ModelError, match="8-bit or 4-bit, and reading what nodes write needs bitsandbytes"):
            quantised(tiny.model()).writes("neuron", 0)
    else:
        pytest.skip("bitsandbytes is installed")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_weights_quantised_by_others_are_refused(dtype) -> None:
    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(torch.zeros(4, 4).to(dtype), requires_grad=False)
    with pytest.raises(ModelError, match=r"Linear has weights of type .*only bitsandbytes'"):
        writes.projection_weight(module)
    with pytest.raises(ModelError, match="Identity has no plain weight"):
        writes.projection_weight(nn.Identity())


# Errors


def test_what_does_not_fit_is_said_at_the_call(qwen) -> None:
    with pytest.raises(
        NodeError, match="L3N0 is outside the model: it has layers 0 to 2, neurons 0 to 47 and heads 0 to 3"
    ):
        ec.NodeSet.of(qwen, "L3N0")
    wider = ec.NodeSet.all(tiny.model(intermediate_size=64))
    with (
        pytest.raises(PatchError, match="build the node set with this model"),
        qwen.patched(ec.Patch(wider, ec.Scale(1.0))),
    ):
        pass
    deeper = ec.Residual.of(tiny.model(num_hidden_layers=5), 4)
    with (
        pytest.raises(PatchError, match="names layer 4; the model has layers 0 to 2"),
        qwen.patched(ec.Patch(deeper, ec.Scale(1.0))),
    ):
        pass
    with pytest.raises(PromptError, match="but the model's context holds 256; shorten it"):
        qwen.tokens([ec.Prompt.raw("home " * 300)])


def test_unknown_architectures_are_named() -> None:
    class Strange(transformers.Qwen2ForCausalLM):
        pass

    hf = Strange(transformers.Qwen2Config(**GROUPED))
    with pytest.raises(ModelError, match="TransformerLens cannot wrap Strange"):
        ec.HookedModel.from_hf(hf)
