"""Qwen2.5-7B-Instruct without its weights: its sizes, what the stages need, and what is stored for it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest
import tiny
import torch
import transformers
from helpers import instructed, prompts

import emotion_circuits as ec
from emotion_circuits.attribution import direct

QWEN_7B = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768,
}  # fmt: skip
# Sizes of a small model in which every number means one thing, and what it stands for in the large one.
MEANS = {5: 28, 7: 28, 8: 128, 56: 3584, 96: 18944, 6: 6, 2: 2, 1: 1}
BYTES = 100e6


@pytest.fixture(scope="module")
def seven() -> ec.HookedModel:
    with torch.device("meta"):
        hf = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**QWEN_7B)).to(torch.bfloat16)
    return ec.HookedModel.from_hf(hf, tiny.tokenizer(), name="Qwen/Qwen2.5-7B-Instruct")


def test_the_7b_model_without_its_weights(seven) -> None:
    dims = seven.dims
    assert (dims.n_layers, dims.n_heads, dims.n_key_value_heads, dims.d_model, dims.d_head, dims.d_mlp) == (
        28, 28, 4, 3584, 128, 18944,
    )  # fmt: skip
    assert dims.n_neurons == 530_432
    assert dims.n_nodes - dims.n_neurons == 784
    assert seven.writes("neuron", 27).shape == (18944, 3584)
    assert seven.writes("head", 0).shape == (28, 128, 3584)
    nodes = ec.NodeSet.of(seven, "L21N10234", "L18H7")
    assert len(nodes) == 2
    assert len(~nodes) == 530_432 + 784 - 2
    with seven.patched(ec.Patch(nodes, ec.ZeroAblation())):
        pass


@pytest.mark.parametrize("stage", ["directions", "attribute", "heads", "influence", "generate", "score"])
def test_the_7b_model_fits_into_24_gigabytes(seven, stage: str) -> None:
    found = seven.estimate(stage, 2880, 120, 100, available=24 * 10**9)
    assert found.fits
    assert found.largest_batch_size >= 16  # type: ignore[operator]
    assert 15.2e9 < found.parts["weights"] < 15.3e9


def tensors_of(held, name: str = "") -> dict[int, tuple[str, torch.Tensor]]:
    """Every tensor that an object holds, each once."""
    if isinstance(held, torch.Tensor):
        return {held.untyped_storage()._cdata: (name, held)}
    inner = (
        {f.name: getattr(held, f.name) for f in fields(held)}
        if is_dataclass(held)
        else held
        if isinstance(held, dict)
        else {}
    )
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for key, value in inner.items():
        found |= tensors_of(value, f"{name}.{key}")
    return found


def large(held) -> tuple[dict[str, tuple[int, ...]], int]:
    """Shape of every tensor in the 7B model, and their bytes together."""
    shapes, total = {}, 0
    for name, tensor in tensors_of(held).values():
        shape = tuple(MEANS[n] for n in tensor.shape)
        shapes[name.lstrip(".")] = shape
        total += torch.Size(shape).numel() * tensor.itemsize
    return shapes, total


@pytest.fixture(scope="module")
def stored() -> dict:
    """The pipeline's results for a small model of unmistakable sizes."""
    model = tiny.model(
        hidden_size=56, intermediate_size=96, num_hidden_layers=5, num_attention_heads=7, num_key_value_heads=1
    )  # fmt: skip
    asked = instructed(2, ec.EKMAN, ("positive",))
    directions = ec.fit_directions(model, asked)
    scores = ec.attribute_each(model, asked, directions.targets(), ec.DirectAttribution())
    influence = ec.sublayer_influence(model, prompts(2), directions, strengths=(0.1,))
    circuit = ec.build_circuit(scores["fear"], influence, size=40)
    return {"directions": directions, "scores": scores, "influence": influence, "circuit": circuit}


def test_shapes_of_everything_stored_for_the_7b_model(stored) -> None:
    shapes, size = large(stored["directions"])
    assert shapes["vectors"] == (2, 28, 6, 3584)
    assert shapes["norms"] == shapes["split_half"] == (2, 28, 6)
    assert shapes["sigma"] == (2, 28)
    assert size < 10e6
    shapes, size = large(stored["influence"])
    assert shapes == {"values": (2, 28, 6), "std": (2, 28, 6), "by_strength": (1, 2, 28, 6)}
    assert size < 1e5
    shapes, _ = large(stored["scores"]["fear"])
    assert shapes["values.neurons"] == shapes["beta"] == shapes["contrast.prompt.neurons"] == (28, 18944)
    assert shapes["values.heads"] == (28, 28)
    assert shapes["means.heads"] == shapes["contrast.prompt.heads"] == (28, 28, 128)
    shapes, size = large(stored["circuit"])
    assert shapes["nodes.neurons"] == (28, 18944)
    assert size < 10e6


def test_attribution_of_all_six_emotions_in_the_7b_model_is_below_100_megabytes(stored) -> None:
    _, size = large(stored["scores"])
    assert len(stored["scores"]) == 6
    assert 50e6 < size < BYTES
    first, *others = stored["scores"].values()
    assert all(other.means is first.means for other in others), "means are those of all prompts, and held once"


def test_running_sums_of_the_7b_model() -> None:
    dims = ec.ModelDims(28, 28, 4, 3584, 128, 18944, 152064)
    per_label = {f.name for f in fields(direct._Sum)} - {"n"}
    neuron_like = sum(not name.startswith("head") for name in per_label)
    assert neuron_like * dims.n_neurons * 8 < 20e6
