"""Baked checkpoints: plain files whose logits are those of hooked generation, and refusals of what none can hold."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from helpers import prompts, served
from transformers import AutoModelForCausalLM, AutoTokenizer

import emotion_circuits as ec
from emotion_circuits.errors import ArtefactError, ModelError, PatchError
from emotion_circuits.interop.bake import bake

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
CASES = {
    "qwen2": {},
    "qwen2 tied": {"tie_word_embeddings": True},
    "llama": {},
    "llama with biases": {"attention_bias": True, "mlp_bias": True},
    "llama wide heads": {"head_dim": 16},
    "mistral": {"sliding_window": None},
    "qwen3": {},
}


def activations(model, seed: int = 0) -> ec.Activations:
    d, generator = model.dims, torch.Generator().manual_seed(seed)
    return ec.Activations(
        torch.randn(d.n_layers, d.d_mlp, generator=generator),
        torch.randn(d.n_layers, d.n_heads, d.d_head, generator=generator),
    )


def some_nodes(model, heads_only: bool = False) -> ec.NodeSet:
    heads = ec.NodeSet.of(model, "L0H1", "L1H0", "L1H3", "L2H2")
    return heads if heads_only else heads | ec.NodeSet.of(model, "L0N3", "L1N7", "L1N47", "L2N0")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_hooks(case: str, dtype: torch.dtype, tmp_path) -> None:
    model = tiny.model(case.split()[0], dtype=dtype, **CASES[case])
    nodes, add = some_nodes(model, heads_only=case == "qwen3"), ec.Enhancement(activations(model), 0.7)
    folder = bake(model, nodes, add, tmp_path / "baked")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    assert type(plain).__name__ == ("Qwen3ForCausalLM" if case == "qwen3" else "LlamaForCausalLM")
    moved = 0.0
    for ids in model.tokens(prompts(3)):
        tokens = torch.tensor([ids])
        with torch.no_grad():
            untouched = model.hf(tokens).logits
            with model.patched(ec.Patch(nodes, add, "all")):
                hooked = model.hf(tokens).logits
            served = plain(tokens).logits
        scale = float(hooked.abs().max())
        assert float((served - hooked).abs().max()) < TOLERANCE[dtype] * scale
        moved = max(moved, float((hooked - untouched).abs().max()) / scale)
    assert moved > 0.05


def test_generation_is_that_of_hooks(qwen, tmp_path) -> None:
    nodes, add = some_nodes(qwen), ec.Enhancement(activations(qwen), 0.7)
    folder = bake(qwen, nodes, add, tmp_path / "baked")
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    asked, options = prompts(1)[0], {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    ids = tokenizer.apply_chat_template(
        [{"role": r, "content": c} for r, c in asked.messages], add_generation_prompt=True, return_tensors="pt"
    )  # fmt: skip
    with qwen.patched(ec.Patch(nodes, add, "all")):
        hooked = qwen.hf.generate(**ids, **options)
    assert torch.equal(plain.generate(**ids, **options), hooked)
    assert ids["input_ids"][0].tolist() == qwen.tokens([asked])[0]


def test_a_constant_holds_one_phase(qwen, tmp_path) -> None:
    parts = activations(qwen, 1), activations(qwen, 2)
    add, nodes = ec.Enhancement(ec.Contrast("anger", "emotions", *parts), 0.5), some_nodes(qwen)
    tokens = torch.tensor([qwen.tokens(prompts(1))[0]])
    for phase, part in zip(("prompt", "reply"), parts, strict=True):
        options = {} if phase == "reply" else {"phase": "prompt"}  # the reply's part is the default
        folder = bake(qwen, nodes, add, tmp_path / phase, **options)
        plain = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad(), qwen.patched(ec.Patch(nodes, ec.Enhancement(part, 0.5), "all")):
            torch.testing.assert_close(plain(tokens).logits, qwen.hf(tokens).logits, rtol=1e-4, atol=1e-4)
        held = json.loads((folder / "emotion_circuit.json").read_text())
        assert (held["phase"], held["emotion"], held["strength"]) == (phase, "anger", 0.5)
        assert (held["n_neurons"], held["n_heads"]) == (4, 4)


def test_the_model_is_left_as_it_was(qwen, tmp_path) -> None:
    before = {name: tensor.clone() for name, tensor in qwen.hf.state_dict().items()}
    bake(qwen, some_nodes(qwen), ec.Enhancement(activations(qwen)), tmp_path / "baked")
    after = qwen.hf.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("gemma2", "architecture 'gemma2': a stock checkpoint can hold"),
        ("qwen3", "Qwen3 normalises queries and keys"),
        ("mistral", "attends to the last 8 tokens only"),
    ],
)
def test_what_no_stock_checkpoint_can_hold(architecture: str, reason: str, tmp_path) -> None:
    model = tiny.model(architecture)
    with pytest.raises(ModelError, match=reason):
        bake(model, some_nodes(model), ec.Enhancement(activations(model)), tmp_path / "baked")
    assert not list(tmp_path.iterdir())


def test_quantised_weights_and_full_disks(tmp_path, monkeypatch) -> None:
    model = tiny.model("llama")
    model.hf.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ModelError, match="its weights are quantised"):
        bake(model, some_nodes(model), ec.Enhancement(activations(model)), tmp_path / "baked")
    del model.hf.config.quantization_config
    monkeypatch.setattr(model.tokenizer, "save_pretrained", lambda folder: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(ArtefactError, match=r"cannot write .*full"):
        bake(model, some_nodes(model), ec.Enhancement(activations(model)), tmp_path / "baked")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_and_a_foreign_circuit_are_refused(qwen, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    add = ec.Enhancement(activations(qwen))
    with pytest.raises(ArtefactError, match="not an empty folder"):
        bake(qwen, some_nodes(qwen), add, tmp_path)
    foreign = ec.NodeSet(torch.ones(2, 48, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(PatchError, match="bake it into its own model"):
        bake(qwen, foreign, add, tmp_path / "baked")
    values, known = ec.NodeValues(torch.zeros(3, 48), torch.zeros(3, 4)), {"model": "tiny-qwen2", "weights": "others"}
    other = ec.Circuit("anger", some_nodes(qwen), qwen.dims, values, provenance=known)
    with pytest.raises(ArtefactError, match="the sizes are equal, the weights are not"):
        bake(qwen, other, add, tmp_path / "baked")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert bake(qwen, other, add, tmp_path / "baked", allow_mismatch=True).is_dir()


@pytest.mark.slow
def test_transformers_serves_it(qwen, tmp_path) -> None:
    """``transformers serve`` on the baked folder, asked through the openai client, gives the hooked greedy reply."""
    openai = pytest.importorskip("openai")
    nodes, add = some_nodes(qwen), ec.Enhancement(activations(qwen), 0.7)
    folder, asked = str(bake(qwen, nodes, add, tmp_path / "baked")), prompts(1)[0]
    messages = [{"role": role, "content": content} for role, content in asked.messages]
    with served(tmp_path / "log") as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300)  # it loads the model first
        answer = client.chat.completions.create(model=folder, messages=messages, max_tokens=8, temperature=0)
    hooked = ec.generate(qwen, [asked], ec.Patch(nodes, add, "all"), ec.GenerationConfig(max_new_tokens=8))[0].text
    assert hooked
    assert answer.choices[0].message.content.split() == hooked.split()
