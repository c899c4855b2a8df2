"""Presets: the reference's values are those of its paper, and every stage takes them."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import tiny
import torch
from helpers import EMOTIONS, instructed, prompts, unchecked
from typer.testing import CliRunner

import emotion_circuits as ec
from emotion_circuits.cli.app import app
from emotion_circuits.control import CircuitModulation, SteeringVector
from emotion_circuits.errors import DataError
from emotion_circuits.pipeline import Settings, comparison, load_run, read_manifest, run_pipeline
from emotion_circuits.pipeline.presets import run_preset
from emotion_circuits.types import ModelDims


def test_the_papers_values_are_those_of_the_paper() -> None:
    """Numbers as the description of the reference's stages gives them, written here once more."""
    paper = ec.preset("paper")
    assert (paper.elicit["style"], paper.elicit["config"].max_new_tokens) == ("named", 100)
    assert paper.elicit["config"].temperature == 0
    assert isinstance(paper.neurons["method"], ec.DirectAttribution)
    assert isinstance(paper.heads["method"], ec.HeadImportance)
    assert paper.contrasts == {"baseline": "emotions", "match_positions": False, "unit_heads": True}
    assert paper.influence["strengths"] == (0.1, 0.3, 0.5, 0.7)
    circuit = dict(paper.circuit)
    quota = circuit.pop("method")
    assert circuit == {"size": 560, "neurons": 0.7, "heads": 0.3}
    assert (quota.minimum, quota.cap) == ({"neuron": 4, "head": 2}, 0.4)
    assert paper.modulation["positions"] == {"neuron": "last", "head": "all"}
    strengths = {"anger": 0.8, "sadness": 1, "happiness": 1, "fear": 1, "surprise": 1, "disgust": 1}
    assert paper.modulation["strength"] == strengths
    config = paper.generate["config"]
    decoding = (config.repetition_penalty, config.no_repeat_ngram_size, config.min_new_tokens, config.temperature)
    assert decoding == (1.1, 3, 10, 0)
    assert paper.evaluate["question"] == "match"


def test_the_papers_steering_on_its_own_model() -> None:
    class Llama:
        dims = ModelDims(28, 24, 8, 3072, 128, 8192, 128256)

    held = ec.preset("paper").steering(Llama())
    assert held["layers"] == tuple(range(11, 21))
    assert held["strength"] == pytest.approx(0.1443, abs=1e-4)
    assert held["positions"] == "last"


@pytest.mark.parametrize("name", ["paper", "default"])
def test_every_stage_takes_its_settings(name: str) -> None:
    held = ec.preset(name)
    stages = {
        "elicit": ec.elicit, "neurons": ec.attribute, "heads": ec.attribute, "contrasts": ec.fit_contrasts,
        "influence": ec.sublayer_influence, "circuit": ec.build_circuit, "modulation": CircuitModulation,
        "generate": ec.generate, "evaluate": ec.evaluate,
    }  # fmt: skip
    for stage, function in stages.items():
        assert set(getattr(held, stage)) <= set(inspect.signature(function).parameters), stage
    assert set(held.steering(tiny.model())) <= set(inspect.signature(SteeringVector).parameters)


def test_the_default_preset_is_what_a_call_without_settings_does() -> None:
    held = ec.preset()
    stages = {
        "contrasts": ec.fit_contrasts, "influence": ec.sublayer_influence, "circuit": ec.build_circuit,
        "modulation": CircuitModulation, "evaluate": ec.evaluate, "elicit": ec.elicit,
    }  # fmt: skip
    for stage, function in stages.items():
        for key, value in getattr(held, stage).items():
            usual = inspect.signature(function).parameters[key].default
            assert usual == value or usual is None, (stage, key)  # None: the function makes the same one itself
    assert held.elicit["config"] == held.generate["config"] == ec.GenerationConfig()
    target = ec.Projection(torch.ones(32), emotion="fear")
    scores = ec.attribute(tiny.model(), instructed(1), target, ec.DirectAttribution())
    small = dict(held.circuit) | {"size": 20}
    assert ec.build_circuit(scores, size=20).nodes == ec.build_circuit(scores, **small).nodes


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(DataError, match="there is no preset 'papers'; there are paper and default"):
        ec.preset("papers")
    with pytest.raises(DataError, match="there is no preset 'papers'; there are paper and default"):
        Settings(preset="papers")


def test_unit_heads_by_hand(qwen) -> None:
    replies = ec.Replies(tuple(ec.Reply(prompt, "", (5, 6, 7), prompt.emotion) for prompt in instructed(2)))
    raw = ec.fit_contrasts(qwen, replies, emotions=EMOTIONS, match_positions=False)["fear"]
    unit = ec.fit_contrasts(qwen, replies, emotions=EMOTIONS, match_positions=False, unit_heads=True)["fear"]
    assert torch.equal(unit.prompt.neurons, raw.prompt.neurons)
    for layer in range(3):
        mine, theirs = unit.prompt.heads[layer].flatten(), raw.prompt.heads[layer].flatten()
        assert float(mine.norm()) == pytest.approx(1)
        torch.testing.assert_close(mine * theirs.norm(), theirs)


def test_positions_of_each_kind(qwen) -> None:
    """Heads everywhere and neurons last, as the reference: the sum of two patches."""
    values = ec.NodeValues(torch.zeros(3, 48), torch.zeros(3, 4))
    part = ec.Activations(torch.ones(3, 48), torch.ones(3, 4, 8))
    nodes = ec.NodeSet.of(qwen, "L1N3", "L0H1")
    circuit = ec.Circuit("fear", nodes, qwen.dims, values, None, ec.Contrast("fear", "emotions", part))
    method = CircuitModulation({"fear": circuit}, 0.5, {"neuron": "last", "head": "all"})
    by_hand = [
        ec.Patch(ec.NodeSet.of(qwen, name), ec.Enhancement(circuit.contrast, 0.5), where)
        for name, where in (("L1N3", "last"), ("L0H1", "all"))
    ]
    results = []
    for patches in (method.patches("fear"), by_hand):
        with qwen.patched(*patches):
            results.append(qwen.logits(prompts(2)))
    assert torch.equal(*results)


def test_commands_take_a_preset(tmp_path: Path) -> None:
    given = ["--preset", "paper", "--emotions", "anger,fear", "--limit", "1", "--max-new-tokens", "1", "--quiet"]
    # Typer hands commands a context that is not of the class that it tells them to name.
    result = unchecked(CliRunner().invoke, app, ["elicit", *given, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert load_run(tmp_path / "run").preset is run_preset("paper")


@pytest.mark.slow
def test_the_paper_preset_in_every_stage_of_a_run(tmp_path: Path) -> None:
    """What is in the files a run leaves is what the reference would have done."""
    emotions = ("anger", "happiness")
    settings = Settings(emotions=emotions, preset="paper", limit=3, max_new_tokens=24, temperature=None, size=40)
    run = run_pipeline(settings, tmp_path / "run")
    assert Settings(preset="paper").max_new_tokens == 100
    assert read_manifest(run.folder.path)["settings"]["preset"] == "paper"
    # Contrasts: against the mean over emotions, one part, heads of each layer at unit length.
    assert [path.name for path in sorted(run.folder.path.glob("directions/contrast-*"))] == [
        f"contrast-emotions-{emotion}.safetensors" for emotion in emotions
    ]
    contrast = run.contrasts("emotions")["anger"]
    assert contrast.reply is None
    torch.testing.assert_close(contrast.prompt.heads.flatten(1).norm(dim=1), torch.ones(6))
    # Ranking: neurons by direct attribution, heads by their importance.
    scores, importance = run.attributions()["anger"], run.head_importances()["anger"]
    assert scores.method == "direct attribution + head importance"
    assert torch.equal(scores.values.heads, importance.values.heads)
    assert run.influence().strengths == (0.1, 0.3, 0.5, 0.7)
    # Circuit: quotas, 70 and 30 % of the nodes.
    for circuit in run.circuits().values():
        assert (circuit.nodes.n_neurons, circuit.nodes.n_heads) == (28, 12)
        assert circuit.nodes.neurons.sum(dim=1).min() >= 4
        assert circuit.nodes.heads.sum(dim=1).min() >= 2
        assert circuit.nodes.neurons.sum(dim=1).max() <= 0.4 * 28
    # Strengths: fixed; steering at 8 times the rms on the middle layers.
    held = run.calibration()
    assert {e: p["strength"] for e, p in held["circuit"].items()} == {"anger": 0.8, "happiness": 1.0}
    assert len(held["circuit search"]["points"]) == 2
    for point in held["steering"].values():
        assert point["strength"] == pytest.approx(8 / 128**0.5)
        assert point["candidate"] == "direction, last, layers 2-3"
    modulation = run.modulations()["anger"]
    assert [(p.nodes.n_neurons, p.nodes.n_heads, p.positions) for p in modulation.patches("anger")] == [
        (28, 0, "last"), (0, 12, "all"),
    ]  # fmt: skip
    # Decoding and the judge's question.
    made_by = comparison(run).provenance["settings"]
    expected = {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "min_new_tokens": 10, "question": "match"}
    assert made_by | expected == made_by
    assert run.elicitation_config() == ec.GenerationConfig(max_new_tokens=24)
    elicited = run.replies("anger")[0]
    assert ec.generate(run.model, [elicited.prompt], None, run.elicitation_config())[0].text == elicited.text
    assert min(len(reply.tokens) for reply in comparison(run).evaluations["circuit"].replies) >= 10
    assert "set beforehand and not searched" in (run.folder.path / "report.html").read_text()
    assert load_run(run.folder.path).settings == settings
