"""The cost model: sizes from configurations, FLOPs by a second count, and the command."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from emotion_circuits.control.bisection import Range
from emotion_circuits.errors import DataError, DeviceError, ModelError
from emotion_circuits.planning import Device, Lengths, ModelShape, Scale, data_of, device_named, plan, shape_of
from emotion_circuits.planning.cost import batches_of, cost_of
from emotion_circuits.planning.devices import KERNELS, PATCH_KERNELS
from emotion_circuits.planning.measuring import ROWS, circuit_patches, measured_device
from emotion_circuits.planning.workload import CANDIDATES, COMPARED, Job, expected_search, workload

FAST = Device("fast", flops=1e12, bandwidth=1e11, memory=16e9, passing=1e15, exponentials=1e15)
"""Products and weights alone take time on it."""


@pytest.mark.parametrize(
    ("name", "billions"),
    [("Qwen/Qwen2.5-0.5B", 0.494), ("Qwen/Qwen2.5-7B-Instruct", 7.61), ("Qwen/Qwen2.5-72B-Instruct", 72.7),
     ("meta-llama/Llama-3.1-8B-Instruct", 8.03), ("meta-llama/Meta-Llama-3-70B-Instruct", 70.6),
     ("meta-llama/Meta-Llama-3-8B", 8.03), ("meta-llama/Llama-3.3-70B-Instruct", 70.6)],
)  # fmt: skip
def test_known_shapes_have_the_published_number_of_parameters(name: str, billions: float) -> None:
    assert shape_of(name).parameters / 1e9 == pytest.approx(billions, rel=0.005)


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "mistral", "gemma3", "phi3"])
def test_a_configuration_gives_the_parameters_of_the_model(architecture: str, tmp_path) -> None:
    hf = tiny.hf_model(architecture)
    (tmp_path / "config.json").write_text(json.dumps(hf.config.to_dict()))
    matrices = {id(p): p.numel() for p in hf.parameters() if p.ndim == 2}
    assert shape_of(tmp_path).parameters == sum(matrices.values())
    assert shape_of(tmp_path / "config.json").dims == shape_of(tmp_path).dims


def test_the_demo_model_has_its_own_shape() -> None:
    assert shape_of("demo").dims.n_layers == 6


@pytest.mark.parametrize("rows", [1, 3])
def test_flops_are_those_that_torch_counts(rows: int) -> None:
    hf = tiny.hf_model("qwen2")
    shape = ModelShape.from_config("tiny", hf.config.to_dict())
    ids = torch.zeros(rows, 10, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        hf.set_attn_implementation("eager")
        hf(input_ids=ids, logits_to_keep=4, use_cache=False)
    found = cost_of(Job("", "score", rows, 6, 4), shape, FAST, 4, rows).flops
    assert found == pytest.approx(counter.get_total_flops(), rel=1e-6)


class Kernels(TorchDispatchMode):
    """Counts what torch starts; views start nothing."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        views = ("view", "expand", "transpose", "slice", "unsqueeze", "aten.t.", "lift_fresh")
        self.n += not any(name in str(func) for name in views)
        return func(*args, **(kwargs or {}))


def test_kernels_of_a_layer_are_those_that_torch_starts() -> None:
    """The difference of two depths is one layer."""

    def started(layers: int) -> int:
        hf = tiny.hf_model("qwen2", num_hidden_layers=layers).to(torch.bfloat16)
        hf.set_attn_implementation("sdpa")
        mask = torch.ones(2, 6, dtype=torch.long)
        mask[0, 0] = 0
        with torch.no_grad(), (counter := Kernels()):
            hf(input_ids=torch.ones(2, 6, dtype=torch.long), attention_mask=mask)
        return counter.n

    assert started(3) - started(2) == pytest.approx(KERNELS, abs=4)


def test_kernels_of_patches_are_those_that_torch_starts() -> None:
    model = tiny.model("qwen2")

    def started() -> int:
        ids = torch.zeros(ROWS, 1, dtype=torch.long)
        with torch.no_grad():
            model.hf(ids)  # what is made once, at the first call
            with Kernels() as counter:
                model.hf(ids)
        return counter.n

    plain = started()
    with model.patched(*circuit_patches(model)):
        patched = started()
    assert (patched - plain) / model.dims.n_layers == pytest.approx(PATCH_KERNELS, abs=1.5)


def test_a_measured_device_has_every_rate() -> None:
    device = measured_device(time.process_time)
    times = {"layer_seconds", "patch_seconds", "step_seconds", "prompt_seconds", "noise_seconds"}
    rates = {"flops", "bandwidth", "passing", "exponentials", "caching"}
    assert not device.assumed
    assert all(0 < getattr(device, name) < float("inf") for name in rates)
    assert all(0 <= getattr(device, name) < 0.1 for name in times)


def test_patches_and_caches_take_time() -> None:
    shape, job = shape_of("demo"), Job("", "generate", 8, 5, 3)
    slow = replace(FAST, patch_seconds=1e-3, caching=1e6)
    plain, cached, patched = (
        cost_of(job, shape, device, 4, 8).seconds
        for job, device in ((job, FAST), (job, slow), (replace(job, patched=True), slow))
    )
    assert patched - cached == pytest.approx(3 * shape.dims.n_layers * 1e-3)  # the prompts, and two tokens more
    keys = shape.dims.n_key_value_heads * shape.dims.d_head
    # Both steps are counted at half of the reply: joined (read and written) and read, keys and values.
    assert cached - plain == pytest.approx(2 * shape.dims.n_layers * 8 * 4 * 6 * keys * (5 + 1.5 + 1) / 1e6, rel=1e-3)


def test_cost_grows_as_work_does() -> None:
    shape, jobs = shape_of("Qwen/Qwen2.5-7B"), {n: Job("", "read", n, 100) for n in (256, 512)}
    one, two = (cost_of(job, shape, FAST, 2, 64) for job in jobs.values())
    assert two.flops == pytest.approx(2 * one.flops)
    assert two.seconds == pytest.approx(2 * one.seconds)
    single, batched = (cost_of(Job("", "generate", 256, 100, 50), shape, FAST, 2, rows).seconds for rows in (1, 64))
    assert single > 4 * batched  # the weights are read for every batch


def test_a_single_token_waits_for_the_weights() -> None:
    shape = shape_of("Qwen/Qwen2.5-7B")
    one = cost_of(Job("", "generate", 1, 1, 2), shape, FAST, 2, 1)
    read = 2 * (shape.body + shape.unembedding) / FAST.bandwidth
    assert one.seconds == pytest.approx(2 * read, rel=0.01)


def test_a_host_adds_to_a_cpu_and_hides_behind_a_gpu() -> None:
    shape, job = shape_of("Qwen/Qwen2.5-7B"), Job("", "read", 64, 100)
    slow = replace(FAST, layer_seconds=1e-3)
    alone, waiting, hidden = (
        cost_of(job, shape, device, 2, 64).seconds for device in (FAST, slow, replace(slow, overlaps=True))
    )
    assert waiting == pytest.approx(alone + shape.dims.n_layers * 1e-3)
    assert hidden == pytest.approx(alone)


def test_shared_prompts_are_read_once() -> None:
    shape = shape_of("demo")
    every, once = (cost_of(Job("", "generate", 60, 50, 1, repeats=k), shape, FAST, 4, 60).flops for k in (1, 6))
    assert once < every / 4


def test_sampling_draws_on_the_host() -> None:
    shape, device = shape_of("demo"), replace(FAST, noise_seconds=1e-6)
    greedy, sampled = (
        cost_of(Job("", "generate", 8, 5, 3, sampled=drawn), shape, device, 4, 8).seconds for drawn in (False, True)
    )
    assert sampled - greedy == pytest.approx(8 * 3 * shape.dims.d_vocab * 1e-6)


def test_searches_are_as_long_as_the_bisection_is() -> None:
    # Control at 1.0 alone: asked for 1; then for 0.71 and 0.84 below it, and for 2, 1.41 and 1.19 above.
    found = expected_search(Range(0.5, 2.0), places=1)
    assert (found.find, found.edges, found.controlled, found.rounds) == (1, 5, 1, 6)
    search = expected_search(Range())
    assert 1 < search.find < search.edges < search.rounds
    assert 0.5 < search.controlled < 1


def test_the_plan_has_the_pipelines_candidates_and_methods() -> None:
    from emotion_circuits.pipeline import search
    from emotion_circuits.pipeline.stages import METHODS

    assert len(search.circuit_recipes()) == CANDIDATES
    assert len(METHODS) == sum(n for n, _, _ in COMPARED)
    assert Range() == search.STRENGTHS


def test_jobs_count_what_the_pipeline_runs() -> None:
    shape, scale = shape_of("demo"), Scale(train=180, validation=90, test=192)
    jobs = workload(shape, scale, Lengths(40, 20))
    total = {stage: sum(job.n for job in jobs if job.stage == stage) for stage in ("elicit", "generate", "evaluate")}
    assert total == {"elicit": 7 * 180, "generate": 2 * 7 * 6 * 192, "evaluate": 2 * 7 * 6 * 192}
    (influence,) = (job for job in jobs if job.stage == "influence")
    assert influence.variants == 2 * 6 * 6 * 4


def test_batches_are_not_shared_between_calls() -> None:
    assert batches_of(Job("", "generate", 70, 1, 1, calls=7), 8) == 14


def test_more_devices_are_faster_by_as_much_as_there_are_batches() -> None:
    shape, scale, lengths = shape_of("Qwen/Qwen2.5-7B"), Scale.split(100_000), Lengths(60, 60)
    one, eight, many = (plan(shape, scale, lengths, device_named("H100"), n) for n in (1, 8, 800))
    assert eight.copies == 8
    assert one.elapsed["elicit"] / eight.elapsed["elicit"] == pytest.approx(8, rel=0.05)
    assert one.seconds / eight.seconds == pytest.approx(8, rel=0.05)
    assert many.efficiency < 1 and many.batch_size < one.batch_size
    assert one.costs["elicit"].flops == pytest.approx(many.costs["elicit"].flops)
    assert one.costs["directions"].flops == pytest.approx(many.costs["directions"].flops)


def test_large_models_are_spread_and_too_large_ones_refused() -> None:
    shape, scale, device = shape_of("Qwen/Qwen2.5-72B-Instruct"), Scale.split(1000), device_named("h100")
    spread = plan(shape, scale, Lengths(), device, 8)
    assert spread.devices_per_copy >= 2
    assert math.isclose(spread.weights, 145.4e9, rel_tol=0.01)
    with pytest.raises(DeviceError, match="--devices"):
        plan(shape, scale, Lengths(), device, 1)


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(DeviceError, match="H100"):
        device_named("abacus")
    with pytest.raises(ModelError, match="mixtures of experts"):
        ModelShape.from_config("moe", {"num_experts": 8})
    with pytest.raises(ModelError, match="lacks a size"):
        ModelShape.from_config("half", {"num_attention_heads": 8})
    with pytest.raises(ModelError, match="a list as its text_config"):
        ModelShape.from_config("list", {"text_config": [8]})
    with pytest.raises(ModelError, match=r"config\.json"):
        shape_of("nobody/no-such-model")
    with pytest.raises(DataError, match="at least 10"):
        data_of("3", 6)


SIZES = {
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
    "intermediate_size": 16, "vocab_size": 50,
}  # fmt: skip


@pytest.mark.parametrize("value", [0, -1, 10**400, 0.5, float("inf"), float("nan"), "8", True, [], {}])
@pytest.mark.parametrize("field", SIZES)
def test_sizes_that_are_none_are_refused(field: str, value: object) -> None:
    assert ModelShape.from_config("small", SIZES).dims.d_head == 4
    with pytest.raises(ModelError, match=f"as its {field}"):
        ModelShape.from_config("bad", SIZES | {field: value})


def test_sizes_that_a_configuration_leaves_open() -> None:
    left = {name: size for name, size in SIZES.items() if name not in ("num_key_value_heads", "head_dim")}
    for config in (left, {"text_config": left}, {"text_config": None, **left, "head_dim": None}):
        dims = ModelShape.from_config("open", config).dims
        assert (dims.n_key_value_heads, dims.d_head) == (2, 4)
    with pytest.raises(ModelError, match="as its head_dim"):
        ModelShape.from_config("narrow", left | {"num_attention_heads": 16})


def test_a_configuration_from_the_hub_runs_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig, Qwen2Config

    asked: list[dict] = []
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda _, **how: asked.append(how) or Qwen2Config())
    shape_of("somebody/some-model")
    assert asked == [{"trust_remote_code": False}]


def test_the_command_needs_no_model_and_no_network() -> None:
    from typer.testing import CliRunner

    from emotion_circuits.cli.app import app

    command = ["plan", "--model", "Qwen/Qwen2.5-72B-Instruct", "--data", "1e6"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    for word in ("1,000,000 items", "influence", "72.7 B parameters", "3 x H100", "assumed shares", "about"):
        assert word in shown.output, shown.output
    with pytest.raises(DeviceError, match="--devices 3 or more"):
        CliRunner().invoke(app, [*command, "--devices", "2"], catch_exceptions=False)
    assert "8 x H100" in CliRunner().invoke(app, [*command, "--devices", "8"]).output
    rows = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)
    assert [row["stage"] for row in rows][-1] == "all"
    assert rows[-1]["flops"] == pytest.approx(sum(row["flops"] for row in rows[:-1]))
