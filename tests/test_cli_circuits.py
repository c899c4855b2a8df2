"""Commands on saved circuits and directions: what they write is read back, what they print is what was measured."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import networkx
import pytest
import torch
from helpers import unchecked
from typer.testing import CliRunner, Result

import emotion_circuits as ec
from emotion_circuits.cli.app import app
from emotion_circuits.errors import EmotionCircuitsError, NodeError
from emotion_circuits.interop import read_control_vector
from emotion_circuits.pipeline import Settings, run_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to its directions and attributions, and a circuit made from them."""
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = Settings(emotions=("anger", "happiness"), limit=3, max_new_tokens=16, temperature=None, size=60)
    run = run_pipeline(settings, out, until="attribute")
    ec.build_circuit(run.attributions()["anger"], size=40).save(out / "anger")
    return out


def invoke(*arguments: object) -> Result:
    # Typer hands commands a context that is not of the class that it tells them to name.
    result = unchecked(CliRunner().invoke, app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, EmotionCircuitsError):
        raise result.exception
    return result


def test_directions_become_control_vectors(folder: Path, tmp_path: Path) -> None:
    directions = ec.EmotionDirections.load(folder / "directions/directions.safetensors")
    assert invoke("directions", "export", folder, "--to", tmp_path / "x.gguf", "--layers", "1,3-4").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-anger.gguf", "x-happiness.gguf"]
    held = read_control_vector(tmp_path / "x-happiness.gguf")
    assert sorted(held) == [1, 3, 4]
    vector = directions.of("happiness")[3]
    norm = directions.sigma[1, 3] * len(vector) ** 0.5
    torch.testing.assert_close(held[3], 0.14 * norm * vector, rtol=1e-4, atol=1e-6)
    result = invoke("directions", "export", folder, "--to", tmp_path / "y.gguf", "--layers", "one")
    assert isinstance(result.exception, NodeError)
    assert "write 11-20 or 3,5,8" in str(result.exception)


def test_circuit_formats(folder: Path, tmp_path: Path) -> None:
    circuit = ec.Circuit.load(folder / "anger")
    for form in ("csv", "graphml", "mib"):
        assert invoke("circuit", "export", folder / "anger", tmp_path / form, "--format", form).exit_code == 0
    with (tmp_path / "csv").open() as file:
        assert {row["node"] for row in csv.DictReader(file)} == set(circuit.nodes.names())
    assert set(circuit.nodes.names()) <= set(networkx.read_graphml(tmp_path / "graphml").nodes)
    mib = json.loads((tmp_path / "mib").read_text())["nodes"]
    heads = {f"a{node.layer}.h{node.index}" for node in circuit.nodes.only("head")}
    assert {name for name, held in mib.items() if name[0] == "a" and held["in_graph"]} == heads


def test_metrics_stand_beside_both_controls(folder: Path) -> None:
    result = invoke("circuit", "metrics", folder / "anger", "--run", folder, "--random", 2, "--shuffled", 1, "--json")
    rows = {row["metric"]: row for row in json.loads(result.stdout)}
    assert set(rows) == {"faithfulness", "completeness"}
    for row in rows.values():
        assert row["low"] <= row["value"] <= row["high"]
        assert None not in (row["random"], row["shuffled"])
        assert row["random_low"] <= row["random"] <= row["random_high"]
    shown = invoke("circuit", "metrics", folder / "anger", "--run", folder, "--random", 0, "--shuffled", 0)
    assert "under MeanAblation, 9 prompts" in " ".join(shown.stdout.split())
