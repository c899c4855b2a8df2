"""What a run folder survives: SIGKILL at any moment, a full disk, cut files, flipped bits, two owners, wrong names."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import faults
import pytest
from faults import SEARCH, SMALL, Life, forked, hashes, kill_in, left_over, seconds

import emotion_circuits.pipeline.folder as folder_module
import emotion_circuits.pipeline.run as run_module
from emotion_circuits import journal
from emotion_circuits.errors import EmotionCircuitsError, RunError
from emotion_circuits.evaluation.judges import LexiconJudge
from emotion_circuits.model import HookedModel
from emotion_circuits.pipeline import STAGES, Settings, load_run, read_manifest, run_pipeline, search
from emotion_circuits.pipeline.folder import FOLDERS, damage_of, file_hash, open_run
from emotion_circuits.pipeline.manifest import write_manifest
from emotion_circuits.pipeline.verify import verify

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, limits and signals as POSIX has them")

KILLS = {"elicit": 2, "judge": 1, "directions": 2, "attribute": 1, "influence": 1, "circuit": 4, "generate": 3,
         "evaluate": 2, "report": 1}  # fmt: skip
"""Kills in one run; three runs make 51."""
LONGEST = 1200
"""Seconds for one command, on a slow machine that is busy too."""


@pytest.fixture(autouse=True)
def small_search(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SEARCH.items():
        monkeypatch.setattr(search, name, value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("faults") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SEARCH.items():
            patch.setattr(search, name, value)
        run_pipeline(SMALL, out)
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed run that may be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def killed_run(out: Path, kills: dict[str, int], duration: dict[str, float], rng: random.Random) -> Counter[str]:
    """A run that is killed so often, each time a while after a stage began; then finished. Where the kills landed."""
    killed = Counter(
        kill_in(out, stage, rng.uniform(0, duration[stage])) for stage, times in kills.items() for _ in range(times)
    )
    code, log = Life(out).wait()
    assert code == 0, log
    return killed


@forked
def test_a_run_that_is_killed_ends_with_the_same_files(finished: Path, tmp_path: Path) -> None:
    kills = {"elicit": 1, "directions": 1, "circuit": 2, "generate": 1}
    killed = killed_run(tmp_path / "killed", kills, seconds(finished), random.Random(1))
    assert killed.total() == 5
    assert hashes(tmp_path / "killed") == hashes(finished)
    assert not left_over(tmp_path / "killed")


@forked
@pytest.mark.faults
def test_fifty_kills_at_random_moments_of_every_stage(finished: Path, tmp_path: Path) -> None:
    # A forked life has its imports already: its stages are shorter than those of the first run.
    assert Life(tmp_path / "measured").wait()[0] == 0
    duration, killed = seconds(tmp_path / "measured"), Counter()
    for seed in range(3):
        out = tmp_path / f"killed-{seed}"
        killed += killed_run(out, KILLS, duration, random.Random(seed))
        assert hashes(out) == hashes(finished)
        assert not left_over(out)
    assert killed.total() >= 50
    # A kill that comes late is one of a later stage: those that were missed are aimed at again, ever sooner.
    for stage in STAGES:
        delay = duration[stage] / 2
        for attempt in range(20):
            if killed[stage]:
                break
            out = tmp_path / f"{stage}-{attempt}"
            killed[kill_in(out, stage, delay)] += 1
            delay /= 2
            code, log = Life(out).wait()
            assert code == 0, log
            assert hashes(out) == hashes(finished)
    assert set(killed) == set(STAGES), killed


@forked
def test_a_life_of_which_nothing_is_heard_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "PATIENCE", 0.2)
    for wait in (Life.wait, lambda life: life.reach("elicit")):
        life = Life(tmp_path / "run", before=lambda: time.sleep(LONGEST))
        with pytest.raises(AssertionError, match=r"no news for .* since stage ''"):
            wait(life)
        with pytest.raises(ProcessLookupError):
            os.kill(life.pid, 0)


COMMAND = [
    sys.executable, "-m", "emotion_circuits", "run", "--emotions", "anger,happiness", "--limit", "2",
    "--max-new-tokens", "8", "--size", "60", "--quiet", "--out",
]  # fmt: skip


@pytest.fixture(scope="module")
def by_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of the command."""
    out = tmp_path_factory.mktemp("faults") / "command"
    subprocess.run([*COMMAND, str(out)], check=True, capture_output=True, timeout=LONGEST)
    return out


@pytest.mark.faults
@pytest.mark.parametrize("stage", ["elicit", "circuit", "generate"])
def test_the_command_line_is_killed_and_taken_up_again(by_command: Path, tmp_path: Path, stage: str) -> None:
    out, end = tmp_path / "killed", time.monotonic() + 300
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*COMMAND, str(out)], stdout=log, stderr=log)
    try:
        while status(out, stage) != "running":
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    assert status(out, stage) == "running"
    assert "report.html" not in read_manifest(out)["files"]
    again = subprocess.run([*COMMAND, str(out)], capture_output=True, text=True, timeout=LONGEST)
    assert again.returncode == 0, again.stderr
    assert hashes(out) == hashes(by_command)
    assert not left_over(out)


def status(out: Path, stage: str) -> str | None:
    """Of a stage, as the manifest says; None before it says anything."""
    try:
        return read_manifest(out)["stages"].get(stage, {}).get("status")
    except RunError:
        return None


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


def one_clear_error(log: str, out: Path) -> None:
    """The last line of a traceback is the package's error, and names a file of the run."""
    (last,) = [line for line in log.splitlines() if line.startswith("emotion_circuits.errors.")][-1:]
    assert re.match(
        rf"emotion_circuits\.errors\.(Artefact|Run)Error: cannot write {re.escape(str(out))}/\S+: ", last
    ), log


def nothing_half_written(out: Path) -> None:
    """What the manifest lists is what was written, and nothing else is left of a file than a journal."""
    assert not [path for path in left_over(out) if path.suffix != ".journal"]
    files = read_manifest(out)["files"] if (out / "manifest.json").exists() else {}
    assert {name: file_hash(out / name) for name in files} == files


@forked
@pytest.mark.parametrize("largest", [30_000, pytest.param(100_000, marks=pytest.mark.faults)])
def test_a_disk_that_takes_no_more_is_one_clear_error_and_loses_nothing(
    finished: Path, tmp_path: Path, largest: int
) -> None:
    def limit_files() -> None:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    out = tmp_path / "run"
    code, log = Life(out, before=limit_files).wait()
    assert code == 1
    assert "File too large" in log
    one_clear_error(log, out)
    nothing_half_written(out)
    assert (out / "elicit/anger.jsonl").exists()
    assert Life(out).wait()[0] == 0
    assert hashes(out) == hashes(finished)
    assert not left_over(out)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty folder on a small disk: the one that EMOTION_CIRCUITS_SMALL_DISK names, or one that root may mount."""
    if prepared := os.environ.get("EMOTION_CIRCUITS_SMALL_DISK"):
        folder = Path(tempfile.mkdtemp(dir=prepared))
        yield folder
        shutil.rmtree(folder)
        return
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=50m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root; or name one of 50 MB with EMOTION_CIRCUITS_SMALL_DISK")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@forked
@pytest.mark.faults
@pytest.mark.parametrize("share", [0.02, 0.1, 0.4, 0.8, 3.0])
def test_a_full_disk(finished: Path, tmp_path: Path, small_disk: Path, share: float) -> None:
    """Full after this share of what a run writes but for its report, which is several times as large."""
    out, ballast = small_disk / "run", small_disk / "ballast"
    size = int(share * sum((finished / name).stat().st_size for name in hashes(finished)))
    held = os.statvfs(small_disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, held.f_bavail * held.f_frsize - size)
    code, log = Life(out, log=tmp_path / "log").wait()
    assert code == 1
    assert "No space left on device" in log
    one_clear_error(log, out)
    nothing_half_written(out)
    ballast.unlink()
    assert Life(out, log=tmp_path / "log").wait()[0] == 0
    assert hashes(out) == hashes(finished)
    assert not left_over(out)


@forked
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
    (tmp_path / "elicit/anger.jsonl.0.journal").write_text("{}\n")
    with open_run(tmp_path, Settings(limit=1), {}):
        assert not left_over(tmp_path)[1:]  # the lock is there


def test_only_what_a_run_left_is_swept(tmp_path: Path) -> None:
    theirs = ["2026.journal", ".draft.tmp", "notes/deep/day.jsonl.0.journal", "notes/.a.17.tmp", "elicit/my.journal"]
    ours = [".manifest.json.17.tmp", "elicit/.anger.jsonl.17.tmp", "generate/greedy/circuit.jsonl.1.journal"]
    for name in theirs + ours:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "elicit/.x.1.tmp").mkdir()
    assert set(FOLDERS) == set(STAGES) - {"report"} | {"compare"}
    with open_run(tmp_path, SMALL, {}):
        pass
    assert all((tmp_path / name).exists() for name in theirs)
    assert not any((tmp_path / name).exists() for name in ours)


@pytest.mark.parametrize("source", ["generate/greedy/circuit.jsonl", "generate/greedy/none.jsonl"])
def test_a_file_in_the_place_of_another_is_made_from_nothing(source: str, copy: Path, finished: Path) -> None:
    """Its records are whole, and answer the same prompts; but they are not this file's."""
    shutil.copy(copy / source, copy / "generate/greedy/steering.jsonl")
    run_pipeline(SMALL, copy)
    assert hashes(copy) == hashes(finished)


@pytest.mark.parametrize("change", [b'"chec": "', b'"check": 0, "x": "'])
def test_a_record_without_its_checksum_is_damaged(change: bytes, copy: Path, finished: Path) -> None:
    path, told = copy / "elicit/anger.jsonl", []
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"check": "', change).replace(b'"text": "', b'"text": "Not ')
    path.write_bytes(b"".join(lines))
    run_pipeline(SMALL, copy, on_repair=lambda name, what: told.append(what))
    assert told == ["record 2 is not what was written"]
    assert hashes(copy) == hashes(finished)


def test_what_is_made_from_a_changed_file_is_no_longer_done(copy: Path) -> None:
    with open_run(copy, SMALL, read_manifest(copy)["facts"]) as folder:
        (copy / "judge/scores.jsonl").unlink()
        folder.unit("judge/scores.jsonl", lambda path: path.write_text("other\n"))
        status = {name: stage["status"] for name, stage in folder.manifest["stages"].items()}
    assert status["elicit"] == "done"
    assert {status[name] for name in ("directions", "circuit", "evaluate", "report")} == {"stopped"}


def test_a_damaged_result_is_not_read(copy: Path) -> None:
    path = copy / "circuit/anger.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="is damaged"):
        load_run(copy).circuits()


def test_a_manifest_is_mended_whatever_is_damaged(copy: Path, finished: Path) -> None:
    path = copy / "manifest.json"
    whole = path.read_text()
    for text in (whole.replace('"schema"', '"schemb"'), whole.replace('"schema": 2', '"schema": 3'), "{}", None):
        path.unlink() if text is None else path.write_text(text)
        assert read_manifest(copy)["files"] == read_manifest(finished)["files"]
    run_pipeline(SMALL, copy)
    assert hashes(copy) == hashes(finished)


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_pipeline(SMALL, tmp_path, until="elicit")
    loaded = HookedModel.demo()
    loaded.hf.model.layers[2].mlp.down_proj.weight.data.mul_(1.3)
    monkeypatch.setattr(run_module, "load_model", lambda settings: loaded)
    with pytest.raises(RunError, match="other weights"):
        run_pipeline(SMALL, tmp_path, until="directions")


def test_another_judge_is_refused_where_scores_are_there(tmp_path: Path) -> None:
    class Toy(LexiconJudge):
        name = "toy"

    run_pipeline(SMALL, tmp_path, until="elicit")
    run_pipeline(SMALL, tmp_path, until="judge", judge=Toy())
    assert load_run(tmp_path).evaluation().judge == "toy"
    (tmp_path / "judge/scores.jsonl").unlink()
    with pytest.raises(RunError, match="other judge \\(toy then, lexicon now\\)"):
        run_pipeline(SMALL, tmp_path, until="judge")


@pytest.mark.parametrize("name", [".lock", "elicit/sadness.jsonl.0.journal", "elicit/anger.jsonl.0.journal"])
def test_nothing_is_written_through_a_link(name: str, tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "run"
    victim.write_text("mine")
    (out / "elicit").mkdir(parents=True)
    if name == ".lock":
        (out / name).symlink_to(victim)
        with pytest.raises(RunError, match="is a link"), open_run(out, SMALL, {}):
            pass
    else:
        with open_run(out, SMALL, {}) as folder:
            (out / name).symlink_to(victim)
            with pytest.raises(RunError, match="leads out"), folder.journal(name.removesuffix(".0.journal")):
                pass
    assert victim.read_text() == "mine"


def test_a_lock_that_could_not_be_written_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(RunError, match="No space left"), open_run(tmp_path, SMALL, {}):
            pass
    with open_run(tmp_path, SMALL, {}):
        pass


def test_a_file_that_cannot_be_read_is_damaged(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad_sector(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(folder_module, "file_hash", bad_sector)
    assert "cannot be read" in str(damage_of(copy / "judge/scores.jsonl", "0" * 64))


@forked
def test_a_run_that_is_terminated_gives_its_lock_back(tmp_path: Path) -> None:
    life = Life(tmp_path / "run")
    assert life.reach("elicit")
    os.kill(life.pid, signal.SIGTERM)
    life.wait()
    assert not (tmp_path / "run/.lock").exists()


# Verification


def test_a_run_that_was_stopped_while_it_went_on_is_verified(copy: Path) -> None:
    """All of a stage's files may be there though it is not done, or only some."""
    manifest = read_manifest(copy)
    for name in [n for n in manifest["files"] if n.startswith(("evaluate/", "report")) or "prompting-minus" in n]:
        (copy / name).unlink()
        del manifest["files"][name]
    for name in ("evaluate", "report"):
        del manifest["stages"][name]
    for name in ("elicit", "generate"):
        manifest["stages"][name]["status"] = "running"
    write_manifest(copy, manifest)
    result = verify(copy)
    assert result.ok, result.to_frame().to_string()
    assert {"elicit", "generate"} <= {sample.stage for sample in result.samples}
    assert not any("prompting-minus" in sample.what for sample in result.samples)


def test_a_run_is_verified_with_the_batches_that_it_was_made_with(tmp_path: Path) -> None:
    run_pipeline(replace(SMALL, batch_size=3), tmp_path, until="attribute")
    assert read_manifest(tmp_path)["ran_with"]["batch_size"] == 3
    seen, batches = [], HookedModel.batches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HookedModel, "batches", lambda self, prompts, size=None, **rest: (
            seen.append(size), batches(self, prompts, size, **rest))[1])  # fmt: skip
        result = verify(tmp_path)
    assert result.exact and result.ok, result.to_frame().to_string()
    assert set(seen) == {3}
