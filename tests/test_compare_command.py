"""``emotion-circuits compare``: on a run's circuits, with files that say what the table says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from emotion_circuits.cli import compare as command
from emotion_circuits.cli.app import app
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.errors import DataError, ModelError, RunError
from emotion_circuits.evaluation.judges import Judge, LexiconJudge, LLMJudge
from emotion_circuits.journal import Call
from emotion_circuits.pipeline import Settings, load_run, run_pipeline, search
from emotion_circuits.pipeline.comparing import JOURNALS, ComparedRun, choose_methods, compare_run, comparison_folder
from emotion_circuits.pipeline.folder import file_hash
from emotion_circuits.pipeline.judging import cost, judge_of
from emotion_circuits.replies import Replies, Reply

SMALL = Settings(emotions=("anger", "happiness"), limit=3, max_new_tokens=14, temperature=None, size=60)
METHODS = ["none", "prompting", "prompting:described", "circuit", "random circuit"]
TABLES = ("compare", "by-emotion", "by-valence", "by-theme", "labels", "pareto")
FILES = {*(f"{name}.parquet" for name in TABLES), "pareto.html", "replies.jsonl", "settings.json"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "PLACES", search.PLACES[:1])
        run_pipeline(SMALL, out, until="circuit")
    return out


def compare(*arguments: str):
    return CliRunner().invoke(app, ["compare", *arguments])


@pytest.mark.slow
def test_a_run_is_compared(run: Path) -> None:
    result = compare("--run", str(run), "--methods", ",".join(METHODS), "--scenarios", "2", "--strengths", "1.5")
    assert result.exit_code == 0, result.exception
    folder = run / "compare"
    assert {path.name for path in folder.iterdir()} == FILES
    table = pd.read_parquet(folder / "compare.parquet").set_index("method")
    assert table.index.tolist() == METHODS
    labels = pd.read_parquet(folder / "labels.parquet")
    for method, part in labels.groupby("method"):
        assert table.loc[method, "n"] == len(part) == 2 * 3 * 2
        assert table.loc[method, "at_least"] == pytest.approx((part["label"] == part["emotion"]).mean())
    assert table["p"].isna().tolist() == [name == "prompting" for name in METHODS]
    assert table.loc["none", "kl"] == pytest.approx(0, abs=1e-6)
    points = pd.read_parquet(folder / "pareto.parquet")
    strengths = [(m, 1.0) for m in METHODS] + [("circuit", 1.5), ("random circuit", 1.5)]
    assert list(zip(points["method"], points["strength"], strict=True)) == strengths
    held = json.loads((folder / "settings.json").read_text())
    assert held["settings"]["judge"] == "lexicon"
    assert held["files"] == {name: file_hash(folder / name) for name in FILES - {"settings.json"}}
    assert "6 test items x 2 emotions" in result.stdout
    assert result.stdout.rstrip().endswith("change from the unmodulated model.")


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_with_what_it_has(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, made, keep = load_run(run), [], Call.add
    monkeypatch.setattr(Call, "add", lambda self, i, reply: (made.append(i), keep(self, i, reply))[1])

    def compared(on_method: Callable[[str, Replies], None] | None = None) -> ComparedRun:
        made.clear()
        names, options = ["prompting", "circuit"], {"scenarios": 1, "factors": (1.5,)}
        with comparison_folder(run) as folder:
            return compare_run(opened, folder, names, LexiconJudge(), **options, on_method=on_method)

    def stop(name: str, replies: Replies) -> None:
        if name == "circuit":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compared(on_method=stop)
    n_first = len(made)
    interrupted = compared()
    n_second = len(made)
    assert (run / "compare" / JOURNALS.replace("*", "0")).exists()
    interrupted.save(run / "compare")
    assert not list((run / "compare").glob(JOURNALS))
    undisturbed = compared()
    assert n_first > 0 < n_second and n_first + n_second == len(made)
    assert interrupted.comparison.replies == undisturbed.comparison.replies
    pd.testing.assert_frame_equal(interrupted.trade_off.to_frame(), undisturbed.trade_off.to_frame())
    undisturbed.save(run / "compare")


@pytest.mark.slow
def test_json_is_json(run: Path) -> None:
    result = compare("--run", str(run), "--methods", "none,prompting", "--scenarios", "1", "--strengths", "", "--json")
    rows = json.loads(result.stdout)["methods"]
    assert [row["method"] for row in rows] == ["none", "prompting"]
    assert {"n", "unscored", "p", "kl", "answered_change", "in_language"} <= set(rows[0])


@pytest.mark.slow
def test_methods_without_a_strength_are_compared_too(run: Path, tmp_path: Path) -> None:
    """The strengths that are varied by default have nothing to vary."""
    out = copied(run, tmp_path / "run")
    result = compare("--run", str(out), "--methods", "none,prompting", "--scenarios", "1")
    assert result.exit_code == 0, result.exception
    assert {path.name for path in (out / "compare").iterdir()} == FILES
    points = pd.read_parquet(out / "compare/pareto.parquet")
    assert list(zip(points["method"], points["strength"], strict=True)) == [("none", 1.0), ("prompting", 1.0)]


@pytest.mark.slow
def test_a_run_that_is_being_compared_is_refused_to_others(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, refused, tell = copied(run, tmp_path / "run"), [], command.say
    few = ("--run", str(out), "--methods", "none,prompting", "--scenarios", "1", "--strengths", "")

    def meanwhile(talk: bool, what: str, text: str) -> None:
        tell(talk, what, text)
        if text.startswith("prompting"):
            before = list((out / "compare").glob(JOURNALS))
            refused.append(compare(*few).exception)
            with pytest.raises(RunError) as error:
                run_pipeline(SMALL, out, until="circuit")
            refused.append(error.value)
            assert [path.name for path in before] == [JOURNALS.replace("*", "0")]
            assert list((out / "compare").glob(JOURNALS)) == before

    monkeypatch.setattr(command, "say", meanwhile)
    result = compare(*few)
    assert result.exit_code == 0, result.exception
    assert len(refused) == 2
    for error in refused:
        assert isinstance(error, RunError)
        assert f"in use by process {os.getpid()} on {socket.gethostname()}" in str(error)
    assert not (out / ".lock").exists()
    monkeypatch.setattr(command, "say", tell)
    first = result.stdout
    again = compare(*few)
    assert again.exit_code == 0, again.exception
    assert again.stdout == first


def test_what_is_no_run_gets_no_lock(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run folder"), comparison_folder(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_that_cannot_be_written_is_refused_before_any_work(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    result = compare("--run", str(run), "--methods", "none,prompting")
    assert isinstance(result.exception, RunError)
    assert "which may not be written; copy the run to a folder that may" in str(result.exception)


@pytest.mark.slow
def test_a_link_in_the_place_of_a_journal_is_not_followed(run: Path, tmp_path: Path) -> None:
    out, mine = copied(run, tmp_path / "run"), tmp_path / "mine.txt"
    mine.write_text("mine")
    (out / "compare").mkdir()
    (out / "compare" / JOURNALS.replace("*", "0")).symlink_to(mine)
    result = compare("--run", str(out), "--methods", "none,prompting", "--scenarios", "1")
    assert isinstance(result.exception, RunError) and "leads out of the run folder" in str(result.exception)
    assert mine.read_text() == "mine" and not (out / ".lock").exists()


@pytest.mark.slow
def test_two_processes_make_what_one_makes(run: Path, tmp_path: Path) -> None:
    alone, together = copied(run, tmp_path / "alone"), copied(run, tmp_path / "together")
    options = "--methods none,prompting,circuit --scenarios 1 --strengths 1.5 --batch-size 2".split()
    result = compare("--run", str(alone), *options)
    assert result.exit_code == 0, result.exception
    launched = launch(2, "compare", "--run", str(together), *options)
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("written: ") == 1  # one process talks
    assert launched.stdout.replace(str(together), str(alone)).split() == result.stdout.split()
    mine, theirs = alone / "compare", together / "compare"
    assert {path.name for path in theirs.iterdir()} == FILES
    assert not (together / ".lock").exists()
    assert (mine / "replies.jsonl").read_bytes() == (theirs / "replies.jsonl").read_bytes()
    for name in TABLES:
        one, other = (pd.read_parquet(folder / f"{name}.parquet") for folder in (mine, theirs))
        pd.testing.assert_frame_equal(one, other, rtol=1e-6, atol=1e-12)
    # Two processes are refused as one is, and say so once.
    with comparison_folder(together):
        refused = launch(2, "compare", "--run", str(together), *options)
    assert refused.returncode != 0
    assert refused.stderr.count(f"is in use by process {os.getpid()} on") == 1, refused.stderr


def copied(run: Path, out: Path) -> Path:
    """The run without its comparison."""
    return shutil.copytree(run, out, ignore=shutil.ignore_patterns("compare"))


def launch(n: int, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command in ``n`` processes, which are stopped together when they take too long."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    environment["EMOTION_CIRCUITS_TIMEOUT_HOURS"] = str(2 * timeout / 3600)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(
        # Without the dashes torchrun takes --run for an option of its own.
        [*launcher, "-m", "--", "emotion_circuits", *arguments],
        env=environment,
        start_new_session=True,
        **pipes,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--judge", "oracle"], DataError, "no judge is called 'oracle'; use lexicon, classifier:NAME"),
        (["--judge", "llm:"], DataError, "no judge is called 'llm:'"),
        (["--methods", "none,magic"], DataError, "no method is called magic; there are none, prompting"),
        (["--reference", "magic"], DataError, "the reference 'magic' is not compared"),
        (["--strengths", "1,two"], DataError, "--strengths '1,two' is no list of numbers"),
        (["--strengths", "-1"], DataError, "every multiple must be above 0"),
        (["--run", "nowhere"], RunError, "nowhere is no run folder"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(arguments, error, words, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = compare(*arguments)
    assert isinstance(result.exception, error)
    assert words in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_judges_by_name(qwen, tmp_path: Path) -> None:
    def named(name: str, *endpoint) -> Judge:
        return judge_of(name, SMALL.labels, lambda: qwen, *endpoint)

    assert named("lexicon").name == "lexicon"
    assert named("self").name.startswith("self:")
    endpoint = named("llm:some/model", "http://127.0.0.1:9/v1", tmp_path / "answers.jsonl")
    assert isinstance(endpoint, LLMJudge)
    assert (endpoint.model, endpoint.base_url) == ("some/model", "http://127.0.0.1:9/v1")
    assert endpoint.labels == SMALL.emotions
    replies = Replies(tuple(Reply(Prompt.user("x"), text, (5,), "anger") for text in ("a", "b", "a")))
    assert cost(endpoint, replies, "match").startswith("; 2 requests of about ")
    assert cost(named("lexicon"), replies, "classify") == ""
    with pytest.raises(ModelError, match="the classifier 'nowhere' cannot be loaded"):
        named("classifier:nowhere")


@pytest.mark.slow
def test_a_run_is_judged_by_the_judge_that_its_settings_name(tmp_path: Path) -> None:
    settings = replace(SMALL, emotions=("anger", "fear"), limit=1, judge="self")
    judged = run_pipeline(settings, tmp_path / "run", until="judge")
    assert judged.judge.name.startswith("self:")
    assert len(judged.evaluation().scores) == len(judged.evaluation().replies)
    with pytest.raises(RunError, match="judge: 'self' then, 'lexicon' now"):
        run_pipeline(replace(settings, judge="lexicon"), tmp_path / "run", until="judge")


def test_styles_without_a_text_for_a_label_are_left_out() -> None:
    chosen = choose_methods(Settings(emotions=("anger", "envy")))
    assert "prompting:described" not in chosen
    assert choose_methods(Settings())[:3] == ["none", "prompting", "prompting:described"]
