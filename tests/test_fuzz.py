"""Every reader either reads a file or refuses it with the project's own error, whatever the file holds.

``FUZZ`` is the number of inputs over all readers: 1,000 by default, 20,000 in `make test-faults`.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import emotion_circuits as ec
from emotion_circuits import artefacts, endpoint, records
from emotion_circuits.attribution import Attribution, Influence
from emotion_circuits.circuits.stability import Stability
from emotion_circuits.control.doses import Bounds, Point
from emotion_circuits.data.labels import LabelSet
from emotion_circuits.data.validate import check
from emotion_circuits.directions.quality import QualityTest
from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.evaluation.judges import Score, read_labelling_sheet, write_labelling_sheet
from emotion_circuits.evaluation.judges.llm import _parse
from emotion_circuits.interop import gguf, paper
from emotion_circuits.interop.global_circuit import load_global_circuit
from emotion_circuits.journal import ReplyJournal
from emotion_circuits.pipeline import load_run, read_manifest
from emotion_circuits.pipeline.manifest import SCHEMA, _hash, write_manifest
from emotion_circuits.pipeline.run import load_scores, read_json, save_scores
from emotion_circuits.pipeline.settings import Settings
from emotion_circuits.planning import shape_of

INPUTS = int(os.environ.get("FUZZ", "1000"))
DIMS = ec.ModelDims(2, 2, 1, 8, 4, 6, 50)
EMOTIONS = ("anger", "fear")
TEXTS = ["I am furious", "=1+1", "", "so happy\ntoday"]


@dataclass(frozen=True)
class Reader:
    """A way to read a file, and how to write one that it reads.

    Attributes:
        read: from a path.
        write: to a path.
        kind: of mutation.
        suffix: of the file.
    """

    read: Callable[[Path], Any]
    write: Callable[[Path], Any]
    kind: str = "json"
    suffix: str = ""


def activations() -> ec.Activations:
    return ec.Activations(torch.randn(2, 6), torch.randn(2, 2, 4), torch.randn(2, 8), torch.randn(2, 8))


def values() -> ec.NodeValues:
    return ec.NodeValues(torch.randn(2, 6), torch.randn(2, 2))


def nodes() -> ec.NodeSet:
    return ec.NodeSet(torch.rand(2, 6) > 0.5, torch.rand(2, 2) > 0.5)


def contrast() -> ec.Contrast:
    held = ec.Activations(torch.randn(2, 6), torch.randn(2, 2, 4))
    return ec.Contrast("anger", "emotions", held, held)


def directions() -> ec.EmotionDirections:
    each, row = torch.rand(2, 2, 2), torch.rand(2, 2)
    tests = (QualityTest("bootstrap", (0.9, 0.8), 0.5, True, ((0.8, 1.0), (0.7, 0.9))),)
    return ec.EmotionDirections(EMOTIONS, torch.randn(2, 2, 2, 8), each, row, 3, each, row, row, {"model": "m"}, tests)


def attribution() -> Attribution:
    held = values()
    return Attribution(
        held, "direct", "anger", 5, DIMS, std=held, positive=held, negative=held, beta=held.neurons, centred=held,
        means=activations(), contrast=ec.Contrast("anger", "emotions", activations()), scored=nodes(),
        provenance={"model": "m"}, flags=("weak",),
    )  # fmt: skip


def influence() -> Influence:
    return Influence(EMOTIONS, torch.randn(2, 2, 2), torch.rand(2, 2, 2), torch.randn(1, 2, 2, 2), (1.0,), 4)


def circuit() -> ec.Circuit:
    return ec.Circuit("anger", nodes(), DIMS, values(), torch.rand(2, 2), contrast(), {"model": "m"}, ("weak",))


def stability() -> Stability:
    return Stability(nodes(), values(), values(), 0.8, 10, 12)


def scenarios() -> ec.SEV:
    return ec.load_sev("demo")[0].limit(3)


def replies() -> ec.Replies:
    return ec.Replies(
        tuple(ec.Reply(p, "I am furious.", (5, 6, 2), "anger", "m") for p in scenarios().prompts("anger"))
    )


def journal(path: Path) -> Any:
    return ReplyJournal(path).call([], "nothing").made


def saved_journal(path: Path) -> None:
    with_line = {"call": 0, "key": "k", "index": 0, "text": "a", "tokens": [1]}
    records.write(path, [with_line, {**with_line, "index": 1}])


def in_folder(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def inside(path: Path) -> Any:
        (path.parent / ".manifest-copy.json").unlink(missing_ok=True)
        return read(path.parent)

    return inside


def manifest(path: Path) -> None:
    identity = Settings(emotions=EMOTIONS, limit=1).identity()
    stages, files = {"elicit": {"status": "done", "seconds": 1.5}}, {"elicit/anger.jsonl": "0" * 64}
    write_manifest(path.parent, {"schema": SCHEMA, "settings": identity, "facts": {}, "versions": {}, "stages": stages,
                                 "files": files})  # fmt: skip


def without_check(path: Path) -> Any:
    """Read a manifest whose checksum fits, so that what is behind the checksum is reached as well."""
    (path.parent / ".manifest-copy.json").unlink(missing_ok=True)
    with suppress(ValueError, TypeError, RecursionError, AttributeError):
        held = json.loads(path.read_bytes())
        held.pop("check", None)
        path.write_text(json.dumps({**held, "check": _hash(held)}))
    return load_run(path.parent)


def cached(path: Path) -> None:
    cache = endpoint.AnswerCache(path)
    for i in range(3):
        cache.add(str(i), '{"label": "anger"}')


def torch_file(path: Path) -> None:
    torch.save({"dirs": {e: np.random.default_rng(0).normal(size=(2, 8)) for e in EMOTIONS}}, path)


def sigma(path: Path) -> None:
    path.write_text('{"attention_0": 1.0, "attention_1": 1.0, "mlp_0": 2.0, "mlp_1": 2.0}')


def ranking(path: Path) -> None:
    rows = "".join(f"{l},{h},0.5,0.1,10\n" for l in (0, 1) for h in (0, 1))
    path.write_text("layer,head,mean_importance,std_importance,samples\n" + rows)


def table(path: Path) -> None:
    path.write_text("layer,importance_attention,importance_mlp,k_attention,k_mlp,heads\n0,1,2,1,3,0\n1,1,2,2,3,0 1\n")


def vector(path: Path) -> None:
    gguf.write_control_vector(directions(), "anger", path, architecture="qwen2", layers=[1])


def read_calibration(path: Path) -> ec.Calibration:
    return ec.Calibration.from_dict(read_json(path))


def calibration(path: Path) -> None:
    points = tuple(Point(e, "a", 1.0, 6, 0.9, 1.1, 1.0, "controlled", share=0.2) for e in EMOTIONS)
    held = ec.Calibration({point.emotion: point for point in points}, points, Bounds(), 24)
    path.write_text(json.dumps(held.to_dict()))


def configuration(path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"intermediate_size": 16, "vocab_size": 50, "head_dim": 4}
    path.write_text(json.dumps({"model_type": "qwen2", "text_config": sizes, **sizes}))


def global_circuit(path: Path) -> None:
    parts = {"mlp": {"k": 2, "neurons": [0, 3]}, "attention": {"k": 1, "heads": [1]}}
    layers = [{"layer": layer, **parts} for layer in range(2)]
    path.write_text(json.dumps({"emotion": "anger", "K_total": 6, "cap_ratio": 0.5, "layers": layers}))


LABELS = """\
name: three
circular: false
labels:
  anger: {valence: -0.5, arousal: 0.7, colour: "#aa0000", words: {en: anger, de: Wut}, opposite: calm}
  calm: {like: happiness, opposite: anger, phrases: {at ease: 1.0}}
"""

READERS: dict[str, Reader] = {
    "SEV": Reader(ec.SEV.from_jsonl, lambda p: scenarios().to_jsonl(p), "jsonl"),
    "SEV check": Reader(lambda p: check([str(p)]), lambda p: scenarios().to_jsonl(p), "jsonl"),
    "replies": Reader(ec.Replies.load, lambda p: replies().save(p), "jsonl"),
    "journal": Reader(journal, saved_journal, "jsonl"),
    "scores": Reader(load_scores, lambda p: save_scores(p, [Score("anger", "r", {"anger": 1.0})] * 3), "jsonl"),
    "circuit": Reader(ec.Circuit.load, lambda p: circuit().save(p), "safetensors"),
    "directions": Reader(ec.EmotionDirections.load, lambda p: directions().save(p), "safetensors"),
    "contrast": Reader(ec.Contrast.load, lambda p: contrast().save(p), "safetensors"),
    "attribution": Reader(Attribution.load, lambda p: attribution().save(p), "safetensors"),
    "influence": Reader(Influence.load, lambda p: influence().save(p), "safetensors"),
    "stability": Reader(Stability.load, lambda p: stability().save(p), "safetensors"),
    "manifest": Reader(in_folder(read_manifest), manifest, suffix="manifest.json"),
    "run": Reader(without_check, manifest, suffix="manifest.json"),
    "calibration": Reader(lambda p: read_calibration(p).to_frame(), calibration),
    "configuration": Reader(lambda p: shape_of(p).parameters / 1, configuration),
    "global circuit": Reader(lambda p: load_global_circuit(p, dims=DIMS), global_circuit),
    "JSON": Reader(read_json, lambda p: p.write_text('{"a": {"b": [1, 2]}}')),
    "table": Reader(artefacts.load_frame, lambda p: artefacts.save_frame(p, pd.DataFrame({"a": [1, 2]})), "bytes"),
    "labelling sheet": Reader(
        lambda p: read_labelling_sheet(p, TEXTS), lambda p: write_labelling_sheet(p, TEXTS), "text"
    ),
    "judge cache": Reader(lambda p: endpoint.AnswerCache(p).answers, cached, "jsonl"),
    "judge answer": Reader(
        lambda p: _parse(p.read_bytes().decode("utf-8", "replace")), lambda p: p.write_text('{"label": "anger"}')
    ),
    "label set": Reader(lambda p: LabelSet.parse(str(p)), lambda p: p.write_text(LABELS), "text", ".yaml"),
    "reference directions": Reader(lambda p: paper.load_directions(p, p), torch_file, "bytes", ".pt"),
    "reference sigma": Reader(lambda p: paper.load_sigma(p, 2), sigma),
    "reference ranking": Reader(lambda p: paper.load_head_ranking(p, "anger", DIMS), ranking, "text"),
    "reference influence": Reader(lambda p: paper.load_influence(p, "anger"), table, "text"),
    "reference circuit": Reader(lambda p: paper.load_circuit(p, "anger", None, DIMS), table, "text"),
    "reference array": Reader(
        lambda p: paper.load_differences("anger", p, None, DIMS),
        lambda p: np.save(p, np.ones((2, 6), "f4")), "bytes", ".npy",
    ),
    "reference archive": Reader(
        lambda p: paper.load_differences("anger", p, None, DIMS),
        lambda p: np.savez_compressed(p, anger=np.ones((2, 6), "f4"), fear=np.ones((2, 6), "f4")), "bytes", ".npz",
    ),
    "control vector": Reader(gguf.read_control_vector, vector, "bytes", ".gguf"),
}  # fmt: skip


@pytest.fixture(params=sorted(READERS))
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Reader, Path]:
    torch.manual_seed(0)
    found = READERS[request.param]
    name = found.suffix if found.suffix[:1] not in ("", ".") else f"file{found.suffix}"
    return found, tmp_path / name


def attempt(reader: Reader, path: Path, content: bytes) -> None:
    """Read a file and look at what came out; only the project's own errors may come."""
    path.write_bytes(content)
    with suppress(EmotionCircuitsError):
        repr(reader.read(path))
    path.unlink(missing_ok=True)


def test_changed_files_are_read_or_refused(reader: tuple[Reader, Path]) -> None:
    held, path = reader
    held.write(path)
    valid = path.read_bytes()
    repr(held.read(path))  # what is valid is read

    @settings(
        max_examples=-(-INPUTS // len(READERS)), database=None, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**40))
    def run(seed: int) -> None:
        attempt(held, path, hostile.mutate(valid, held.kind, random.Random(seed)))

    run()


@pytest.mark.parametrize("name", sorted(hostile.CORPUS))
def test_hostile_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    content = hostile.CORPUS[name]()
    for held in READERS.values():
        if held.suffix != "manifest.json":
            attempt(held, tmp_path / f"file{held.suffix}", content)
        else:
            attempt(READERS["manifest"], tmp_path / "manifest.json", content)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    path.write_bytes(hostile.CORPUS["zip bomb"]())
    with pytest.raises(EmotionCircuitsError, match="unpacks to"):
        paper.load_differences("anger", path, None, DIMS)
