"""Circuits on the hub: published to and fetched from a server that speaks the hub's protocol, and every refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import hub_server
import pytest
import tiny
import torch

import emotion_circuits as ec
from emotion_circuits.circuits.hub import card
from emotion_circuits.circuits.metrics import CircuitScore
from emotion_circuits.errors import ArtefactError

PROGRAM = """
import json, sys
import emotion_circuits as ec
from emotion_circuits.errors import ArtefactError

circuit, result = ec.Circuit.load(sys.argv[1]), {}

def attempt(name, function):
    try:
        result[name] = function()
    except ArtefactError as error:
        result[name] = f"refused: {error}"

attempt("no token", lambda: circuit.push_to_hub("me/anger"))
attempt("wrong token", lambda: circuit.push_to_hub("me/anger", token="bad"))
attempt("no repository", lambda: str(ec.Circuit.from_hub("me/anger")))
attempt("bad name", lambda: circuit.push_to_hub("me//anger", token="good"))
attempt("push", lambda: circuit.push_to_hub("me/anger", token="good"))
attempt("push again", lambda: circuit.with_nodes(~circuit.nodes).push_to_hub("me/anger", token="good", revision="v2"))
attempt("main", lambda: ec.Circuit.from_hub("me/anger").save(sys.argv[2] + "/main"))
attempt("v2", lambda: ec.Circuit.from_hub("me/anger", "v2").save(sys.argv[2] + "/v2"))
attempt("no revision", lambda: str(ec.Circuit.from_hub("me/anger", "v3")))
attempt("hub", lambda: ec.Circuit.from_hub("me/anger").provenance["hub"])
attempt("torn", lambda: str(ec.Circuit.from_hub("me/torn")))
attempt("empty", lambda: str(ec.Circuit.from_hub("me/empty")))
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def circuit() -> ec.Circuit:
    model = tiny.model()
    generator = torch.Generator().manual_seed(0)
    values = ec.NodeValues(torch.randn(3, 48, generator=generator), torch.randn(3, 4, generator=generator))
    contrast = ec.Contrast("anger", "emotions", ec.Activations(torch.ones(3, 48), torch.ones(3, 4, 8)))
    source = {"model": "somebody/tiny", "revision": "abc", "weights": model.fingerprint(), "settings": {"method": "m"}}
    return ec.Circuit("anger", values.top(7), model.dims, values, None, contrast, source)


def test_there_and_back(circuit, tmp_path: Path) -> None:
    server = hub_server.start()
    hub_server.REPOS |= {"me/torn": {"main": {"circuit.safetensors": b"\x80\x04torn"}}, "me/empty": {"main": {}}}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    circuit.save(tmp_path / "mine")
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "mine"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    server.shutdown()
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    for name in ("no token", "wrong token"):
        assert "hf auth login" in result[name], result
    assert "no repository 'me/anger' on the hub that you may see" in result["no repository"]
    assert result["bad name"].startswith("refused: the hub refuses 'me//anger'")
    assert "/me/anger/commit/" in result["push"]
    main, second = ec.Circuit.load(tmp_path / "main"), ec.Circuit.load(tmp_path / "v2")
    assert (main.nodes, second.nodes) == (circuit.nodes, ~circuit.nodes)
    assert torch.equal(main.scores.heads, circuit.scores.heads)
    assert main.provenance["weights"] == circuit.provenance["weights"]
    assert result["hub"]["repo"] == "me/anger"
    assert result["push"].endswith(result["hub"]["commit"])
    assert "me/anger has no revision 'v3'" in result["no revision"]
    assert "is it complete?" in result["torn"]
    assert "has no file circuit.safetensors; is it a circuit?" in result["empty"]
    files = hub_server.REPOS["me/anger"]["main"]
    assert sorted(files) == ["README.md", "circuit.safetensors", "nodes.csv"]
    assert files["nodes.csv"].decode().splitlines()[0] == "node,kind,layer,index,score,norm"


def test_offline_is_said(circuit) -> None:
    with pytest.raises(ArtefactError, match="cannot reach the hub for 'me/anger': no network, or offline mode"):
        ec.Circuit.from_hub("me/anger")
    with pytest.raises(ArtefactError, match="cannot reach the hub for 'me/anger'"):
        circuit.push_to_hub("me/anger", token="good")


def test_the_card_says_what_it_is(circuit) -> None:
    score = CircuitScore(
        "faithfulness", 0.85, (0.8, 0.9), torch.tensor([0.4, 0.5]), torch.zeros(0), "MeanAblation", 7, 30, 1.0, 0.0
    )
    text = card(circuit, "me/anger", [score])
    header = text.split("---")[1]
    assert "base_model: somebody/tiny" in header
    assert "| nodes | " in text
    assert "| faithfulness | 0.850 | 0.800 to 0.900 | 0.450 | – | MeanAblation | 30 |" in text
    assert 'ec.Circuit.from_hub("me/anger")' in text
    assert text.count("| L") == len(circuit.nodes)
    assert "ec.faithfulness" in card(circuit, "me/anger")
