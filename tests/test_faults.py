"""What a run folder survives: SIGKILL at any moment, a full disk, cut files, flipped bits, two owners, wrong names."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from faults import SEARCH, SMALL, Life, hashes, left_over, seconds

from emotion_circuits import journal
from emotion_circuits.errors import EmotionCircuitsError, RunError
from emotion_circuits.pipeline import STAGES, Settings, read_manifest, run_pipeline, search
from emotion_circuits.pipeline.folder import file_hash, open_run

KILLS = {"elicit": 2, "judge": 1, "directions": 2, "attribute": 1, "influence": 1, "circuit": 4, "generate": 3,
         "evaluate": 2, "report": 1}  # fmt: skip
"""Kills in one run; three runs make 51."""


@pytest.fixture(autouse=True)
def small_search(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SEARCH.items():
        monkeypatch.setattr(search, name, value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("faults") / "whole"
    code, log = Life(out).wait()
    assert code == 0, log
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed run that may be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def killed_run(out: Path, kills: dict[str, int], duration: dict[str, float], rng: random.Random) -> Counter[str]:
    """A run that is killed so often in each stage, or as often as the stage is still there; then finished."""
    killed: Counter[str] = Counter()
    for stage, times in kills.items():
        for _ in range(times):
            life = Life(out)
            assert life.reach(stage)
            # The earlier half, so that something of the stage is left for the next life.
            at = life.kill_after(rng.uniform(0, 0.5 * duration[stage]))
            killed.update([at] if at else [])
    code, log = Life(out).wait()
    assert code == 0, log
    return killed


def test_a_run_that_is_killed_ends_with_the_same_files(finished: Path, tmp_path: Path) -> None:
    kills = {"elicit": 1, "directions": 1, "circuit": 2, "generate": 1}
    killed = killed_run(tmp_path / "killed", kills, seconds(finished), random.Random(1))
    assert killed.total() == 5
    assert hashes(tmp_path / "killed") == hashes(finished)
    assert not left_over(tmp_path / "killed")


@pytest.mark.faults
def test_fifty_kills_at_random_moments_of_every_stage(finished: Path, tmp_path: Path) -> None:
    killed: Counter[str] = Counter()
    for seed in range(3):
        out = tmp_path / f"killed-{seed}"
        killed += killed_run(out, KILLS, seconds(finished), random.Random(seed))
        assert hashes(out) == hashes(finished)
        assert not left_over(out)
    assert killed.total() >= 50
    assert set(killed) == set(STAGES)


@pytest.mark.faults
@pytest.mark.parametrize("delay", [2.5, 4.0, 6.0])
def test_the_command_line_is_killed_and_taken_up_again(tmp_path: Path, delay: float) -> None:
    arguments = ["run", "--emotions", "anger,happiness", "--limit", "2", "--max-new-tokens", "8", "--size", "60"]
    command = [sys.executable, "-m", "emotion_circuits", *arguments, "--quiet", "--out"]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for folder in (out, whole):
        assert subprocess.run([*command, str(folder)], capture_output=True, timeout=300).returncode == 0
    assert hashes(out) == hashes(whole)


def test_a_half_written_batch_is_made_whole_and_nothing_twice(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, made = tmp_path / "run", []
    keep = journal.Call.add

    def add(self: journal.Call, index: int, reply: object) -> None:
        made.append(index)
        if len(made) == 9:  # in the first batch of the second file, after two of four
            raise KeyboardInterrupt
        keep(self, index, reply)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(journal.Call, "add", add)
    settings = replace(SMALL, batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(settings, out, until="elicit")
    (kept,) = out.rglob("*.journal")
    kept.write_bytes(kept.read_bytes()[:-30])  # and its last line only half
    made += [0] * 100
    run_pipeline(settings, out, until="elicit")
    assert len(made) == 109 + 5 + 6  # one of six was kept, and the third file is new
    assert file_hash(out / "elicit/happiness.jsonl") == hashes(finished)["elicit/happiness.jsonl"]


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_found_named_and_made_again(copy: Path, finished: Path, seed: int) -> None:
    rng, names = random.Random(seed), sorted(hashes(finished))
    victims = rng.sample(names, 6)
    for name in victims:
        damage(copy / name, rng)
    told: list[str] = []
    run_pipeline(SMALL, copy, on_repair=lambda name, what: told.append(name))
    assert sorted(told) == sorted(victims)
    assert {repair["file"] for repair in read_manifest(copy)["repairs"]} == set(victims)
    assert hashes(copy) == hashes(finished)
    assert all(file_hash(copy / name) == value for name, value in hashes(copy).items())


def damage(path: Path, rng: random.Random) -> None:
    """Flip a bit, cut the file, or remove it."""
    held, kind = bytearray(path.read_bytes()), rng.randrange(3)
    if kind == 0:
        held[rng.randrange(len(held))] ^= 1 << rng.randrange(8)
        path.write_bytes(held)
    elif kind == 1:
        path.write_bytes(held[: rng.randrange(len(held))])
    else:
        path.unlink()


def test_a_damaged_record_is_named_and_only_its_batch_is_made_again(
    copy: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy / "generate/greedy/prompting.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[4] = lines[4].replace(b'"text": "I', b'"text": "U')
    path.write_bytes(b"\n".join(lines))
    told, made, keep = [], [], journal.Call.add
    monkeypatch.setattr(journal.Call, "add", lambda self, i, reply: (made.append(i), keep(self, i, reply))[1])
    run_pipeline(replace(SMALL, batch_size=4), copy, on_repair=lambda name, what: told.append((name, what)))
    assert told == [("generate/greedy/prompting.jsonl", "record 5 is not what was written")]
    assert made == [4]
    assert hashes(copy) == hashes(finished)


def test_a_file_that_comes_out_different_takes_what_was_made_from_it_along(copy: Path) -> None:
    with open_run(copy, SMALL, read_manifest(copy)["facts"]) as folder:
        (copy / "judge/scores.jsonl").unlink()
        folder.unit("judge/scores.jsonl", lambda path: path.write_text("other\n"))
        left = set(folder.manifest["files"])
    assert "elicit/anger.jsonl" in left
    assert not any(name.startswith(("directions/", "circuit/", "evaluate/")) for name in left)


def test_a_damaged_manifest_is_mended_from_its_copy(copy: Path, finished: Path) -> None:
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes()[:-100])
    told: list[str] = []
    run_pipeline(SMALL, copy, on_repair=lambda name, what: told.append(name))
    assert told == ["manifest.json"]
    assert hashes(copy) == hashes(finished)
    for name in ("manifest.json", ".manifest-copy.json"):
        (copy / name).write_text('{"schema": 2}')
    with pytest.raises(RunError, match="checksum does not fit"):
        read_manifest(copy)


def too_large_a_file() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))


def test_a_disk_that_takes_no_more_is_one_clear_error_and_loses_nothing(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, log = Life(out, before=too_large_a_file).wait()
    assert code == 1
    assert "File too large" in log
    assert "ArtefactError" in log or "RunError" in log
    assert not left_over(out)
    assert (out / "elicit/anger.jsonl").exists()
    assert Life(out).wait()[0] == 0
    assert hashes(out) == hashes(finished)


@pytest.mark.faults
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(finished: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=150k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    try:
        assert Life(disk / "run").wait()[0] == 1
        assert not left_over(disk / "run")
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert Life(disk / "run").wait()[0] == 0
        assert hashes(disk / "run") == hashes(finished)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_second_process_is_refused_and_a_killed_ones_lock_is_not_there(tmp_path: Path) -> None:
    first = Life(tmp_path / "run")
    assert first.reach("elicit")
    with pytest.raises(RunError, match=rf"in use by process {first.pid} on "):
        run_pipeline(SMALL, tmp_path / "run")
    first.kill_after(0)
    with open_run(tmp_path / "run", SMALL, read_manifest(tmp_path / "run")["facts"]):
        pass


def test_an_owner_on_another_host_is_believed(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(json.dumps({"pid": 17, "host": "elsewhere"}))
    with pytest.raises(RunError, match="in use by process 17 on elsewhere"), open_run(tmp_path, SMALL, {}):
        pass


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "C:\\x", "a\\..\\b", "", "link/x"])
def test_file_names_cannot_leave_the_folder(copy: Path, tmp_path: Path, name: str) -> None:
    (copy / "link").symlink_to(tmp_path)
    with open_run(copy, SMALL, read_manifest(copy)["facts"]) as folder:
        with pytest.raises(RunError, match="leads out of the run folder"):
            folder.unit(name, lambda path: path.write_text("out"))
        folder.manifest["files"][name] = "0" * 64
        folder.write()
    with pytest.raises(RunError, match="leads out of the run folder"):
        read_manifest(copy)


def test_a_linked_file_is_not_followed(copy: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (copy / "judge/scores.jsonl").unlink()
    (copy / "judge/scores.jsonl").symlink_to(secret)
    with pytest.raises(EmotionCircuitsError, match="leads out of the run folder"):
        run_pipeline(SMALL, copy)
    assert secret.read_text() == "mine"


def test_journals_of_a_run_with_other_settings_are_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "elicit").mkdir()
    (tmp_path / "elicit/anger.jsonl.journal").write_text("{}\n")
    with open_run(tmp_path, Settings(limit=1), {}):
        assert not left_over(tmp_path)[1:]  # the lock is there
