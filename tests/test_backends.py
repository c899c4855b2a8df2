"""Backends: patches as vLLM specs, applied by TransformerLens's own worker code; and a server of OpenAI's protocol.

vLLM is not needed: its worker's hooks are put on a small Hugging Face model, where they must do what ours do.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import ids_of, prompts, served
from test_judges import Endpoint

import emotion_circuits as ec
from emotion_circuits.backends import OpenAIBackend, VLLMBackend, compile_patches
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.demo import MODEL_FOLDER
from emotion_circuits.errors import DataError, ModelError, PatchError, PromptError, RunError
from emotion_circuits.journal import open_journal
from emotion_circuits.pipeline import Settings, load_run, read_manifest, run_pipeline
from emotion_circuits.pipeline.manifest import write_manifest
from emotion_circuits.pipeline.verify import verify

# --- vLLM ---


def activations(model, seed: int = 0) -> Any:
    dims, generator = model.dims, torch.Generator().manual_seed(seed)
    shapes = ((dims.d_mlp,), (dims.n_heads, dims.d_head), (dims.d_model,), (dims.d_model,))
    return ec.Activations(*(torch.randn(dims.n_layers, *shape, generator=generator) for shape in shapes))


@contextmanager
def workers_hooks(model, *, per_position: bool) -> Iterator:
    """TransformerLens's compiled-mode hooks where vLLM has them; yields its worker, which takes the specs."""
    from transformer_lens.model_bridge.sources.vllm.overlays import DEFAULT_VLLM_OVERLAY
    from transformer_lens.model_bridge.sources.vllm.plugin import _make_capture_hook
    from transformer_lens.model_bridge.sources.vllm.worker_extension import TLWorkerExtension, resolve_dot_path

    worker = TLWorkerExtension()
    worker._tl_scale_buffers, worker._tl_bias_buffers, handles, rows = {}, {}, [], 128

    def attach(module, name: str, width: int) -> None:
        shape = (rows, width) if per_position else (width,)
        scale, bias = torch.ones(shape), torch.zeros(shape)
        worker._tl_scale_buffers[name], worker._tl_bias_buffers[name] = scale, bias
        counts = (torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64))
        theirs = _make_capture_hook(torch.zeros(rows, width), scale, bias, *counts, per_position=per_position)

        def hook(module, args, output):  # vLLM's activations have no batch axis
            value = output[0] if isinstance(output, tuple) else output
            new: Any = theirs(module, args, value.flatten(0, 1))
            new = new.view_as(value)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        handles.append(module.register_forward_hook(hook))

    for name, (path, width) in DEFAULT_VLLM_OVERLAY.capture_specs(model.hf.config).items():
        if name.startswith("blocks"):
            attach(resolve_dot_path(model.hf, path), name, width)
    try:
        yield worker
    finally:
        for handle in handles:
            handle.remove()


def check_spec(model, patches: list[ec.Patch], asked: Prompt | None = None) -> None:
    """The compiled specs are valid, and change every position's logits as our own hooks do."""
    from transformer_lens.model_bridge.sources.vllm.intervention_specs import validate_spec

    ids = torch.tensor([ids_of(model, asked or prompts(2)[1])])
    specs = compile_patches(patches, model, prompt_tokens=ids.shape[1])
    for name, spec in specs.items():
        validate_spec(name, spec, width=model.dims.d_model)
    with torch.no_grad():
        plain = model.hf(ids).logits
        with model.patched(*patches):
            ours = model.hf(ids).logits
        with workers_hooks(model, per_position=True) as worker:
            worker.tl_set_interventions(specs)
            theirs = model.hf(ids).logits
    acts = any(isinstance(p.positions, torch.Tensor) or p.positions != "generated" for p in patches)
    assert bool((ours - plain).abs().max() > 0.01) == acts == bool(specs)
    assert torch.allclose(theirs, ours, atol=2e-5 * float(ours.abs().max())), float((theirs - ours).abs().max())


def interventions(model) -> dict[str, tuple[Any, Any]]:
    held = activations(model)
    add, mean = ec.Enhancement(held, 0.7), ec.MeanAblation(held)
    some = ec.NodeSet.of(model, "L0N3", "L1N5", "L1N40", "L2N0", "L0H1", "L2H0", "L2H3")
    layer = ec.NodeSet.all(model).in_layers([1])
    ablations = {"zero": ec.ZeroAblation(), "mean": mean, "scale": ec.Scale(0.4)}
    return {
        "neurons": (some.only("neuron"), add),
        "heads": (some.only("head"), add),
        **{f"all neurons, {n}": (layer.only("neuron"), i) for n, i in ablations.items()},
        **{f"all heads, {n}": (layer.only("head"), i) for n, i in ablations.items()},
        **{f"residual, {n}": (ec.Residual.of(model, 1), i) for n, i in (ablations | {"add": add}).items()},
        "resid_mid, add": (ec.Residual.of(model, 0, 2, site="resid_mid"), add),
        "resid_pre, scale": (ec.Residual.of(model, 1, site="resid_pre"), ec.Scale(0.4)),
        "attn_out, zero": (ec.Residual.of(model, 1, site="attn_out"), ec.ZeroAblation()),
        "mlp_out, scale": (ec.Residual.of(model, 1, site="mlp_out"), ec.Scale(-2.0)),
    }


def test_specs_do_what_patches_do(qwen) -> None:
    for nodes, intervention in interventions(qwen).values():
        check_spec(qwen, [ec.Patch(nodes, intervention, "all")])


def test_positions(qwen) -> None:
    n = len(ids_of(qwen, prompts(2)[1]))
    mask = torch.arange(n - 2)[None] % 3 == 0  # two tokens shorter than the prompt, aligned at its end
    for kind in ("neurons", "heads", "residual, mean"):
        for positions in ("last_prompt", "last", "prompt", "all", "generated", mask):
            check_spec(qwen, [ec.Patch(*interventions(qwen)[kind], positions)])


def test_every_architecture(any_model) -> None:
    held = interventions(any_model)
    check_spec(any_model, [ec.Patch(*held["neurons"], "all"), ec.Patch(*held["heads"], "all")])
    check_spec(any_model, [ec.Patch(*held["all heads, mean"], "last_prompt")])


def test_biases_behind_a_node_are_carried_along() -> None:
    import tiny

    model = tiny.model("llama", mlp_bias=True, attention_bias=True)
    held = interventions(model)
    for name in ("all neurons, zero", "all heads, mean", "neurons"):
        check_spec(model, [ec.Patch(*held[name], "all")])
    with pytest.raises(PatchError, match=r"a factor \(0.4\) and a shift come together"):  # the bias is not scaled
        compile_patches(ec.Patch(*held["all neurons, scale"], "all"), model)


def test_patches_that_meet_are_put_together(qwen) -> None:
    held, add = interventions(qwen), ec.Enhancement(activations(qwen, 1), -0.3)
    of_heads = ec.Patch(held["heads"][0], add, "all")
    patches = [
        ec.Patch(*held["resid_mid, add"], "all"), of_heads, ec.Patch(*held["heads"], "all"),
        ec.Patch(*held["neurons"], "all"), ec.Patch(*held["all neurons, mean"], "all"),
    ]  # fmt: skip
    specs = compile_patches(patches, qwen)
    assert [(name, spec["op"]) for name, spec in specs.items() if "blocks.1." not in name] == [
        ("blocks.0.attn.hook_out", "add"), ("blocks.0.mlp.hook_out", "add"),
        ("blocks.2.attn.hook_out", "add"), ("blocks.2.mlp.hook_out", "add"),
    ]  # fmt: skip
    assert specs["blocks.1.mlp.hook_out"]["op"] == "set"
    check_spec(qwen, patches)
    with pytest.raises(PatchError, match=r"different positions meet at blocks\.0\.attn"):
        compile_patches([of_heads, ec.Patch(*held["heads"], "last_prompt")], qwen, prompt_tokens=9)


def refused_patches(model) -> list[tuple[str, ec.Patch]]:
    held, some = activations(model), ec.NodeSet.of(model, "L1N5", "L2H0")
    vectors = held.resid_post / held.resid_post.norm(dim=-1, keepdim=True)
    residual, samples = ec.Residual.of(model, 1), ec.Samples(torch.zeros(3, 2, 48), torch.zeros(3, 2, 4, 8))
    add, two_parts = ec.Enhancement(held), ec.Contrast("fear", "emotions", held, held * 2.0)
    return [
        ("ResampleAblation: it gives each sample", ec.Patch(some, ec.ResampleAblation(samples), "all")),
        ("CounterfactualPatch: it gives each sample", ec.Patch(some, ec.CounterfactualPatch(samples), "all")),
        ("Clamp: a bound is not", ec.Patch(some, ec.Clamp(0.0), "all")),
        ("Steering: .* use Enhancement", ec.Patch(residual, ec.Steering(vectors, 0.1), "all")),
        ("ProjectOut: it mixes", ec.Patch(residual, ec.ProjectOut(vectors), "all")),
        ("Scheduled: its strength follows", ec.Patch(some, ec.Scheduled(add, ec.Ramp(3)), "all")),
        ("one part for prompt tokens and one", ec.Patch(some, ec.Enhancement(two_parts), "all")),
        ("positions 'last' cannot be expressed while replies", ec.Patch(some, add, "last")),
        ("given by a mask cannot", ec.Patch(some, add, torch.ones(1, 4, dtype=torch.bool))),
        ("1 heads of layer 2 .* fused kernel", ec.Patch(some.only("head"), ec.ZeroAblation(), "all")),
        ("1 neurons of layer 1 .* fused kernel", ec.Patch(some, ec.MeanAblation(held), "all")),
        ("never holds resid_mid", ec.Patch(ec.Residual.of(model, 1, site="resid_mid"), ec.Scale(0.5), "all")),
        ("no place before layer 0", ec.Patch(ec.Residual.of(model, 0, site="resid_pre"), ec.Scale(0.5), "all")),
        ("run the rows", ec.Patch(some, add, "all", rows=(1,))),
    ]


def test_what_cannot_be_expressed_is_refused_with_the_reason(qwen) -> None:
    for reason, patch in refused_patches(qwen):
        with pytest.raises(PatchError, match=reason):
            compile_patches(patch, qwen)


def test_a_norm_behind_the_sublayer_is_refused() -> None:
    import tiny

    model = tiny.model("gemma2")
    with pytest.raises(PatchError, match="norms what the sublayer writes"):
        compile_patches(ec.Patch(ec.Residual.of(model, 1, site="mlp_out"), ec.Scale(0.5), "all"), model)


@pytest.fixture
def engine(qwen, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Stands for ``vllm.LLM``: the same calls, TransformerLens's worker, Hugging Face's decoding."""
    package, inputs = ModuleType("vllm"), ModuleType("vllm.inputs")
    package.SamplingParams, inputs.TokensPrompt = SimpleNamespace, dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.inputs", inputs)

    def reply(asked: dict, params: SimpleNamespace) -> SimpleNamespace:
        ids = torch.tensor([asked["prompt_token_ids"]])
        options = {"max_new_tokens": params.max_tokens, "do_sample": False, "eos_token_id": 2, "pad_token_id": 0}
        out = qwen.hf.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=out[0, ids.shape[1] :].tolist())])

    with workers_hooks(qwen, per_position=False) as worker:
        yield SimpleNamespace(
            collective_rpc=lambda name, args=(): getattr(worker, name)(*args),
            generate=lambda asked, params, use_tqdm: [reply(a, p) for a, p in zip(asked, params, strict=True)],
            worker=worker,
        )


def test_vllm_replies_as_hooks_do(qwen, engine) -> None:
    held, config = interventions(qwen), ec.GenerationConfig(max_new_tokens=6)
    patches = [ec.Patch(*held["neurons"], "all", rows=(0, 2)), ec.Patch(*held["residual, scale"], "all", rows=(1, 2))]
    backend = VLLMBackend(engine, qwen.tokenizer, qwen, engine.worker._tl_bias_buffers, "tiny")
    theirs = ec.generate(backend, prompts(4), patches, config, method="circuit", batch_size=2)
    engine.collective_rpc("tl_set_interventions", ({},))
    assert theirs == ec.generate(qwen, prompts(4), patches, config, method="circuit")
    assert theirs != ec.generate(qwen, prompts(4), None, config, method="circuit")


def test_vllm_says_what_it_lacks(qwen, engine) -> None:
    patch = ec.Patch(*interventions(qwen)["neurons"], "all")
    with pytest.raises(ModelError, match="patches need the model's weights"):
        ec.generate(VLLMBackend(engine, qwen.tokenizer), prompts(1), patch)
    with pytest.raises(PatchError, match=r"without a hook at blocks.0.mlp.hook_out.*boot"):
        ec.generate(VLLMBackend(engine, qwen.tokenizer, qwen, ["blocks.1.mlp.hook_out"]), prompts(1), patch)
    with pytest.raises(ModelError, match="no ban on repeated n-grams"):
        ec.generate(VLLMBackend(engine, qwen.tokenizer), prompts(1), None, ec.GenerationConfig.preset("paper"))


def test_without_vllm_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match=r"vLLM is not installed.*emotion-circuits\[vllm\]"):
        VLLMBackend.boot(str(MODEL_FOLDER))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="vLLM needs a CUDA GPU")
def test_vllm_itself() -> None:
    pytest.importorskip("vllm", reason='vLLM is not installed: pip install "emotion-circuits[vllm]"')
    model, config = ec.HookedModel.demo(device="cuda"), ec.GenerationConfig(max_new_tokens=24)
    nodes = ec.NodeSet.of(model, "L1N3", "L2H0")
    patch = ec.Patch(nodes, ec.Enhancement(activations(model), 0.3), "all")
    asked = ec.load_sev("demo")[2].limit(4).prompts("fear")
    backend = VLLMBackend.boot(
        str(MODEL_FOLDER), model, [patch], dtype="float32", gpu_memory_utilization=0.3, max_model_len=512
    )
    for acting in ([], [patch]):
        ours, theirs = (ec.generate(source, asked, acting, config).texts for source in (model, backend))
        assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 0.9 * len(ours)  # kernels round differently


# --- a server of OpenAI's protocol ---


class Echo(Endpoint):
    """Answers a prompt with its own last word; ``refused`` words get status 400."""

    refused: frozenset[str] = frozenset()

    def play(self, handler, behaviour: str, body: dict) -> None:
        words = body["messages"][-1]["content"].split()
        super().play(handler, "400" if self.refused & set(words) else behaviour, body)

    @staticmethod
    def content(behaviour: str, body: dict) -> str:
        return f" it is {body['messages'][-1]['content'].split()[-1]}"


@pytest.fixture
def server() -> Iterator:
    made = []

    def start(*script: str, **options) -> tuple[Echo, OpenAIBackend]:
        made.append(Echo(*script))
        options = {"backoff": 0.02, "timeout": 5.0, "api_key_env": "BACKEND_TEST_KEY", **options}
        return made[-1], OpenAIBackend("m", made[-1].url, **options)

    yield start
    for each in made:
        each.close()


def numbered(n: int) -> list[Prompt]:
    return [Prompt.user(f"say {i}", "be brief") for i in range(n)]


def test_replies_come_in_order_whatever_the_server_does(server) -> None:
    echo, backend = server("429", "500", "half", "broken json", "503")
    seen: list[int] = []
    config = ec.GenerationConfig(max_new_tokens=9, temperature=0.5, top_p=0.9, stop=("END",), seed=3)
    replies = ec.generate(
        backend, numbered(20), None, config, method="prompting", on_reply=lambda i, reply: seen.append(i)
    )
    assert replies.texts == [f"it is {i}" for i in range(20)]
    assert sorted(seen) == list(range(20))
    assert len(echo.requests) == 25
    body = next(b for b, _ in echo.requests if b["messages"][-1]["content"] == "say 7")
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    wanted = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop": ["END"], "seed": config.seed_of(7) % 2**31}
    assert {name: body[name] for name in wanted} == wanted


def test_failures_are_kept_and_tried_again_when_taken_up(server, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BACKEND_TEST_KEY", "sk-secret")
    echo, backend = server()
    echo.refused = frozenset("37")
    path = tmp_path / "replies.journal"
    with open_journal(path) as journal:
        first = ec.generate(backend, numbered(9), journal=journal)
    assert [r.error is None for r in first] == [i not in (3, 7) for i in range(9)]
    assert len(first.answered) == 7
    assert "status 400" in str(first[3].error)
    first.save(tmp_path / "replies.jsonl")
    assert ec.Replies.load(tmp_path / "replies.jsonl") == first
    assert ec.LexiconJudge()(first.texts)[3].label is None  # unscored, and no "no"
    echo.refused, n_asked = frozenset(), len(echo.requests)
    with open_journal(path) as journal:
        again = ec.generate(backend, numbered(9), journal=journal)
    assert again.texts == [f"it is {i}" for i in range(9)]
    assert len(echo.requests) == n_asked + 2
    assert "sk-secret" not in path.read_text() + (tmp_path / "replies.jsonl").read_text() + repr(vars(backend))


def test_an_interruption_loses_nothing(server, tmp_path: Path) -> None:
    echo, backend = server()

    def interrupt(index: int, reply: ec.Reply) -> None:
        if len(echo.requests) >= 30:
            raise InterruptedError

    for on_reply in (interrupt, None):
        with open_journal(tmp_path / "replies.journal") as journal:
            try:
                replies = ec.generate(backend, numbered(100), on_reply=on_reply, batch_size=8, journal=journal)
            except InterruptedError:
                n_kept = len((tmp_path / "replies.journal").read_text().splitlines())
    assert replies.texts == [f"it is {i}" for i in range(100)]
    assert n_kept >= 23  # of the 30 that were asked, at most those in flight are asked again
    assert len(echo.requests) <= 100 + 2 * 8


def test_a_server_takes_no_patches_and_not_every_setting(qwen, server) -> None:
    echo, backend = server()
    with pytest.raises(PatchError, match=r"no hook reaches.*ec\.bake"):
        ec.generate(backend, prompts(1), ec.Patch(*interventions(qwen)["neurons"], "all"))
    with pytest.raises(ModelError, match="min_new_tokens, repetition_penalty, no_repeat_ngram_size"):
        ec.generate(backend, prompts(1), None, ec.GenerationConfig.preset("paper"))
    with pytest.raises(PromptError, match="prompt 1 is raw text"):
        ec.generate(backend, [prompts(1)[0], Prompt.raw("Once")])
    with pytest.raises(ModelError, match="hands on whole replies"):
        ec.generate(backend, prompts(1), on_text=lambda index, piece: None)
    assert not echo.requests


@pytest.mark.slow
def test_a_real_server_replies_as_the_model_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``transformers serve`` with the demo model, asked by elicitation, by the command, and to verify its run."""
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    model, train = ec.HookedModel.demo(), ec.load_sev("demo")[0].limit(2)
    emotions, config = ("anger", "fear"), ec.GenerationConfig(max_new_tokens=60)
    here = ec.elicit(model, train, emotions, config=config)
    run, options = tmp_path / "run", ["--backend", "openai", "--emotions", "anger,fear", "--limit", "2"]
    with served(tmp_path / "log") as url:
        there = ec.elicit(OpenAIBackend(str(MODEL_FOLDER), url, model.tokenizer), train, emotions, config=config)
        command = [sys.executable, "-m", "emotion_circuits", "elicit", "--out", str(run), "--base-url", url, *options]
        subprocess.run(command, check=True, timeout=300)
        again = verify(run, base_url=url)
        assert again.ok, again.to_frame().to_string()
        with pytest.raises(ModelError, match="the server's address is missing: give --base-url"):
            verify(run)
    assert there.texts == here.texts
    assert [r.tokens for r in there] == [r.tokens for r in here]
    # The server is gone, and not needed: what it replied is there.
    settings = Settings(emotions=emotions, limit=2, backend="openai")
    made = run_pipeline(settings, run, until="elicit").replies("fear")
    assert made.texts == [r.text for r in here if r.emotion == "fear"]


def test_a_run_names_its_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ModelError, match="the server's address is missing: give --base-url"):
        run_pipeline(Settings(backend="openai", limit=1), tmp_path, until="elicit")
    with pytest.raises(RunError, match="backend: 'openai' then, 'local' now"):
        run_pipeline(Settings(limit=1), tmp_path, until="elicit")
    # A folder may come from anybody: it does not say where the user's key goes.
    manifest = read_manifest(tmp_path)
    manifest["settings"] |= {"base_url": "http://elsewhere/v1", "judge_url": "http://elsewhere/v1"}
    write_manifest(tmp_path, manifest)
    assert (load_run(tmp_path).settings.base_url, load_run(tmp_path).settings.judge_url) == (None, None)
    with pytest.raises(DataError, match="no backend is called 'cloud'; use local, vllm, openai"):
        Settings(backend="cloud")
