"""Memory: estimates, automatic batch sizes, running out of it, and how much recording keeps alive."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import tiny
import torch
from helpers import EMOTIONS, instructed, prompts
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import emotion_circuits as ec
from emotion_circuits.errors import DeviceError, ModelError, PromptError
from emotion_circuits.evaluation.text_quality import log_likelihoods
from emotion_circuits.model import estimates, memory
from emotion_circuits.model.batching import run_batches
from emotion_circuits.model.estimates import STAGES, Rate, fitting_rows
from emotion_circuits.model.tokens import pad


@contextmanager
def little_memory(model: ec.HookedModel, rows: int, error: type[Exception] = torch.OutOfMemoryError, text: str = ""):
    """The model fails for more than ``rows`` rows; yields the sizes that were tried."""
    tried: list[int] = []

    def refuse(module, args, kwargs):
        n = len(args[0] if args else kwargs["input_ids"])
        if not tried or tried[-1] != n:
            tried.append(n)
        if n > rows:
            raise error(text or "CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = model.hf.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield tried
    finally:
        handle.remove()


class Peak(TorchDispatchMode):
    """Counts the bytes of tensors that are created inside and alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given:
                storage = tensor.untyped_storage()
                self._held[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._held = {key: held for key, held in self._held.items() if not held[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self._held.values()))
        return result


# Running out of it


@pytest.fixture(scope="module")
def directions(qwen) -> ec.EmotionDirections:
    return ec.fit_directions(qwen, instructed())


def tokens_of(model: ec.HookedModel) -> torch.Tensor:
    config = ec.GenerationConfig(max_new_tokens=5, temperature=1.0)
    return torch.tensor(
        [len(reply.tokens) + sum(reply.tokens) for reply in ec.generate(model, prompts(7), config=config)]
    )


RUNS = {
    "logits": lambda model, directions: model.logits(prompts(7)),
    "record": lambda model, directions: model.record(prompts(7), "neuron"),
    "measure": lambda model, directions: ec.measure(model, prompts(7), directions.target("anger")).values,
    "generate": lambda model, directions: tokens_of(model),
    "directions": lambda model, directions: ec.fit_directions(model, instructed()).vectors,
    "attribute": lambda model, directions: ec.attribute(
        model, instructed(), directions.target("fear"), ec.DirectAttribution()
    ).values.neurons,
    "heads": lambda model, directions: ec.attribute(
        model, instructed(), directions.target("fear"), ec.HeadImportance()
    ).values.heads,
    "influence": lambda model, directions: ec.sublayer_influence(model, prompts(5), directions).values,
    "score": lambda model, directions: torch.cat(log_likelihoods(model, replies())),
}  # fmt: skip


def replies() -> ec.Replies:
    return ec.Replies(tuple(ec.Reply(p, "", tuple(range(4, 5 + i))) for i, p in enumerate(prompts(5))))


@pytest.mark.parametrize("run", RUNS)
def test_a_batch_that_is_too_large_is_halved_and_nothing_is_lost(qwen, directions, run: str) -> None:
    expected = RUNS[run](qwen, directions)
    with little_memory(qwen, 2) as tried:
        found = RUNS[run](qwen, directions)
    assert max(tried) > 2
    assert torch.allclose(found.float(), expected.float(), atol=1e-5, rtol=1e-4)


def test_patches_with_rows_survive_the_halving(qwen) -> None:
    nodes = ec.NodeSet.of(qwen, "L0N1", "L1H2")
    patches = [ec.Patch(nodes, ec.Scale(float(i)), "all").on([i]) for i in range(6)]
    with qwen.patched(*patches):
        expected = qwen.logits(prompts(6))
        with little_memory(qwen, 1):
            found = qwen.logits(prompts(6))
    assert torch.allclose(found, expected, atol=1e-5)


def test_later_batches_start_at_the_smaller_size(qwen) -> None:
    with little_memory(qwen, 2) as tried:
        qwen.logits(prompts(16), batch_size=8)
    assert tried == [8, 4, 2]


def test_work_is_done_once_for_every_row() -> None:
    batch = pad([[1], [2, 3], [4], [5], [6]], range(5), 0, [0] * 5)
    done: list[int] = []

    def work(part):
        if len(part) > 2:
            raise RuntimeError("MPS backend out of memory")
        return part.ids[:, -1].tolist()

    for part, last in run_batches([batch], work):
        assert part.ids.shape[1] == 2, "padding stays, so masks keep their columns"
        done += last
    assert done == [1, 3, 4, 5, 6]


def test_one_row_that_does_not_fit(qwen) -> None:
    with (
        little_memory(qwen, 0),
        pytest.raises(DeviceError, match=r"one row of \d+ tokens does not fit into the memory"),
    ):
        qwen.logits(prompts(3))


def test_other_errors_are_not_swallowed(qwen) -> None:
    with little_memory(qwen, 0, RuntimeError, "shapes do not match"), pytest.raises(RuntimeError, match="shapes"):
        qwen.logits(prompts(3))


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, is_it: bool) -> None:
    assert memory.is_out_of_memory(error) == is_it


# Choosing the batch size


def test_the_batch_size_follows_the_free_memory(qwen, monkeypatch) -> None:
    row = estimates._row(qwen, "record", 20, 0)
    for rows in (1, 5, 10):
        monkeypatch.setattr(memory, "free_memory", lambda device, n=rows: int(n * row / estimates._USABLE) + row // 2)
        assert fitting_rows(qwen, "record", 20) == rows
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)
    assert fitting_rows(qwen, "record", 20) == 1
    assert [len(batch) for batch in qwen.batches(prompts(3))] == [1, 1, 1]
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**50)
    assert [len(batch) for batch in qwen.batches(prompts(140))] == [128, 12]


def test_a_given_batch_size_wins(qwen, monkeypatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)
    assert [len(batch) for batch in qwen.batches(prompts(5), 3)] == [3, 2]
    monkeypatch.setattr(qwen, "batch_size", 4)
    assert [len(batch) for batch in qwen.batches(prompts(5))] == [4, 1]


def test_free_memory_of_this_machine_and_of_no_device() -> None:
    assert 0 < memory.free_memory("cpu") < 2**50
    assert memory.free_memory("meta") >= 2**60


def test_prompt_and_reply_have_to_fit_into_the_context(qwen) -> None:
    long = ec.GenerationConfig(max_new_tokens=300)
    with pytest.raises(
        PromptError, match=r"prompt 0 has \d+ tokens and a reply of 300, but the model's context holds 256"
    ):
        ec.generate(qwen, prompts(2), config=long)


# Estimates


@pytest.mark.parametrize("stage", STAGES)
def test_more_of_anything_takes_more(qwen, stage: str) -> None:
    rate = Rate(1e9, 1e8)

    def of(n=100, prompt=50, reply=20, rows=4):
        return qwen.estimate(stage, n, prompt, reply, rows, rate=rate)

    base = of()
    assert set(base.parts) == {"weights", "activations", "kept", "logits", "cache"}
    assert of(rows=16).peak > base.peak
    assert of(prompt=100).peak > base.peak
    assert of(n=1000).peak == base.peak
    assert of(n=1000).seconds == pytest.approx(10 * base.seconds)  # type: ignore[operator]


def test_weights_and_cache_are_exact(any_model) -> None:
    found = any_model.estimate("generate", 4, 13, 7, 4).parts
    assert found["weights"] == sum(p.numel() * p.itemsize for p in any_model.hf.parameters())
    ids = torch.zeros(4, 20, dtype=torch.long)
    held = any_model.hf(input_ids=ids, use_cache=True).past_key_values
    sizes = [layer.keys.untyped_storage().nbytes() + layer.values.untyped_storage().nbytes() for layer in held.layers]
    # A sliding window may keep less.
    assert max(sizes) * len(sizes) == found["cache"]


def test_too_little_memory_names_the_batch_that_would_fit(qwen) -> None:
    enough = qwen.estimate("attribute", 500, 60, batch_size=64)
    assert enough.fits
    scarce = qwen.estimate("attribute", 500, 60, batch_size=64, available=enough.peak // 2)
    assert not scarce.fits
    assert 0 < scarce.largest_batch_size < 64  # type: ignore[operator]
    assert f"batch_size={scarce.largest_batch_size} is the largest" in str(scarce)
    again = qwen.estimate("attribute", 500, 60, batch_size=scarce.largest_batch_size, available=enough.peak // 2)
    assert again.fits
    hopeless = qwen.estimate("attribute", 500, 60, available=1000)
    assert hopeless.largest_batch_size == 0
    assert "not even one row" in str(hopeless)


def test_time_from_a_given_rate(qwen) -> None:
    body = sum(p.numel() for n, p in qwen.hf.named_parameters() if "embed" not in n and "lm_head" not in n)
    dims = qwen.dims
    attention = 4 * dims.n_layers * dims.n_heads * dims.d_head * 25
    found = qwen.estimate("directions", 100, 50, batch_size=100, rate=Rate(1e6, 1e12)).seconds
    assert found == pytest.approx(100 * 50 * (2 * body + attention) / 1e6)
    weights = sum(p.numel() * 4 for p in qwen.hf.parameters())
    waiting = qwen.estimate("directions", 100, 50, batch_size=10, rate=Rate(1e15, 1e6)).seconds
    assert waiting == pytest.approx(10 * weights / 1e6)


def test_the_rate_of_this_machine(qwen) -> None:
    found = qwen.estimate("record", 10, 20)
    assert 0 < found.seconds < 60
    assert "about" in str(found)
    assert list(found.to_frame().columns) == ["part", "bytes"]


def test_estimates_that_cannot_be_made(qwen) -> None:
    with pytest.raises(ModelError, match="unknown stage 'cooking'; the stages are record"):
        qwen.estimate("cooking", 1, 1)
    with pytest.raises(ModelError, match="meta device cannot be timed"):
        Rate.measured(ec.HookedModel.from_hf(tiny.hf_model().to("meta")))


# What recording keeps


def test_recording_keeps_what_was_asked_for_and_no_more() -> None:
    model = tiny.model(num_hidden_layers=12)
    asked = [ec.Prompt.raw("rain " * 150) for _ in range(4)]
    (batch,) = model.batches(asked)
    with torch.no_grad(), Peak() as plain:
        model.hf.base_model(**batch.inputs(), use_cache=False)
    excess = {}
    for site in ("resid_post", "neuron", "head"):
        with Peak() as peak:
            kept = model.record(asked, site)
        excess[site] = peak.bytes - plain.bytes
        # Each layer's clone, their stack, and its copy in the order of the prompts.
        assert excess[site] <= 4 * kept.nbytes
    with Peak() as mean:
        model.record(asked, "neuron", positions="all")
    assert mean.bytes - plain.bytes <= 4 * kept.nbytes + 2 * batch.mask.numel() * model.dims.d_mlp * 4
    _, cache = model.tl.run_with_cache(batch.ids, attention_mask=batch.mask.long())
    held = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in cache.values()}
    assert max(excess.values()) < 0.05 * sum(held.values())


def test_recording_does_not_grow_with_the_prompt() -> None:
    model = tiny.model()

    def excess(n_tokens: int) -> int:
        asked = [ec.Prompt.raw("rain " * n_tokens) for _ in range(4)]
        (batch,) = model.batches(asked)
        with torch.no_grad(), Peak() as plain:
            model.hf.base_model(**batch.inputs(), use_cache=False)
        with Peak() as peak:
            model.record(asked, "neuron")
        return peak.bytes - plain.bytes

    assert excess(200) <= excess(50) + 4 * 200 * 16  # ids, mask and position ids


def test_emotions_are_those_of_the_prompts(directions) -> None:
    assert directions.emotions == EMOTIONS
