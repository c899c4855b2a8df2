"""The command line: bad input is one clear line and exit code 2, without a traceback and with nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from emotion_circuits.errors import DataError
from emotion_circuits.pipeline import STAGES, Settings

SMALL = ["--limit", "4", "--max-new-tokens", "16"]


def cli(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "emotion_circuits", *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr that has these words, exit code 2."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    message = " ".join(result.stderr.split())
    assert "error:" in message
    for word in words:
        assert word in message, message


@pytest.fixture(scope="module")
def model_without_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.hf_model().save_pretrained(folder)
    tiny.tokenizer(chat_template=None).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("command", ["run", *STAGES, "check"])
def test_every_command_has_help(command: str) -> None:
    from typer.testing import CliRunner

    from emotion_circuits.cli.app import app

    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "--model" in result.output or "MODEL" in result.output.upper()


def test_version() -> None:
    assert cli("--version").stdout.strip() == "0.1.0"


def test_unknown_model(tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(cli("elicit", "--model", "nobody/no-such-model", "--out", str(out), *SMALL), "no-such-model", "demo")


def test_model_without_chat_template(tmp_path: Path, model_without_template: Path) -> None:
    result = cli(
        "elicit", "--model", str(model_without_template), "--dtype", "float32", "--out", str(tmp_path / "r"), *SMALL
    )
    refused(result, "chat template")


def test_unknown_option_values(tmp_path: Path) -> None:
    refused(cli("elicit", "--emotions", "anger", "--out", str(tmp_path / "r")), "at least two")
    refused(cli("elicit", "--dtype", "int3", "--out", str(tmp_path / "r"), *SMALL), "int3", "bfloat16")
    refused(cli("elicit", "--limit", "0", "--out", str(tmp_path / "r")), "limit", "at least 1")


def test_unknown_emotion(tmp_path: Path) -> None:
    result = cli("judge", "--emotions", "anger,zorn", "--out", str(tmp_path / "r"), *SMALL)
    refused(result, "zorn", "anger")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["empty"]),
        ('{"skeleton_id": "a", "theme": "t", "scen', ["line 1", "not JSON"]),
        (
            '{"skeleton_id": "a", "theme": "t", "scenario": "s", "event": {"positive": "p"}}',
            ["line 1", "event.neutral"],
        ),
        ('{"skeleton_id": "a", "theme": "t", "scenario": 3, "event": {}}', ["line 1", "scenario", "3"]),
    ],
)
def test_wrong_data_file(tmp_path: Path, content: str, words: list[str]) -> None:
    path, out = tmp_path / "data.jsonl", tmp_path / "run"
    path.write_text(content)
    refused(cli("elicit", "--data", str(path), "--out", str(out)), "data.jsonl", *words)
    assert not out.exists()


def test_missing_data_file(tmp_path: Path) -> None:
    refused(cli("elicit", "--data", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "r")), "none.jsonl")


def test_cuda_asked_for_and_absent(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA GPU here")
    refused(cli("elicit", "--device", "cuda", "--out", str(tmp_path / "r"), *SMALL), "cuda", "--device cpu")


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(cli("elicit", "--out", str(tmp_path / "file" / "run"), *SMALL), "--out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emotion_circuits import artefacts
    from emotion_circuits.errors import ArtefactError

    target = tmp_path / "x.txt"

    def write_to_full_disk(self: Path, *arguments: object, **options: object) -> None:
        with open("/dev/full", "w") as file:
            file.write("x" * 99999)

    monkeypatch.setattr(Path, "write_text", write_to_full_disk)
    with pytest.raises(ArtefactError, match="No space left"):
        artefacts.write_text(target, "x")
    assert not list(tmp_path.iterdir())


def test_other_settings_into_the_same_folder(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert cli("elicit", "--out", out, "--emotions", "anger,fear", *SMALL).returncode == 0
    refused(cli("elicit", "--out", out, "--limit", "5"), "limit: 4 then, 5 now")


def test_brackets_and_colons_are_printed_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "a[/b] :joy:"
    result = cli("elicit", "--out", str(out), "--emotions", "anger,fear", *SMALL)
    assert result.returncode == 0, result.stderr
    assert f"done, in: {out}" in result.stdout


def test_tables_hold_texts_as_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import pandas as pd

    from emotion_circuits.cli import output

    monkeypatch.setattr(output.console, "width", 200)
    odd = "x[/b] [red] :joy:"
    output.print_frame(pd.DataFrame({odd + " column": [odd + " cell"], "value": [0.5]}), odd + " title")
    row = dict.fromkeys(("accuracy", "low", "high", "neutral", "unscored", "perplexity", "on_topic"), 0.5)
    row |= dict.fromkeys(("p", "distinct_2", "repetition", "n_words", "in_language", "kl", "same_token"), 0.5)
    methods = pd.DataFrame([{"method": odd, "answered": 0.5, "answered_change": 0.1, **row}])
    emotions = pd.DataFrame([{"method": odd, "emotion": odd + " emotion", "accuracy": 0.5}])
    compared: Any = SimpleNamespace(
        table=lambda reference=None: methods, by_emotion=lambda: emotions,
        side_effects={odd: SimpleNamespace(n_requests=1, n_questions=1)},
    )  # fmt: skip
    output.print_comparison(compared, odd + " second title")
    output.print_costs(compared, odd + " reference")
    printed = capsys.readouterr().out
    for what in ("column", "cell", "title", "second title", "emotion", "reference"):
        assert f"{odd} {what}" in printed


@pytest.mark.parametrize("temperature", ["nan", "inf", "-0.1"])
def test_a_temperature_that_is_none(temperature: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(
        cli("elicit", f"--temperature={temperature}", "--out", str(out), *SMALL), "temperature must be", temperature
    )
    assert not out.exists()


def test_a_name_that_no_manifest_can_hold(tmp_path: Path) -> None:
    out, name = tmp_path / "run", "caf\udce9.jsonl"
    for given in ({"data": name}, {"model": name}, {"served_model": name}):
        with pytest.raises(DataError, match=r"holds characters that are not UTF-8: 'caf\\udce9.jsonl'; rename"):
            Settings(**given)
    if sys.platform == "linux":
        refused(cli("elicit", "--data", name, "--out", str(out), *SMALL), "data holds characters that are not UTF-8")
        assert not out.exists()


def test_data_check_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"skeleton_id": "a", "theme": "t", "scenario": "I was so happy", "event": {"positive": "x"}}\n')
    result = cli("data", "check", str(path))
    assert result.returncode == 1
    assert "happy" in result.stdout
    assert "1" in result.stdout


@pytest.mark.slow
def test_from_an_installed_wheel_in_an_empty_folder(tmp_path: Path) -> None:
    """The wheel holds all that it needs: model, data, lexicon, templates."""
    root = Path(__file__).resolve().parents[1]
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(root)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    program = (
        "import emotion_circuits, sys; from emotion_circuits.cli import main;"
        f"assert emotion_circuits.__file__.startswith({str(site)!r}), emotion_circuits.__file__;"
        "sys.argv = ['emotion-circuits', 'run', '--emotions', 'anger,happiness', '--limit', '4',"
        "'--max-new-tokens', '24', '--size', '60', '--out', 'out']; main()"
    )
    environment = os.environ | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=empty, env=environment, capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stderr
    assert (empty / "out/report.html").exists()
    assert "prompting" in result.stdout
