"""Released circuits of the reference study: read whole, run and drawn, refused where they are something else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from helpers import cpu_seconds, prompts

import emotion_circuits as ec
from emotion_circuits import plots
from emotion_circuits.errors import ArtefactError
from emotion_circuits.interop import load_global_circuit, paper

PAPER = Path(__file__).resolve().parents[2] / "shared" / "paper"


def released(n_layers: int, neurons: int = 2, heads: int = 1, **changes) -> dict:
    """A file of the released layout; layer l has neurons l, l + 1, ... and heads l, ..."""
    layers = [
        {
            "layer": l,
            "mlp": {"k": neurons, "neurons": list(range(l, l + neurons))},
            "attention": {"k": heads, "heads": list(range(l, l + heads))},
        }
        for l in range(n_layers)
    ]
    return {"emotion": "anger", "K_total": 9, "cap_ratio": 0.4, "layers": layers} | changes


def one(layer: int, *neurons: object) -> dict:
    """A layer with these neurons and no heads."""
    return {"layer": layer, "mlp": {"k": len(neurons), "neurons": list(neurons)}, "attention": {"k": 0, "heads": []}}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_every_node_is_read(tmp_path: Path, qwen) -> None:
    circuit = load_global_circuit(write(tmp_path / "anger.json", released(3)), dims=qwen.dims)
    names = {f"L{l}N{l + i}" for l in range(3) for i in range(2)} | {f"L{l}H{l}" for l in range(3)}
    assert set(circuit.nodes.names()) == names
    assert circuit.emotion == "anger"
    assert circuit.provenance["settings"] == {"K_total": 9, "cap_ratio": 0.4}
    assert len(circuit.to_frame()) == 9


def test_a_released_circuit_runs_and_is_drawn(tmp_path: Path, qwen) -> None:
    d, rng = qwen.dims, np.random.default_rng(0)
    np.save(tmp_path / "neurons.npy", rng.normal(size=(d.n_layers, d.d_mlp)).astype(np.float32))
    np.savez(tmp_path / "heads.npz", anger=rng.normal(size=(d.n_layers, d.n_heads * d.d_head)).astype(np.float32))
    rows = [f"{l},{h},{l + h / 10},0.1,5" for l in range(d.n_layers) for h in range(d.n_heads)]
    (tmp_path / "ranking.csv").write_text("\n".join(["layer,head,mean_importance,std_importance,samples", *rows]))
    contrast = paper.load_differences("anger", tmp_path / "neurons.npy", tmp_path / "heads.npz", dims=d)
    path = write(tmp_path / "anger.json", released(3))
    circuit = load_global_circuit(path, tmp_path / "ranking.csv", contrast=contrast, dims=d)
    assert float(circuit.scores.heads[2, 3]) == pytest.approx(2.3)
    asked = prompts(1)
    with qwen.patched(ec.Patch(circuit.nodes, ec.Enhancement(circuit.contrast, 2.0))):
        moved = qwen.logits(asked)
    assert not torch.allclose(moved, qwen.logits(asked), atol=1e-2)
    assert len(plots.circuit_graph(circuit).data) > 1
    circuit.save(tmp_path / "c")
    assert ec.Circuit.load(tmp_path / "c").nodes == circuit.nodes
    with pytest.raises(ArtefactError, match=r"meta-llama/Llama-3.2-3B-Instruct.*the names are not"):
        circuit.check(qwen)
    circuit.check(qwen, allow_mismatch=True)


def test_a_circuit_of_the_references_size_loads_in_a_second(tmp_path: Path) -> None:
    path = write(tmp_path / "anger.json", released(28, neurons=14, heads=6) | {"layers": released(18, 14, 6)["layers"]})
    circuit = load_global_circuit(path)
    assert cpu_seconds(lambda: load_global_circuit(path).summary()) < 1
    assert (circuit.nodes.n_neurons, circuit.nodes.n_heads) == (18 * 14, 18 * 6)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "expected an object with 'emotion' and a list 'layers', found list"),
        ({"nodes": {}, "edges": {}}, "found edges, nodes"),
        (released(3, layers={"0": {}}), "found K_total, cap_ratio, emotion, layers"),
        (released(3, layers=[]), "has no nodes in its 0 layers"),
        (released(3, layers=[{"layer": 0, "mlp": {"units": [1]}}]), r"layers\[0\]: expected .*found layer, mlp"),
        (released(3, layers=[7]), r"layers\[0\]: expected .*; found 7"),
        (released(4), "layer 3 is not in the model, which has layers 0 to 2"),
        (released(3, neurons=60), r"neurons \[48, 49, 50\] is not in the model"),
        (released(3, layers=[one(-1)]), "layer -1 is not in"),
        (released(3, layers=[one(0, True)]), r"neurons \[True\]"),
        (released(3, layers=[one(0, 1.5)]), r"neurons \[1.5\]"),
        (released(3, layers=[one(0, 1, 1)]), "1 neurons, but k is 2"),
    ],
)  # fmt: skip
def test_other_layouts_are_refused(tmp_path: Path, qwen, content, reason: str) -> None:
    with pytest.raises(ArtefactError, match=reason):
        load_global_circuit(write(tmp_path / "x.json", content), dims=qwen.dims)


@pytest.mark.parametrize("text", ["", '{"emotion": "anger", "lay', "\x00\x01", "[" * 100_000])
def test_damaged_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ArtefactError, match=re.escape(f"{tmp_path / 'x.json'} cannot be read as JSON")):
        load_global_circuit(tmp_path / "x.json")
    (tmp_path / "y.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ArtefactError, match="cannot be read as JSON"):
        load_global_circuit(tmp_path / "y.json")


@pytest.mark.skipif(not PAPER.is_dir(), reason=f"the reference study's files are not at {PAPER}")
def test_the_references_heads_are_drawn() -> None:
    circuit = paper.load_circuit(PAPER / "circuit_anger.csv", "anger", PAPER / "head_importance_anger.csv")
    assert len(plots.circuit_graph(circuit).data) > 1
    assert tiny.model().dims != circuit.dims
