"""The reference's files, graphs and control vectors: right figures from right files, nothing run from wrong ones."""

from __future__ import annotations

import csv
import io
import json
import math
import pickle
import zipfile
from pathlib import Path

import networkx
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import cpu_seconds

import emotion_circuits as ec
from emotion_circuits.errors import ArtefactError, EmotionError, NodeError
from emotion_circuits.interop import paper
from emotion_circuits.interop.gguf import read_control_vector, write_control_vector
from emotion_circuits.interop.graphs import write_csv, write_graphml, write_mib_json
from emotion_circuits.types import ModelDims

PAPER = Path(__file__).resolve().parents[2] / "shared" / "paper"
needs_paper = pytest.mark.skipif(not PAPER.is_dir(), reason=f"the reference study's files are not at {PAPER}")
DIMS = ModelDims(2, 3, 3, 6, 2, 5, 64)


# The reference's files


@needs_paper
class TestReference:
    """Figures of the folder's README, from the files themselves."""

    @pytest.fixture(scope="class")
    def directions(self) -> ec.EmotionDirections:
        files = (
            PAPER / name for name in ("emo_directions_attention.pt", "emo_directions_mlp.pt", "sigma_summary.json")
        )
        return paper.load_directions(*files)

    def test_similarity_to_five_digits(self, directions) -> None:
        similarity = directions.similarity("anger").double()
        off = similarity[~torch.eye(56, dtype=torch.bool)]
        figures = [off.mean(), off.std(correction=0), off.min(), off.max()]
        assert [round(float(x), 6) for x in figures] == pytest.approx(
            [0.239257, 0.275062, -0.030331, 0.998721], abs=2e-6
        )
        within, between = similarity[range(0, 56, 2), range(1, 56, 2)], similarity[range(1, 55, 2), range(2, 56, 2)]
        assert (float(within.mean()), float(within.std(correction=0))) == pytest.approx((0.769003, 0.138270), abs=2e-6)
        assert (float(between.mean()), float(between.std(correction=0))) == pytest.approx(
            (0.811837, 0.199465), abs=2e-6
        )

    def test_directions_are_whole(self, directions) -> None:
        assert directions.emotions == ec.EKMAN
        assert directions.vectors.shape == (2, 28, 6, 3072)
        assert directions.vectors.dtype == torch.float32
        torch.testing.assert_close(directions.vectors.norm(dim=-1), torch.ones(2, 28, 6), rtol=1e-4, atol=1e-4)
        assert directions.norms.isnan().all()
        assert directions.n_groups == 0
        held = json.loads((PAPER / "sigma_summary.json").read_text())
        assert float(directions.sigma[1, 14]) == pytest.approx(held["mlp_14"])
        assert directions.target("fear").reference.shape == (3072,)

    def test_circuit_influence_and_ranking(self) -> None:
        circuit = paper.load_circuit(PAPER / "circuit_anger.csv", "anger", PAPER / "head_importance_anger.csv")
        assert (circuit.nodes.n_heads, circuit.nodes.n_neurons) == (168, 0)
        assert sum(circuit.provenance["quota"]["neuron"]) == 392
        assert "L23H17" in circuit.nodes
        rows = list(csv.DictReader((PAPER / "circuit_anger.csv").open()))
        assert circuit.influence[1].tolist() == pytest.approx([float(r["importance_mlp"]) for r in rows])
        ranking = paper.load_head_ranking(PAPER / "head_importance_anger.csv", "anger")
        assert float(ranking.values.heads[0, 0]) == pytest.approx(0.03908157645564947)
        assert (ranking.n_samples, ranking.kinds) == (478, ("head",))
        again = ec.build_circuit(
            ranking, paper.load_influence(PAPER / "circuit_anger.csv", "anger"), neurons=0, heads=1, size=168
        )
        assert again.nodes == circuit.nodes


@needs_paper
def test_the_circuit_loads_in_a_second() -> None:
    files = PAPER / "circuit_anger.csv", "anger", PAPER / "head_importance_anger.csv"
    assert cpu_seconds(lambda: paper.load_circuit(*files)) < 1


# Hostile, damaged and foreign files


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "run"))


class Evaluated(Hostile):
    def __reduce__(self):
        return (eval, (f"open({str(self.path)!r}, 'w').close()",))


def direction_file(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def good(seed: int = 0) -> dict:
    values = np.random.default_rng(seed).normal(size=(2, 2, 6)).astype(np.float32)
    return {"dirs": {"anger": values[0], "fear": values[1]}}


@pytest.mark.parametrize("hostile", [Hostile, Evaluated])
@pytest.mark.parametrize("container", ["zip", "bare pickle", "inside dirs"])
def test_hostile_pickles_run_nothing(tmp_path, hostile, container: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "hostile.pt"
    fine = direction_file(tmp_path / "fine.pt", good())
    if container == "bare pickle":
        path.write_bytes(pickle.dumps(hostile(trace)))
    else:
        payload = hostile(trace) if container == "zip" else good() | {"more": hostile(trace)}
        buffer = io.BytesIO()
        torch.save(good(), buffer)
        with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as changed:
            for name in source.namelist():
                changed.writestr(name, pickle.dumps(payload, 2) if name.endswith("data.pkl") else source.read(name))
    for pair in ((path, fine), (fine, path)):
        with pytest.raises(ArtefactError, match="no code in the file is run"):
            paper.load_directions(*pair)
    assert not trace.exists()
    if container == "bare pickle":
        pickle.loads(path.read_bytes())  # the file is what it is said to be: plain unpickling runs it
        assert trace.exists()


def test_damaged_direction_files(tmp_path) -> None:
    fine, other = (direction_file(tmp_path / f"{i}.pt", good(i)) for i in range(2))
    held = paper.load_directions(fine, other)
    assert torch.equal(held.of("fear", "resid_post"), torch.from_numpy(good(1)["dirs"]["fear"]))
    cut = tmp_path / "cut.pt"
    cut.write_bytes(fine.read_bytes()[:-200])
    empty = tmp_path / "empty.pt"
    empty.write_bytes(b"")
    for path in (cut, empty, tmp_path / "missing.pt"):
        with pytest.raises(ArtefactError, match="cannot be read as saved arrays"):
            paper.load_directions(fine, path)
    for content, reason in [
        ({"dirs": {}}, "no entry 'dirs'"),
        ([1, 2], "no entry 'dirs'"),
        ({"dirs": {"anger": [1.0]}}, r"no \[layer, d_model\] array"),
        ({"dirs": {"anger": good()["dirs"]["anger"]}}, "do not belong together"),
    ]:
        with pytest.raises(ArtefactError, match=reason):
            paper.load_directions(fine, direction_file(tmp_path / "other.pt", content))


HEADS = "layer,head,mean_importance,std_importance,samples\n" + "".join(
    f"{l},{h},{l + h / 10},0.1,7\n" for l in range(2) for h in range(3)
)
CIRCUIT = "layer,importance_attention,importance_mlp,k_attention,k_mlp,heads\n0,0.1,0.2,2,4,2 0\n1,0.3,-0.4,1,3,1\n"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_tables_by_hand(tmp_path) -> None:
    heads, table = written(tmp_path / "heads.csv", HEADS), written(tmp_path / "circuit.csv", CIRCUIT)
    circuit = paper.load_circuit(table, "anger", heads, DIMS)
    assert circuit.nodes == ec.NodeSet.of(DIMS, "L0H0", "L0H2", "L1H1")
    assert circuit.provenance["quota"] == {"head": [2, 1], "neuron": [4, 3]}
    torch.testing.assert_close(circuit.influence, torch.tensor([[0.1, 0.3], [0.2, -0.4]]))
    assert float(circuit.scores.heads[1, 2]) == pytest.approx(1.2)
    circuit.save(tmp_path / "circuit")
    assert ec.Circuit.load(tmp_path / "circuit").nodes == circuit.nodes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HEADS[: len(HEADS) - 14], "lacks 1 of 6 heads"),
        (HEADS.replace("1,2,", "1,3,"), "line 7: 3 is outside 0 to 2"),
        (HEADS.replace("1.2", "much"), "line 7: could not convert"),
        (HEADS.replace("mean_importance", "value"), "no column 'mean_importance'"),
        ("", "no column 'layer'"),
        ("layer,head,mean_importance\n", "no rows"),
    ],
)
def test_damaged_rankings(tmp_path, text: str, reason: str) -> None:
    with pytest.raises(ArtefactError, match=reason):
        paper.load_head_ranking(written(tmp_path / "heads.csv", text), "anger", DIMS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CIRCUIT.replace("2 0", "2"), "line 2: names 1 heads, its quota is 2"),
        (CIRCUIT.replace("2 0", "9 0"), "a circuit of another model"),
        (CIRCUIT.replace("1,0.3,-0.4,1,3,1\n", ""), "has 1 layers, the model 2"),
        (CIRCUIT.replace("1,0.3", "0,0.3"), "has 1 layers, the model 2"),
        (CIRCUIT.replace("1,0.3", "5,0.3"), r"has layers \[0, 5\]"),
        (CIRCUIT.replace("0.3", "x"), "expected a layer and two numbers"),
        (CIRCUIT.replace(",1,3,1", ""), "line 3"),
    ],
)
def test_damaged_circuit_tables(tmp_path, text: str, reason: str) -> None:
    with pytest.raises(ArtefactError, match=reason):
        paper.load_circuit(written(tmp_path / "circuit.csv", text), "anger", dims=DIMS)


def test_damaged_sigma(tmp_path) -> None:
    for text in ("{", "[]", '{"attention_0": 1}', '{"attention_0": null}'):
        with pytest.raises(ArtefactError, match="attention_0 to attention_1 and mlp_0 to mlp_1"):
            paper.load_sigma(written(tmp_path / "sigma.json", text), 2)


def test_difference_vectors(tmp_path) -> None:
    neurons, heads = np.arange(10.0).reshape(2, 5), np.arange(12.0).reshape(2, 6)
    np.save(tmp_path / "n.npy", neurons)
    np.savez(tmp_path / "h.npz", anger=heads, fear=heads + 1)
    contrast = paper.load_differences("fear", tmp_path / "n.npy", tmp_path / "h.npz", DIMS)
    assert contrast.prompt.neurons.tolist() == neurons.tolist()
    assert contrast.prompt.heads.flatten(1).tolist() == (heads + 1).tolist()
    np.save(tmp_path / "objects.npy", np.array([Hostile(tmp_path / "trace")], dtype=object), allow_pickle=True)
    np.save(tmp_path / "small.npy", neurons[:1])
    (tmp_path / "cut.npy").write_bytes((tmp_path / "n.npy").read_bytes()[:-9])
    for name in ("objects.npy", "small.npy", "cut.npy", "missing.npy"):
        with pytest.raises(ArtefactError, match=r"difference vectors of shape \(2, 5\)"):
            paper.load_differences("fear", tmp_path / name, dims=DIMS)
    with pytest.raises(ArtefactError, match="no emotion 'disgust'"):
        paper.load_differences("disgust", heads=tmp_path / "h.npz", dims=DIMS)
    assert not (tmp_path / "trace").exists()


# Graphs and tables


@pytest.fixture
def circuit() -> ec.Circuit:
    values = ec.NodeValues(torch.arange(10.0).view(2, 5), torch.arange(6.0).view(2, 3))
    nodes = ec.NodeSet.of(DIMS, "L0N1", "L0N4", "L1H0", "L0H2")
    contrast = ec.Contrast("anger", "emotions", ec.Activations(torch.full((2, 5), 2.0), torch.ones(2, 3, 2)))
    influence = torch.tensor([[0.1, 0.3], [0.2, 0.4]])
    return ec.Circuit("anger", nodes, DIMS, values, influence, contrast, {"model": "tiny"})


def test_graph(circuit, tmp_path) -> None:
    edges = pd.DataFrame([{"source": "L0H2", "target": "L0N4", "effect": -0.5}])
    graph = circuit.to_networkx(edges)
    assert {n for n, d in graph.nodes(data=True) if d["kind"] != "sublayer"} == {"L0N1", "L0N4", "L1H0", "L0H2"}
    assert graph.nodes["L0N4"] == {"kind": "neuron", "layer": 0, "index": 4, "score": 4.0, "norm": 2.0}
    assert graph.nodes["L0 mlp"]["influence"] == pytest.approx(0.2)
    assert graph.edges["L1H0", "L1 attention"]["relation"] == "member"
    assert graph.edges["L0H2", "L0N4"] == {"relation": "direct", "weight": -0.5}
    chain = {(a, b) for a, b, d in graph.edges(data=True) if d["relation"] == "residual"}
    assert chain == {("L0 attention", "L0 mlp"), ("L0 mlp", "L1 attention")}
    write_graphml(circuit, tmp_path / "c.graphml", edges)
    again = networkx.read_graphml(tmp_path / "c.graphml")
    assert (set(again.nodes), set(again.edges)) == (set(graph.nodes), set(graph.edges))
    assert again.nodes["L1H0"]["norm"] == pytest.approx(math.sqrt(2))


def test_graphml_leaves_out_what_is_unknown(tmp_path) -> None:
    unknown = ec.NodeValues(torch.full((2, 5), torch.nan), torch.full((2, 3), torch.nan))
    write_graphml(ec.Circuit("anger", ec.NodeSet.of(DIMS, "L0N1"), DIMS, unknown), tmp_path / "c.graphml")
    assert "nan" not in (tmp_path / "c.graphml").read_text()


def test_csv(circuit, tmp_path) -> None:
    write_csv(circuit, tmp_path / "c.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "c.csv"), circuit.to_frame())


def test_mib_json(circuit, tmp_path) -> None:
    write_mib_json(circuit, tmp_path / "c.json")
    held = json.loads((tmp_path / "c.json").read_text())
    assert held["cfg"] == {"n_layers": 2, "n_heads": 3, "d_model": 6, "parallel_attn_mlp": False}
    inside = {name for name, node in held["nodes"].items() if node["in_graph"]}
    assert inside == {"input", "logits", "m0", "a0.h2", "a1.h0"}
    assert held["nodes"]["m0"] == {"in_graph": True, "score": 5.0, "mlp_neurons": [1, 4]}
    # Into 6 heads thrice, from 1 node below layer 0 and 5 below layer 1; into MLPs; into the logits.
    assert len(held["edges"]) == 3 * 3 * (1 + 5) + (4 + 8) + 9
    assert held["edges"]["m0->a1.h0<q>"] == {"score": 3.0, "in_graph": True}
    assert not held["edges"]["a0.h2->m1"]["in_graph"]


# Control vectors


def some_directions(sigma: float = 0.5) -> ec.EmotionDirections:
    vectors = torch.nn.functional.normalize(
        torch.randn(2, 10, 2, 16, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    each, row = torch.full((2, 10, 2), torch.nan), torch.full((2, 10), sigma)
    return ec.EmotionDirections(("anger", "fear"), vectors, each, row, 3, each, row, row)


def test_control_vectors_read_back(tmp_path) -> None:
    pytest.importorskip("gguf")
    directions, path = some_directions(), tmp_path / "fear.gguf"
    assert write_control_vector(directions, "fear", path, architecture="llama", strength=0.2) == [4, 5, 6, 7]
    held = read_control_vector(path)
    assert sorted(held) == [4, 5, 6, 7]
    for layer, vector in held.items():
        # rms 0.5 over 16 coordinates is a norm of 2; a fifth of it along the unit direction.
        torch.testing.assert_close(vector, 0.4 * directions.of("fear")[layer])
    from gguf import GGUFReader

    assert GGUFReader(path).get_field("controlvector.model_hint").contents() == "llama"
    assert GGUFReader(path).get_field("general.architecture").contents() == "controlvector"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArtefactError, match="is it complete"):
        read_control_vector(path)


def test_control_vectors_that_cannot_be(tmp_path, monkeypatch) -> None:
    pytest.importorskip("gguf")
    path = tmp_path / "a.gguf"
    for layers in ([0, 1], [10], []):
        with pytest.raises(NodeError, match="holds layers 1 to 9"):
            write_control_vector(some_directions(), "anger", path, architecture="llama", layers=layers)
    with pytest.raises(ArtefactError, match="sigma is NaN"):
        write_control_vector(some_directions(math.nan), "anger", path, architecture="llama")
    with pytest.raises(EmotionError, match="no emotion 'joy'"):
        write_control_vector(some_directions(), "joy", path, architecture="llama")
    import sys

    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ArtefactError, match="pip install gguf"):
        write_control_vector(some_directions(), "anger", path, architecture="llama")
    assert not path.exists()
