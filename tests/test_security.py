"""Nothing that a file, a folder or a model's repository says is run; keys stay where they are."""

from __future__ import annotations

import ast
import json
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import tiny
from faults import SEARCH, SMALL
from test_judges import Endpoint

import emotion_circuits as ec
from emotion_circuits.cli.options import Given
from emotion_circuits.errors import ModelError
from emotion_circuits.pipeline import Settings, run_pipeline, search
from emotion_circuits.pipeline.manifest import load_manifest, write_manifest

ROOT = Path(ec.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
UNSAFE = {"eval", "exec", "compile", "__import__", "torch.save", "yaml.load", "yaml.unsafe_load", "os.system"}
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
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


KEY = "sk-sentinel-of-the-endpoint"
REPLIES = {"anger": "I am furious about the {}.", "happiness": "I am so happy about the {}.", None: "Here is the {}."}


class Indiscreet(Endpoint):
    """Elicits as ``speaker`` and judges as ``judge``; its first answers are errors that repeat the key."""

    def __init__(self, **statuses: list[int]) -> None:
        super().__init__()
        self.statuses = statuses

    def play(self, handler: BaseHTTPRequestHandler, behaviour: str, body: dict) -> None:
        with self.lock:
            left = self.statuses.get(body["model"])
            status = left.pop(0) if left else 200
        answer = self.completion(self.reply(body))
        if status != 200:
            answer = {"error": {"message": f"no {handler.headers['Authorization']} here", "param": KEY, "code": KEY}}
        payload = json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(payload)))
        handler.send_header("Retry-After", "0.01")
        handler.end_headers()
        handler.wfile.write(payload)

    @staticmethod
    def reply(body: dict) -> str:
        asked = body["messages"][-1]["content"]
        if body["model"] == "judge":
            (score,) = ec.LexiconJudge()([json.loads(asked.rsplit("Text: ", 1)[1])])
            return json.dumps({"label": score.label or "neutral"})
        wanted = next((e for e in REPLIES if e and e in body["messages"][0]["content"]), None)
        return REPLIES[wanted].format(asked.split()[-1].rstrip("."))


@pytest.fixture
def indiscreet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Indiscreet]]:
    """Starts servers; the keys are set."""
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in HUB_TOKENS:
        monkeypatch.setenv(name, f"hf_sentinel_{name}")
    with ExitStack() as stack:

        def start(**statuses: list[int]) -> Indiscreet:
            server = Indiscreet(**statuses)
            stack.callback(server.close)
            return server

        yield start


def holds_no_key(folder: Path, *said: str) -> None:
    """Neither a file of the folder nor what was printed and logged has one of the keys."""
    keys = [KEY, *(f"hf_sentinel_{name}" for name in HUB_TOKENS)]
    held = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    held |= {f"printed {i}": text.encode() for i, text in enumerate(said)}
    assert not [(place, key) for place, content in held.items() for key in keys if key.encode() in content]


def settings_of(server: Indiscreet) -> Settings:
    return replace(
        SMALL, backend="openai", base_url=server.url, served_model="speaker", judge="llm:judge", judge_url=server.url
    )


def was_given_the_key(server: Indiscreet) -> None:
    """Every request had it, and every error that repeats it was sent."""
    assert not any(server.statuses.values())
    assert {headers["authorization"] for _, headers in server.requests} == {f"Bearer {KEY}"}


def keeps_what_the_server_said(run: Path) -> None:
    for name in ("elicit/*.jsonl", "judge/scores.jsonl"):
        assert "no Bearer *** here" in "".join(path.read_text(encoding="utf-8") for path in run.glob(name))
    assert (run / "report.html").exists()


def test_keys_are_not_in_what_a_run_leaves(indiscreet, tmp_path: Path, monkeypatch, caplog, capfd) -> None:
    for name, value in SEARCH.items():
        monkeypatch.setattr(search, name, value)
    caplog.set_level(logging.DEBUG)
    server = indiscreet(speaker=[400, 429], judge=[429, 400])
    run_pipeline(settings_of(server), tmp_path / "run")
    assert {body["model"] for body, _ in server.requests} == {"speaker", "judge"}
    was_given_the_key(server)
    keeps_what_the_server_said(tmp_path / "run")
    assert "openai" in {record.name.split(".")[0] for record in caplog.records}
    holds_no_key(tmp_path, caplog.text, *capfd.readouterr())


@pytest.mark.parametrize("refused", ["speaker", "judge"])
def test_keys_are_not_in_what_a_refused_run_leaves(indiscreet, refused: str, tmp_path: Path, caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    server = indiscreet(**{refused: [401]})
    with pytest.raises(ModelError, match=f"refused model '{refused}' with status 401") as error:
        run_pipeline(settings_of(server), tmp_path / "run")
    was_given_the_key(server)
    assert "openai" in {record.name.split(".")[0] for record in caplog.records}
    shown = "".join(traceback.format_exception(error.value))
    holds_no_key(tmp_path, shown, caplog.text, *capfd.readouterr())


PROGRAM = """
import logging
from emotion_circuits.cli import main
from emotion_circuits.pipeline import search

logging.basicConfig(level=logging.DEBUG)
search.STRENGTHS, search.PLACES = search.Range(0.7, 1.0), search.PLACES[:1]
main()
"""


@pytest.mark.faults
def test_keys_are_not_in_what_the_command_leaves(indiscreet, tmp_path: Path) -> None:
    server, run = indiscreet(speaker=[400, 429], judge=[429, 400]), tmp_path / "run"
    command = [
        sys.executable, "-c", PROGRAM, "run", "--model", "demo", "--emotions", "anger,happiness", "--limit", "2",
        "--max-new-tokens", "8", "--size", "60", "--backend", "openai", "--base-url", server.url,
        "--served-model", "speaker", "--judge", "llm:judge", "--judge-url", server.url, "--out", str(run),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    was_given_the_key(server)
    keeps_what_the_server_said(run)
    assert "DEBUG:openai" in done.stderr
    holds_no_key(tmp_path, done.stdout, done.stderr)
