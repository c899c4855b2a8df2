"""Nothing that a file, a folder or a model's repository says is run; keys stay where they are."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest
import tiny
from faults import SMALL, Life

import emotion_circuits as ec
from emotion_circuits.cli.options import Given
from emotion_circuits.errors import ModelError
from emotion_circuits.pipeline.manifest import load_manifest, write_manifest

ROOT = Path(ec.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
UNSAFE = {"eval", "exec", "compile", "__import__", "torch.save", "yaml.load", "yaml.unsafe_load", "os.system"}
MUST_SAY = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def test_no_module_unpickles_or_runs_what_it_reads() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            place = f"{path}, line {getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not FORBIDDEN & {name.split(".")[0] for name in names}, place
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                said = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
                assert name not in UNSAFE, place
                assert said.get("shell") is not True, place
                if name in MUST_SAY:
                    option, value = MUST_SAY[name]
                    assert said.get(option) is value, f"{place}: {name} without {option}={value}"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model's folder that brings code of its own, which leaves a trace when it is run."""
    folder = tmp_path / "model"
    tiny.hf_model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        f"open({str(tmp_path / 'trace')!r}, 'w').write('run')\n"
        "from transformers import Qwen2Config, Qwen2ForCausalLM\n"
        "class OwnConfig(Qwen2Config):\n    model_type = 'own'\n"
        "class Own(Qwen2ForCausalLM):\n    config_class = OwnConfig\n"
    )
    return folder


def test_a_models_own_code_is_not_run_unless_that_is_asked_for(repository: Path) -> None:
    trace = repository.parent / "trace"
    with pytest.raises(ModelError, match="cannot load the model"):
        ec.HookedModel.from_pretrained(str(repository), dtype="float32")
    assert not trace.exists()
    ec.HookedModel.from_pretrained(str(repository), dtype="float32", trust_remote_code=True)
    assert trace.exists()


def test_a_judge_does_not_run_a_models_own_code(repository: Path) -> None:
    config = json.loads((repository / "config.json").read_text())
    config["auto_map"]["AutoModelForSequenceClassification"] = "own.Own"
    (repository / "config.json").write_text(json.dumps(config))
    with pytest.raises(ec.EmotionCircuitsError):
        ec.ClassifierJudge(str(repository))(["text"])
    assert not (repository.parent / "trace").exists()


def test_a_run_folder_cannot_ask_for_a_models_own_code(tmp_path: Path) -> None:
    settings = {**SMALL.identity(), "trust_remote_code": True}
    manifest = {"schema": 2, "settings": settings, "facts": {}, "versions": {}, "stages": {}, "files": {}}
    write_manifest(tmp_path, manifest)
    assert load_manifest(tmp_path)[0] == manifest
    assert not Given().settings(tmp_path, from_folder=True).trust_remote_code


def test_keys_are_not_in_what_a_run_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {name: f"sentinel-{name}" for name in ("OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    code, log = Life(tmp_path / "run").wait()
    assert code == 0, log
    for path in (*(tmp_path / "run").rglob("*"), tmp_path / "run.log"):
        held = path.read_bytes() if path.is_file() else b""
        assert not [name for name, value in keys.items() if value.encode() in held], path
    shutil.rmtree(tmp_path / "run")
