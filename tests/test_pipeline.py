"""The run folder: the whole pipeline works, is taken up again after any interruption, and refuses what it must."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import emotion_circuits as ec
from emotion_circuits.attribution import Influence
from emotion_circuits.cli.app import app
from emotion_circuits.errors import ArtefactError, RunError
from emotion_circuits.pipeline import STAGES, Settings, comparison, load_run, read_manifest, run_pipeline, search
from emotion_circuits.pipeline.diff import diff
from emotion_circuits.pipeline.difference import distance
from emotion_circuits.pipeline.folder import RunFolder, file_hash, open_run
from emotion_circuits.pipeline.manifest import write_manifest
from emotion_circuits.pipeline.samples import kept_samples
from emotion_circuits.pipeline.verify import verify
from emotion_circuits.replies import Replies

SMALL = Settings(emotions=("anger", "happiness"), limit=4, max_new_tokens=24, temperature=None, size=60)


@pytest.fixture(scope="module", autouse=True)
def small_search() -> Iterator[None]:
    """A small search is enough here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "STRENGTHS", search.Range(0.7, 1.0))
        patch.setattr(search, "PLACES", search.PLACES[:1])
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run_pipeline(SMALL, out)
    return out


def hashes(out: Path) -> dict[str, str]:
    """Hash of every file but the report, which shows how long the stages took."""
    files = json.loads((out / "manifest.json").read_text())["files"]
    return {name: value for name, value in files.items() if name != "report.html"}


def test_every_stage_is_done_and_every_file_is_there(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    assert list(manifest["stages"]) == list(STAGES)
    assert all(stage["status"] == "done" for stage in manifest["stages"].values())
    assert all((finished / name).is_file() for name in manifest["files"])
    assert not list(finished.rglob("*.tmp"))
    assert (finished / "report.html").stat().st_size > 10_000


def test_the_table_is_what_the_files_say(finished: Path) -> None:
    run = run_pipeline(SMALL, finished)
    table = comparison(run).table().set_index("method")
    replies = [json.loads(line) for line in (finished / "generate/greedy/circuit.jsonl").read_text().splitlines()]
    scores = [json.loads(l) for l in (finished / "evaluate/greedy/circuit.scores.jsonl").read_text().splitlines()]
    hits = sum(s["label"] == r["emotion"] for r, s in zip(replies, scores, strict=True))
    assert table.loc["circuit", "at_least"] == pytest.approx(hits / len(replies))
    assert len(replies) == 2 * 4 * 3


def test_samples_for_the_report_are_whole_groups_in_every_layer(finished: Path) -> None:
    run = load_run(finished)
    table = kept_samples(run)
    assert table is not None
    counts = table.groupby(["layer", "item", "valence"])["emotion"].agg(["nunique", "size"])
    assert set(counts.to_numpy().ravel()) == {len(SMALL.emotions)}
    assert list(table["layer"].unique()) == list(range(run.directions().n_layers))
    assert "json-samples" in (finished / "report.html").read_text(encoding="utf-8")


def test_running_again_changes_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.jsonl")}
    run_pipeline(SMALL, finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.jsonl")} == before


def test_a_run_that_breaks_off_anywhere_ends_with_the_same_files(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, original = tmp_path / "broken", RunFolder.unit
    state = {"left": 0}

    def unit(self: RunFolder, name: str, make):
        def stopping(path: Path) -> None:
            if state["left"] == 0:
                path.write_text("half a fi")
                raise KeyboardInterrupt
            state["left"] -= 1
            make(path)

        return original(self, name, stopping)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "unit", unit)
        stops = 0
        for _ in range(40):
            state["left"] = 7  # seven more files each time
            try:
                run_pipeline(SMALL, out)
                break
            except KeyboardInterrupt:
                stops += 1
    assert stops >= 3
    assert hashes(out) == hashes(finished)
    assert not list(out.rglob("*.tmp"))


def test_a_damaged_file_is_found_and_made_again(finished: Path) -> None:
    before = hashes(finished)
    victim = finished / "judge/scores.jsonl"
    victim.write_text(victim.read_text()[:-20])
    run_pipeline(SMALL, finished)
    assert hashes(finished) == before


def test_other_settings_are_refused_with_the_difference(finished: Path) -> None:
    with pytest.raises(RunError, match=r"limit: 4 then, 5 now"):
        run_pipeline(Settings(emotions=SMALL.emotions, limit=5, max_new_tokens=24, temperature=None, size=60), finished)


def test_a_second_process_is_refused_with_the_owner(tmp_path: Path) -> None:
    message = f"in use by process {os.getpid()} on"
    with (
        open_run(tmp_path, SMALL, {}),
        pytest.raises(RunError, match=message),
        open_run(tmp_path, SMALL, {}),
    ):
        pass


def test_a_lock_whose_owner_is_gone_does_not_matter(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    import socket

    (tmp_path / ".lock").write_text(json.dumps({"pid": dead.pid, "host": socket.gethostname()}))
    with open_run(tmp_path, SMALL, {}):
        pass
    assert not (tmp_path / ".lock").exists()


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(tmp_path, SMALL, {}) as folder:

        def full(path: Path) -> None:
            path.write_text("some")
            raise OSError(28, "No space left on device")

        with pytest.raises((RunError, ArtefactError), match="No space left on device"):
            folder.unit("a/b.txt", full)
    assert not list((tmp_path / "a").iterdir())


def test_verify_finds_a_run_as_it_was_and_leaves_it_alone(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    result = verify(finished)
    assert result.ok
    assert result.exact
    assert set(result.to_frame()["verdict"]) == {"same"}
    # Every stage but the report, which shows times.
    assert list(dict.fromkeys(result.to_frame()["stage"])) == [stage for stage in STAGES if stage != "report"]
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def rewritten(out: Path, name: str, **changes) -> None:
    """Make the manifest vouch for a file as it is now, as a forger would."""
    manifest = read_manifest(out)
    manifest["files"][name] = file_hash(out / name)
    write_manifest(out, manifest | changes)


def test_verify_finds_what_was_not_computed_and_what_is_damaged(finished: Path, tmp_path: Path) -> None:
    out, name = Path(shutil.copytree(finished, tmp_path / "copy")), "generate/greedy/circuit.jsonl"
    Replies(tuple(replace(reply, text="I am furious.") for reply in Replies.load(out / name))).save(out / name)
    rewritten(out, name)
    (out / "influence/influence.safetensors").write_bytes(b"gone")
    result = CliRunner().invoke(app, ["verify", str(out), "--json"])
    assert result.exit_code == 1
    bad = {row["stage"]: row for row in json.loads(result.output) if row["verdict"] != "same"}
    assert bad["generate"]["verdict"] == "different"
    assert bad["generate"]["sample"].startswith(f"{name}, replies ")
    assert bad["influence"]["verdict"] == "damaged"


def test_other_versions_are_compared_to_rounding(finished: Path, tmp_path: Path) -> None:
    out, name = Path(shutil.copytree(finished, tmp_path / "copy")), "influence/influence.safetensors"
    held = Influence.load(out / name)
    replace(held, values=held.values * (1 + 1e-6)).save(out / name)
    rewritten(out, name, versions={"torch": "2.8.0"})
    result = verify(out)
    assert result.ok
    assert not result.exact
    assert result.to_frame().set_index("sample").loc[name, "verdict"] == "close"
    replace(held, values=held.values * 1.5).save(out / name)
    assert distance(finished / name, out / name).largest > 0.1


def test_diff_of_a_run_and_itself_and_another(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    assert diff(finished, copy).same
    other = replace(SMALL, size=40)
    with open_run(tmp_path / "other", other, read_manifest(copy)["facts"]):
        pass
    run_pipeline(other, tmp_path / "other", until="evaluate")
    table = diff(finished, tmp_path / "other").to_frame().set_index(["part", "what"])
    assert list(table.loc[("settings", "size"), ["first", "second"]]) == ["60", "40"]
    assert "Jaccard" in table.loc[("circuit", "anger: nodes"), "difference"]
    a, b = (ec.Circuit.load(out / "circuit/anger.safetensors").nodes for out in (finished, tmp_path / "other"))
    assert f"{len(a & b) / len(a | b):.3f}" in table.loc[("circuit", "anger: nodes"), "difference"]
    assert CliRunner().invoke(app, ["diff", str(finished), str(tmp_path / "other")]).exit_code == 0
    with pytest.raises(RunError, match="one folder"):
        diff(finished, finished)
