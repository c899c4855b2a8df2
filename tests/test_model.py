"""The wrapper gives Hugging Face's numbers, batched or not, and leaves the Hugging Face model alone."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from helpers import hooks_left, ids_of, instructed, naive_record, naive_run, prompts

import emotion_circuits as ec
from emotion_circuits.errors import DeviceError, ModelError, NodeError, PromptError
from emotion_circuits.model.tokens import render
from emotion_circuits.types import SITES


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# The numbers


def test_logits_are_hugging_faces(any_model) -> None:
    asked = prompts(4)
    naive = torch.stack([any_model.hf(torch.tensor([ids_of(any_model, p)])).logits[0, -1] for p in asked])
    close(any_model.logits(asked, batch_size=1), naive)
    close(any_model.logits(asked), naive)  # one left-padded batch
    close(any_model.logits(list(reversed(asked)), batch_size=3), naive.flip(0))


@pytest.mark.parametrize("site", SITES)
def test_record_is_the_naive_recording(any_model, site: str) -> None:
    asked = prompts(3)
    naive = naive_record(any_model, asked, site)
    recorded = any_model.record(asked, site)
    assert recorded.shape == (3, 3, *any_model.dims.unit_shape(site))
    close(recorded, naive, 2e-5)
    close(any_model.record(asked, site, batch_size=1, layers=[2, 0]), naive[[2, 0]], 2e-5)


@pytest.mark.parametrize("site", SITES)
def test_record_agrees_with_transformer_lens(any_model, site: str) -> None:
    prompt = prompts(2)[1]
    _, cache = any_model.tl.run_with_cache(torch.tensor([ids_of(any_model, prompt)]))
    name = {"neuron": "mlp.hook_post", "head": "attn.hook_z"}.get(site, f"hook_{site}")
    held = torch.stack([cache[f"blocks.{l}.{name}"][0, -1] for l in range(3)])
    close(any_model.record([prompt], site)[:, 0], held, 2e-5)


def test_the_two_views_share_their_weights(any_model) -> None:
    # Storage, not pointer: a fused projection is seen through slices.
    ours = {p.untyped_storage().data_ptr() for p in any_model.hf.parameters()}
    assert all(p.untyped_storage().data_ptr() in ours for p in any_model.tl.parameters())


def test_an_edit_of_a_weight_shows_in_both_views() -> None:
    model = tiny.model("qwen2")
    ids = torch.tensor([ids_of(model, prompts(1)[0])])
    before = model.hf(ids).logits
    model.hf.model.layers[1].mlp.down_proj.weight.mul_(2)
    after = model.hf(ids).logits
    assert (after - before).abs().max() > 0.1
    close(model.tl(ids), after)
    close(model.writes("neuron", 1), model.tl.W_out[1])


def test_hugging_faces_model_is_untouched(any_model, tmp_path) -> None:
    architecture = any_model.name.removeprefix("tiny-")
    hf = tiny.hf_model(architecture)
    keys, implementation = list(hf.state_dict()), hf.config._attn_implementation
    modules = {name: type(module) for name, module in hf.named_modules()}
    wrapped = ec.HookedModel.from_hf(hf, tiny.tokenizer())
    assert wrapped.hf is hf
    assert list(hf.state_dict()) == keys
    assert hf.config._attn_implementation == implementation
    assert {name: type(module) for name, module in hf.named_modules()} == modules
    assert hooks_left(hf) == 0
    hf.save_pretrained(tmp_path)
    assert type(hf).from_pretrained(tmp_path).num_parameters() == hf.num_parameters()


def test_unembed_and_norm_weight(any_model) -> None:
    asked = prompts(2)
    close(any_model.unembed(any_model.record(asked, "resid_post")[-1]), any_model.logits(asked))
    resid = torch.randn(1, any_model.dims.d_model)
    normed = any_model.final_norm(resid)
    rms = (resid.square().mean() + 1e-6).sqrt()
    close(normed, resid / rms * any_model.norm_weight(any_model.final_norm), 1e-4)


def test_writes_rebuild_what_a_sublayer_writes(plain_model) -> None:
    asked = prompts(2)
    for layer in (0, -1):
        mlp = plain_model.record(asked, "neuron", [layer])[0] @ plain_model.writes("neuron", layer)
        close(plain_model.record(asked, "mlp_out", [layer])[0], mlp, 2e-5)
        z = plain_model.record(asked, "head", [layer])[0]
        heads = torch.einsum("bhd,hdm->bm", z, plain_model.writes("head", layer))
        close(plain_model.record(asked, "attn_out", [layer])[0], heads, 2e-5)


def test_without_heads_is_the_removal_of_each(any_model) -> None:
    (prompt,) = prompts(1)
    resid, z = any_model.record([prompt], "resid_mid"), any_model.record([prompt], "head")
    without = any_model.without_heads(1, resid[1], z[1])[0]
    for head in range(4):
        edits = {("head", 1): lambda value, head=head: value.index_fill(1, torch.tensor([head]), 0.0)}
        close(without[head], naive_run(any_model.hf, ids_of(any_model, prompt), edits)["resid_mid", 1][-1], 2e-5)


# Positions


@pytest.fixture(scope="module")
def replies(qwen) -> ec.Replies:
    made = [
        ec.Reply(prompt, "", tuple(range(4, 4 + n)), prompt.emotion)
        for prompt, n in zip(instructed(2), (1, 5, 2, 7, 3, 4, 4, 1, 6, 2, 2, 3), strict=True)
    ]
    return ec.Replies(tuple(made))


@pytest.mark.parametrize("site", ["resid_post", "neuron", "head"])
def test_positions_of_replies(qwen, replies, site: str) -> None:
    runs, n_prompt = [], []
    for reply in replies:
        ids = ids_of(qwen, reply.prompt)
        n_prompt.append(len(ids))
        runs.append(naive_run(qwen.hf, [*ids, *reply.tokens]))
    chosen = {
        "last_prompt": lambda x, n: x[n - 1], "generated": lambda x, n: x[n:].mean(0),
        "last": lambda x, n: x[n - 1 :].mean(0), "prompt": lambda x, n: x[:n].mean(0), "all": lambda x, n: x.mean(0),
    }  # fmt: skip
    for position, reduce in chosen.items():
        naive = torch.stack(
            [torch.stack([reduce(run[site, l], n) for run, n in zip(runs, n_prompt, strict=True)]) for l in range(3)]
        )
        for batch_size in (1, 5, None):
            close(qwen.record(replies, site, positions=position, batch_size=batch_size), naive)


def test_prompts_have_no_generated_tokens(qwen) -> None:
    close(qwen.record(prompts(2), "resid_mid", positions="last"), qwen.record(prompts(2), "resid_mid"))
    with pytest.raises(PromptError, match="no token at positions 'generated'; give replies with at least one token"):
        qwen.record(prompts(2), "resid_mid", positions="generated")


# Prompts and tokens


@pytest.mark.parametrize(
    "prompt", [*prompts(2), ec.Prompt.user("home"), ec.Prompt((("user", "a"), ("assistant", "b"), ("user", "c")))]
)
def test_token_ids_are_the_templates(qwen, prompt) -> None:
    assert qwen.tokens([prompt]) == [ids_of(qwen, prompt)]


def test_a_started_reply_is_continued() -> None:
    tokenizer = tiny.tokenizer()
    ids = render(tokenizer, ec.Prompt((("user", "home"), ("assistant", "rain fell"))))
    assert tokenizer.decode(ids[-2:]) == "rain fell"


def test_a_template_without_system_role_gets_it_in_the_first_turn() -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    tokenizer = tiny.tokenizer(refusing + tiny.TEMPLATE)
    ids = render(tokenizer, ec.Prompt.user("rain fell", "keep the reply"))
    expected = [{"role": "user", "content": "keep the reply\n\nrain fell"}]
    assert ids == tokenizer.apply_chat_template(expected, add_generation_prompt=True)["input_ids"]


def test_batches_are_padded_on_the_left(qwen) -> None:
    (batch,) = qwen.batches(prompts(3))
    lengths = [len(ids_of(qwen, prompts(3)[i])) for i in batch.samples.tolist()]
    assert lengths == sorted(lengths)
    assert batch.mask.sum(1).tolist() == lengths
    assert batch.mask[:, -1].all()
    assert batch.last_prompt.unique().tolist() == [batch.ids.shape[1] - 1]
    for row, length in enumerate(lengths):
        assert batch.position_ids[row, -length:].tolist() == list(range(length))
    assert [b.samples.tolist() for b in qwen.batches(prompts(3), 2, sort=False)] == [[0, 1], [2]]


def test_what_prompts_are_read_from(qwen) -> None:
    single = ec.Prompt.user("home")
    assert (
        qwen.tokens("home")
        == qwen.tokens(single)
        == qwen.tokens(["home"])
        == qwen.tokens(ec.Replies((ec.Reply(single, "", ()),)))
    )
    with pytest.raises(TypeError, match="cannot read prompts from int; give a SEV, prompts, replies or strings"):
        qwen.tokens(3)
    with pytest.raises(TypeError, match="cannot read a prompt from Reply"):
        qwen.tokens([ec.Reply(single, "", ())])


# Errors


def test_no_chat_template() -> None:
    model = ec.HookedModel.from_hf(tiny.hf_model(), tiny.tokenizer(None))
    with pytest.raises(ModelError, match=r"has no chat template.*choose an instruct model.*Prompt.raw"):
        model.logits(["home"])
    assert model.logits([ec.Prompt.raw("home rain fell")]).shape == (1, 64)


def test_no_tokenizer() -> None:
    with pytest.raises(ModelError, match=r"without a tokenizer; pass one to HookedModel.from_hf\(model, tokenizer\)"):
        ec.HookedModel.from_hf(tiny.hf_model()).logits(["home"])


def test_prompts_that_do_not_fit(qwen) -> None:
    with pytest.raises(PromptError, match=r"prompt 1 has 3.. tokens, but the model's context holds 256; shorten it"):
        qwen.logits(["home", "home " * 300])
    with pytest.raises(PromptError, match="prompt 0 has no tokens"):
        qwen.logits([ec.Prompt.raw("")])
    with pytest.raises(PromptError, match="there are no prompts to record; give at least one"):
        qwen.record([], "resid_post")


def test_missing_and_broken_models(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"cannot load the model 'nobody/nothing'.*Give a Hugging Face name such as"):
        ec.HookedModel.from_pretrained("nobody/nothing")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(ModelError, match=r"The folder must hold config.json, safetensors weights and a tokenizer"):
        ec.HookedModel.from_pretrained(tmp_path)


def test_round_trip_through_a_folder(qwen, tmp_path) -> None:
    qwen.hf.save_pretrained(tmp_path)
    qwen.tokenizer.save_pretrained(tmp_path)
    loaded = ec.HookedModel.from_pretrained(tmp_path, dtype="float32", device="cpu")
    # Same ids: AutoTokenizer reads any tokenizer of a qwen2 folder as Qwen's own kind, which a word-level one is not.
    ids = torch.tensor([ids_of(qwen, prompts(1)[0])])
    close(loaded.hf(ids).logits, qwen.hf(ids).logits, 1e-6)
    assert loaded.dims == qwen.dims
    half = ec.HookedModel.from_pretrained(tmp_path, device="cpu")
    assert half.dtype == torch.bfloat16
    assert half.record(prompts(1), "neuron").dtype == torch.float32


def test_dtype_and_device() -> None:
    with pytest.raises(ModelError, match="unknown dtype 'int3'; use one of bfloat16, float16, float32, float64"):
        ec.HookedModel.from_pretrained("x", dtype="int3")
    with pytest.raises(DeviceError, match="unknown device 'gpu'; use cpu, cuda, cuda:1, mps or auto"):
        ec.HookedModel.from_pretrained("x", device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_absent_cuda() -> None:
    with pytest.raises(DeviceError, match="'cuda' was asked for, but torch sees no CUDA GPU; use --device cpu"):
        ec.HookedModel.from_pretrained("x", device="cuda")


def test_sites_and_layers_that_are_not_there(qwen) -> None:
    with pytest.raises(ValueError, match="unknown site 'resid'"):
        qwen.record(prompts(1), "resid")
    with pytest.raises(NodeError, match="layer 3 is outside the model, which has layers 0 to 2"):
        qwen.record(prompts(1), "resid_post", [3])
    with pytest.raises(NodeError, match="has no nodes that write; use 'neuron' or 'head'"):
        qwen.writes("resid_post", 0)


def test_an_architecture_that_transformer_lens_does_not_know() -> None:
    hf = tiny.hf_model()
    hf.config.architectures = ["NoSuchForCausalLM"]
    with pytest.raises(ModelError, match="TransformerLens cannot wrap NoSuchForCausalLM"):
        ec.HookedModel.from_hf(hf)
