"""Quotas like the reference's, circuits of the best nodes, and files that refuse what they are not."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import tiny
import torch
from helpers import EMOTIONS, instructed, prompts
from hypothesis import given, settings
from hypothesis import strategies as st

import emotion_circuits as ec
from emotion_circuits import artefacts
from emotion_circuits.circuits.builders import Quota, top_per_layer
from emotion_circuits.errors import ArtefactError, EmotionError, NodeError
from emotion_circuits.nodes import NodeValues
from emotion_circuits.types import ModelDims

PAPER = Path(__file__).resolve().parents[2] / "shared" / "paper"


# Quotas


@pytest.mark.skipif(not PAPER.is_dir(), reason=f"the reference study's files are not at {PAPER}")
class TestReference:
    """The reference's circuit for anger, from its own influence and head ranking."""

    @pytest.fixture(scope="class")
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader((PAPER / "circuit_anger.csv").open()))

    @pytest.mark.parametrize(("kind", "size", "minimum"), [("attention", 168, 2), ("mlp", 392, 4)])
    def test_quotas_cell_by_cell(self, rows, kind: str, size: int, minimum: int) -> None:
        plan = ec.allocate_quota([float(r[f"importance_{kind}"]) for r in rows], size=size, minimum=minimum, cap=0.4)
        assert plan == [int(r[f"k_{kind}"]) for r in rows]

    def test_heads_cell_by_cell(self, rows) -> None:
        scores = torch.zeros(28, 24)
        for row in csv.DictReader((PAPER / "head_importance_anger.csv").open()):
            scores[int(row["layer"]), int(row["head"])] = float(row["mean_importance"])
        mask = top_per_layer(scores, [int(r["k_attention"]) for r in rows])
        for layer, row in enumerate(rows):
            assert set(mask[layer].nonzero().flatten().tolist()) == {int(h) for h in row["heads"].split()}

    def test_the_whole_circuit(self, rows) -> None:
        dims = ModelDims(28, 24, 8, 3072, 128, 8192, 128256)
        values = ec.NodeValues(torch.zeros(28, 8192), torch.zeros(28, 24))
        for row in csv.DictReader((PAPER / "head_importance_anger.csv").open()):
            values.heads[int(row["layer"]), int(row["head"])] = float(row["mean_importance"])
        held = torch.tensor([[float(r[f"importance_{k}"]) for r in rows] for k in ("attention", "mlp")])[..., None]
        influence = ec.Influence(("anger",), held, held, held[None], (0.1,), 1)
        circuit = ec.build_circuit(ec.Attribution(values, "paper", "anger", 478, dims), influence)
        assert (circuit.nodes.n_neurons, circuit.nodes.n_heads) == (392, 168)
        assert circuit.nodes.neurons.sum(1).tolist() == [int(r["k_mlp"]) for r in rows]
        assert {n.index for n in circuit.nodes.only("head").in_layers([20])} == {
            int(h) for h in rows[20]["heads"].split()
        }


@pytest.mark.parametrize(
    ("weights", "options", "plan"),
    [
        # Rest 10 - 4 = 6 by weights 1/2, 1/3, 1/6, 0: 3, 2, 1, 0.
        ([3, 2, 1, -5], {"size": 10, "minimum": 1, "cap": 1.0}, [4, 3, 2, 1]),
        # Rest 7 by thirds: 2.33 each, the remainder to the first of equals.
        ([1, 1, 1], {"size": 7, "minimum": 0, "cap": 1.0}, [3, 2, 2]),
        # Rest 10: 7.5, 1.5, 1 -> 7, 1, 1 and one more by the largest fraction, to the first.
        ([7.5, 1.5, 1], {"size": 10, "minimum": 0, "cap": 1.0}, [8, 1, 1]),
        # The same, at most 4 in a layer: the 4 cut off go to the others in turn, by size.
        ([7.5, 1.5, 1], {"size": 10, "minimum": 0, "cap": 0.4}, [4, 3, 3]),
        # The first layer has only 2.
        ([7.5, 1.5, 1], {"size": 10, "minimum": 0, "cap": 1.0, "available": [2, 9, 9]}, [2, 4, 4]),
        # Nobody has influence: all alike.
        ([-1, 0, -2], {"size": 6, "minimum": 1, "cap": 0.5}, [2, 2, 2]),
        # Smaller than the minimum asks: what there is, evenly.
        ([1, 9, 0], {"size": 4, "minimum": 4, "cap": 0.4}, [1, 2, 1]),
        # Less room than asked for.
        ([1, 1], {"size": 10, "minimum": 0, "cap": 1.0, "available": 3}, [3, 3]),
        # 0.29 * 100 is 28.999999999999996 in floating point.
        ([1, 0, 0, 0], {"size": 100, "minimum": 0, "cap": 0.29}, [29, 24, 24, 23]),
        ([5], {"size": 0, "minimum": 2, "cap": 0.4}, [0]),
    ],
)
def test_quotas_by_hand(weights, options, plan: list[int]) -> None:
    assert ec.allocate_quota(weights, **options) == plan


weights_lists = st.lists(st.floats(-5, 5, allow_nan=False), min_size=1, max_size=12)


@given(weights_lists, st.integers(0, 300), st.integers(0, 5), st.floats(0.05, 1.0), st.integers(0, 100))
@settings(max_examples=200, deadline=None)
def test_quota_properties(weights, size: int, minimum: int, cap: float, available: int) -> None:
    plan = ec.allocate_quota(weights, size=size, minimum=minimum, cap=cap, available=available)
    n = len(weights)
    most = min(max(int(cap * size + 1e-9), minimum), available)
    assert all(0 <= k <= most for k in plan)
    assert sum(plan) == min(size, n * most)
    assert all(k >= min(minimum, size // n, most) for k in plan)
    for i in range(n):
        for j in range(n):
            if max(weights[i], 0) > max(weights[j], 0):
                assert plan[i] + 1 >= plan[j]  # layers with equal plans take turns in their order
    assert ec.allocate_quota([w * 4 for w in weights], size=size, minimum=minimum, cap=cap, available=available) == plan


@pytest.mark.parametrize(
    ("weights", "options"),
    [([], {}), ([1.0], {"size": -1}), ([1.0], {"minimum": -1}), ([1.0], {"cap": 0.0}), ([1.0], {"cap": 1.5})],
)
def test_impossible_quotas(weights, options) -> None:
    with pytest.raises(NodeError, match="size and minimum must not be negative and cap must lie in"):
        ec.allocate_quota(weights, **({"size": 4, "minimum": 0, "cap": 0.4} | options))


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(weight: float) -> None:
    with pytest.raises(NodeError, match="every weight must be a finite number"):
        ec.allocate_quota([1.0, weight], size=4, minimum=0, cap=0.4)


def test_top_per_layer_and_its_ties() -> None:
    values = torch.tensor([[1.0, 3, 3, 2], [5, 4, 9, 9], [0, 0, 0, 0]])
    assert top_per_layer(values, [2, 1, 2]).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0]]


# Building


@pytest.fixture(scope="module")
def scores(qwen) -> ec.Attribution:
    asked = instructed(2)
    directions = ec.fit_directions(qwen, asked)
    return ec.attribute(qwen, asked, directions.target("anger"), ec.DirectAttribution())


@pytest.fixture(scope="module")
def influence(qwen) -> ec.Influence:
    return ec.sublayer_influence(qwen, prompts(2), ec.fit_directions(qwen, instructed(2)))


@pytest.fixture(scope="module")
def circuit(scores, influence) -> ec.Circuit:
    return ec.build_circuit(scores, influence, size=20)


def test_a_circuit_is_the_best_of_each_layer(scores, influence, circuit) -> None:
    assert (circuit.nodes.n_neurons, circuit.nodes.n_heads) == (14, 6)
    minimum = {"head": 2, "neuron": 4}
    for row, kind in enumerate(("head", "neuron")):
        values = scores.values.values(kind)
        weights = influence.values[row, :, 0].tolist()
        size = {"head": 6, "neuron": 14}[kind]
        plan = ec.allocate_quota(weights, size=size, minimum=minimum[kind], cap=0.4, available=values.shape[1])
        for layer, count in enumerate(plan):
            best = sorted(range(values.shape[1]), key=lambda i: -values[layer, i])[:count]
            assert {n.index for n in circuit.nodes.only(kind).in_layers([layer])} == set(best)
    assert circuit.emotion == "anger"
    assert circuit.contrast is scores.contrast
    assert circuit.share == 20 / (3 * 52)


def test_without_influence_layers_are_alike(scores) -> None:
    flat = ec.build_circuit(scores, size=21, neurons=4 / 7, heads=3 / 7)
    assert flat.nodes.neurons.sum(1).tolist() == [4, 4, 4]
    assert flat.nodes.heads.sum(1).tolist() == [3, 3, 3]
    alone = ec.build_circuit(scores, size=9, neurons=1.0, heads=0.0, method=Quota({"neuron": 0, "head": 0}))
    assert (alone.nodes.n_neurons, alone.nodes.n_heads) == (9, 0)


def test_what_cannot_be_built(qwen, scores, influence) -> None:
    with pytest.raises(NodeError, match=r"shares of neurons \(0.7\) and heads \(0.2\) must be in .* and add up to 1"):
        ec.build_circuit(scores, influence, heads=0.2)
    nobody = ec.attribute(qwen, prompts(2), ec.Projection(torch.ones(32)), ec.DirectAttribution())
    with pytest.raises(NodeError, match=r"these scores are of no emotion; .*directions.target\('anger'\)"):
        ec.build_circuit(nobody)
    other = ec.Influence(("fear",), *(influence.values[..., :1],) * 2, influence.by_strength[..., :1], (0.1,), 1)
    with pytest.raises(EmotionError, match="no emotion 'anger' in this influence; choose among fear"):
        ec.build_circuit(scores, other)
    heads = ec.attribute(qwen, instructed(1), ec.Projection(torch.ones(32), emotion="anger"), ec.HeadImportance())
    with pytest.raises(NodeError, match="head importance does not score neurons; set neurons=0, or join two scores"):
        ec.build_circuit(heads, size=10)
    assert ec.build_circuit(heads, size=6, neurons=0.0, heads=1.0).nodes.n_heads == 6
    assert ec.build_circuit(scores.with_heads(heads), size=10).nodes.n_heads == 3


def scored_in_part(qwen, values: float = -1.0) -> ec.Attribution:
    """Three neurons and two heads with negative scores; all others were not scored."""
    nodes = ec.NodeSet.of(qwen, "L0N1", "L0N2", "L2N5", "L1H0", "L2H3")
    held = NodeValues(values * nodes.neurons.float(), values * nodes.heads.float())
    return ec.Attribution(held, "made up", "anger", 1, qwen.dims, scored=nodes)


@pytest.mark.parametrize("method", [None, ec.GlobalTop(), ec.Threshold(10.0)])
def test_nodes_that_were_not_scored_are_in_no_circuit(qwen, method) -> None:
    scores = scored_in_part(qwen)
    circuit = ec.build_circuit(scores, size=60, method=method)
    assert circuit.nodes == scores.scored
    assert circuit.provenance["builder"]["wanted"] == {"neuron": 3, "head": 2}
    two = ec.build_circuit(scores, size=2, neurons=1.0, heads=0.0, method=method)
    assert len(two.nodes) == 2
    assert not len(two.nodes - scores.scored)


def test_scores_that_are_no_numbers_are_refused(qwen) -> None:
    scores = scored_in_part(qwen)
    scores.values.neurons[0, 2] = torch.nan
    with pytest.raises(NodeError, match="scores of 1 neurons are not finite"):
        ec.build_circuit(scores, size=4)
    scores.values.neurons[0, 2], scores.values.neurons[1, 1] = -1.0, torch.inf  # the second one was not scored
    assert "L1N1" not in ec.build_circuit(scores, size=4).nodes


def test_a_contrast_of_another_emotion_is_refused(scores) -> None:
    with pytest.raises(EmotionError, match="the contrast is of fear and the scores are of anger"):
        ec.build_circuit(scores, size=10, contrast=dataclasses.replace(scores.contrast, emotion="fear"))
    assert ec.build_circuit(scores, size=10, contrast=scores.contrast).contrast is scores.contrast


def test_random_circuits_have_as_many_in_each_layer(circuit) -> None:
    other = circuit.random_like(1)
    for kind in ("neuron", "head"):
        assert torch.equal(other.nodes.mask(kind).sum(1), circuit.nodes.mask(kind).sum(1))
    assert other.nodes != circuit.nodes
    assert other.contrast is circuit.contrast


def test_frame_and_summary(circuit, scores) -> None:
    table = circuit.to_frame()
    assert len(table) == 20
    assert table["score"].is_monotonic_decreasing
    assert set(table["node"]) == set(circuit.nodes.names())
    row = table[table["kind"] == "head"].iloc[0]
    assert row["score"] == pytest.approx(float(scores.values.heads[row["layer"], row["index"]]))
    assert row["norm"] == pytest.approx(float(scores.contrast.prompt.heads[row["layer"], row["index"]].norm()))
    assert "Circuit(anger: 14 neurons, 6 heads, 12.82 % of the model's nodes" in circuit.summary()


# Files


def equal(a: ec.Circuit, b: ec.Circuit) -> None:
    assert (a.emotion, a.nodes, a.dims) == (b.emotion, b.nodes, b.dims)
    assert torch.equal(a.scores.heads, b.scores.heads)
    assert torch.equal(a.scores.neurons, b.scores.neurons)
    assert dict(a.provenance) == json.loads(json.dumps(dict(b.provenance)))
    for name in ("influence", "contrast"):
        assert (getattr(a, name) is None) == (getattr(b, name) is None)


def test_save_and_load(qwen, circuit, scores, tmp_path) -> None:
    circuit.save(tmp_path / "c")
    loaded = ec.Circuit.load(tmp_path / "c", qwen)
    equal(loaded, circuit)
    assert torch.equal(loaded.influence, circuit.influence)
    assert torch.equal(loaded.contrast.prompt.heads, circuit.contrast.prompt.heads)
    assert loaded.provenance["builder"]["cap"] == 0.4
    plain = ec.build_circuit(scores, size=20)
    phases = ec.Contrast("anger", "uninstructed", scores.means, scores.contrast.prompt)
    for other in (plain, circuit.with_contrast(phases), circuit.with_nodes(ec.NodeSet.empty(qwen))):
        other.save(tmp_path / "other")
        equal(ec.Circuit.load(tmp_path / "other"), other)
    circuit.with_contrast(phases).save(tmp_path / "phases")
    again = ec.Circuit.load(tmp_path / "phases").contrast
    assert again.baseline == "uninstructed"
    assert torch.equal(again.prompt.heads, scores.means.heads)
    assert torch.equal(again.reply.neurons, scores.contrast.prompt.neurons)


def test_a_loaded_circuit_patches_as_before(qwen, circuit, tmp_path) -> None:
    circuit.save(tmp_path / "c")
    loaded = ec.Circuit.load(tmp_path / "c", qwen)
    results = []
    for held in (circuit, loaded):
        with qwen.patched(ec.Patch(held.nodes, ec.Enhancement(held.contrast, 3.0))):
            results.append(qwen.logits(prompts(2)))
    assert torch.equal(*results)


def test_another_model_is_refused(circuit, tmp_path) -> None:
    circuit.save(tmp_path / "c")
    with pytest.raises(ArtefactError, match=r"is a circuit of tiny-qwen2 .*which does not fit this model"):
        ec.Circuit.load(tmp_path / "c", tiny.model("qwen2", intermediate_size=40), allow_mismatch=True)


def test_other_weights_of_the_same_sizes_are_refused(circuit, tmp_path) -> None:
    circuit.save(tmp_path / "c")
    tuned = tiny.model("qwen2", seed=1)
    with pytest.raises(ArtefactError, match=r"the sizes are equal, the weights are not .*allow_mismatch=True"):
        ec.Circuit.load(tmp_path / "c", tuned)
    equal(ec.Circuit.load(tmp_path / "c", tuned, allow_mismatch=True), circuit)
    again = ec.HookedModel.from_hf(tiny.hf_model(dtype=torch.bfloat16), tiny.tokenizer(), name="a copy")
    equal(ec.Circuit.load(tmp_path / "c", again), circuit)  # the same weights, in another precision and under a name
    mixed = ec.mix([circuit, circuit], [0.5, 0.5])
    with pytest.raises(ArtefactError, match="the weights are not"):
        mixed.check(tuned)


def test_a_change_of_one_matrix_changes_the_fingerprint() -> None:
    hf = tiny.hf_model()
    model = ec.HookedModel.from_hf(hf, tiny.tokenizer(), name="a")
    before = model.fingerprint()
    with torch.no_grad():
        hf.model.layers[1].mlp.up_proj.weight.mul_(1.02)
    assert before != model.fingerprint() != ec.HookedModel.from_hf(tiny.hf_model(), None, name="a").fingerprint()
    assert before == ec.HookedModel.from_hf(tiny.hf_model(), None, name="b").fingerprint()


def test_without_a_fingerprint_the_name_decides(qwen, circuit) -> None:
    known = {k: v for k, v in circuit.provenance.items() if k != "weights"}
    for name, fits in (("tiny-qwen2", True), ("somebody/Tiny-Qwen2", True), ("tiny-qwen3", False), (None, True)):
        held = dataclasses.replace(circuit, provenance=known | {"model": name})
        if fits:
            held.check(qwen)
        else:
            with pytest.raises(ArtefactError, match="the names are not, and there is no fingerprint"):
                held.check(qwen)


def test_damaged_files_are_refused(circuit, tmp_path) -> None:
    circuit.save(tmp_path / "c")
    whole = (tmp_path / "c").read_bytes()
    for name, content in {
        "cut": whole[:-10],
        "header": whole[:60],
        "garbage": b"\x00garbage" * 20,
        "empty": b"",
        "text": b"{}",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtefactError, match=f"{name} cannot be read as a saved circuit: .*is it complete"):
            ec.Circuit.load(tmp_path / name)
    tensors, meta = artefacts.load(tmp_path / "c", "circuit")
    artefacts.save(tmp_path / "smaller", "circuit", tensors | {"nodes.heads": torch.ones(3, 5, dtype=torch.bool)}, meta)
    with pytest.raises(ArtefactError, match=r"NodeSet.heads should be .*\(3, 5\)"):
        ec.Circuit.load(tmp_path / "smaller")
    artefacts.save(tmp_path / "dims", "circuit", tensors, meta | {"dims": {"n_layers": 3}})
    with pytest.raises(ArtefactError, match=r"the fields of|a saved ModelDims has the fields"):
        ec.Circuit.load(tmp_path / "dims")
    artefacts.save(tmp_path / "bare", "circuit", {k: v for k, v in tensors.items() if k != "nodes.heads"}, meta)
    with pytest.raises(ArtefactError, match=r"a saved NodeSet has the fields neurons, heads; look at 'heads'"):
        ec.Circuit.load(tmp_path / "bare")


def test_a_failed_write_leaves_the_old_file(circuit, tmp_path, monkeypatch) -> None:
    circuit.save(tmp_path / "c")
    before = (tmp_path / "c").read_bytes()

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(ArtefactError, match="No space left on device"):
        circuit.random_like().save(tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_emotions_of_the_fixture(influence) -> None:
    assert influence.emotions == EMOTIONS
