"""The parity check: it passes on what is right, and finds every kind of wrong that is planted here."""

from __future__ import annotations

import pytest
import tiny
import torch
from helpers import hooks_left
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2MLP

import emotion_circuits as ec
from emotion_circuits.model import check as check_module
from emotion_circuits.model import probes

NEURONS = "sum of neurons = MLP output"


def wrapped(hf) -> ec.HookedModel:
    return ec.HookedModel.from_hf(hf, tiny.tokenizer(), name="tampered")


def tampered(mlp: type) -> ec.HookedModel:
    hf = tiny.hf_model()
    for layer in hf.model.layers:
        layer.mlp.__class__ = mlp
    return wrapped(hf)


def worst(report, check: str) -> float:
    return report.to_frame().set_index("check").loc[check, "worst"]


# What is right


def test_every_architecture_passes(any_model) -> None:
    report = any_model.check()
    assert report.ok, str(report)
    assert all(finding.passed for finding in report.findings), "nothing was left out"


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma3", "phi3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_passes(architecture: str, dtype) -> None:
    report = tiny.model(architecture, dtype=dtype).check()
    assert report.ok, str(report)


def test_the_twin_is_exact_in_half_precision() -> None:
    report = tiny.model("qwen2", dtype=torch.bfloat16).check()
    assert worst(report, "logits: TransformerLens twin") == 0.0


def test_it_leaves_nothing_behind(qwen) -> None:
    before, attention = hooks_left(qwen.hf), qwen.hf.config._attn_implementation
    logits = qwen.logits(["home"])
    qwen.check()
    assert hooks_left(qwen.hf) == before
    assert qwen.hf.config._attn_implementation == attention
    assert torch.equal(qwen.logits(["home"]), logits)


def test_the_demo_model_passes() -> None:
    report = ec.HookedModel.demo().check()
    assert report.ok, str(report)
    assert report.seconds < 30


def test_ones_own_prompts(qwen) -> None:
    assert qwen.check(["home", "a friend called work and rain fell"]).ok


def test_one_token_is_enough_to_test_on(qwen) -> None:
    assert qwen.check([ec.Prompt.raw("home"), ec.Prompt.raw("rain fell")]).ok


def test_without_tokenizer_or_template() -> None:
    assert ec.HookedModel.from_hf(tiny.hf_model()).check().ok
    assert ec.HookedModel.from_hf(tiny.hf_model(), tiny.tokenizer(chat_template=None)).check().ok


def test_a_tokenizer_that_knows_none_of_the_words() -> None:
    tokenizer = tiny.tokenizer(chat_template=None)
    tokenizer.unk_token = "<|endoftext|>"
    model = ec.HookedModel.from_hf(tiny.hf_model(), tokenizer)
    model.tokenizer.backend_tokenizer.pre_tokenizer = None
    assert len({token for sequence in check_module._default_sequences(model) for token in sequence}) > 20


def test_prompts_are_cut_to_the_context() -> None:
    hf = tiny.hf_model(max_position_embeddings=40)
    assert ec.HookedModel.from_hf(hf).check().ok


# What is wrong


class PlusConstant(Qwen2MLP):
    """Adds something that no neuron wrote."""

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) + 0.01


class ReadsAnother(Qwen2MLP):
    """What the hook saw is not what was multiplied with ``down_proj``'s weight."""

    def forward(self, x):
        hidden = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        self.down_proj(hidden)
        return torch.nn.functional.linear(hidden.relu(), self.down_proj.weight)


class PastTheHook(Qwen2MLP):
    """Never calls ``down_proj``."""

    def forward(self, x):
        return torch.nn.functional.linear(self.act_fn(self.gate_proj(x)) * self.up_proj(x), self.down_proj.weight)


@pytest.mark.parametrize("mlp", [PlusConstant, ReadsAnother, PastTheHook])
def test_neurons_that_are_not_what_down_proj_reads(mlp: type) -> None:
    report = tampered(mlp).check()
    assert not report.ok
    assert NEURONS in report.failed
    assert "layer" in report.to_frame().set_index("check").loc[NEURONS, "where"]
    assert set(report.failed) <= {NEURONS, "activations: TransformerLens twin"}


def test_heads_that_are_not_all_of_attention() -> None:
    class Doubled(Qwen2Attention):
        def forward(self, *args, **kwargs):
            out, *rest = super().forward(*args, **kwargs)
            return 2 * out, *rest

    hf = tiny.hf_model()
    for layer in hf.model.layers:
        layer.self_attn.__class__ = Doubled
    assert "sum of heads = attention output" in wrapped(hf).check().failed


def test_one_layer_of_many_is_found() -> None:
    hf = tiny.hf_model()
    hf.model.layers[1].mlp.__class__ = PlusConstant
    report = wrapped(hf).check()
    where = report.to_frame().set_index("check").loc[NEURONS, "where"]
    assert "layer 1 " in where


def test_a_twin_with_other_weights() -> None:
    model = tiny.model()
    name, parameter = next((n, p) for n, p in model.tl.original_model.named_parameters() if n.endswith("weight"))
    module = model.tl.original_model.get_submodule(name.rpartition(".")[0])
    module.weight = torch.nn.Parameter(1.1 * parameter.detach(), requires_grad=False)
    failed = model.check().failed
    assert {"twin shares the weights", "logits: TransformerLens twin"} <= set(failed)


def test_a_model_that_sees_its_padding() -> None:
    model = tiny.model()

    def forget(module, args, kwargs):
        return args, kwargs | {"attention_mask": None, "position_ids": None}

    handle = model.hf.model.register_forward_pre_hook(forget, with_kwargs=True)
    try:
        assert "left-padded batch = alone" in model.check().failed
    finally:
        handle.remove()


def test_a_layer_that_adds_to_the_residual_by_itself() -> None:
    hf = tiny.hf_model()
    hf.model.layers[2].register_forward_hook(lambda module, args, output: output * 1.01)
    report = wrapped(hf).check()
    assert "residual after = before + written" in report.failed
    assert "layer 2 resid_post" in str(report)


def test_a_hook_left_behind_and_a_probe_that_breaks(monkeypatch, qwen) -> None:
    handles = []

    def careless(trial):
        handles.append(trial.model.hf.model.layers[0].register_forward_hook(lambda *_: None))
        yield 0.0, ""

    def broken(trial):
        raise ValueError("two\nlines")

    last = check_module.CHECKS[-1]
    planted = (("careless", careless, "model"), ("broken", broken, "model"), last)
    monkeypatch.setattr(check_module, "CHECKS", planted)
    report = qwen.check()
    handles[0].remove()
    assert report.failed == ("broken", last[0])
    assert report.findings[1].where == "ValueError: two"


def test_a_nan_fails() -> None:
    assert probes.largest(torch.tensor([0.0, float("nan")])) == float("inf")
    hf = tiny.hf_model()
    with torch.no_grad():
        hf.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    report = wrapped(hf).check()
    assert not report.ok
    assert "not a number" in str(report)


def test_one_token_with_huge_activations_hides_nothing() -> None:
    reference = torch.ones(2, 3)
    reference[0] *= 1e6
    value = reference.clone()
    value[1, 0] += 0.1
    assert probes.relative(value, reference) == pytest.approx(0.1, rel=1e-5)


# The report


def test_the_report(qwen) -> None:
    report = qwen.check()
    table = report.to_frame()
    assert list(table.columns) == ["check", "passed", "worst", "tolerance", "where"]
    assert len(table) == len(check_module.CHECKS)
    assert str(report).count("  pass  ") == len(table)
    assert str(report).endswith("all passed")
    assert (table["worst"] <= table["tolerance"]).all()
