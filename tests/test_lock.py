"""One owner for a run folder, also where the file system has no locks and where a batch job is started again."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from emotion_circuits.errors import RunError
from emotion_circuits.pipeline.lock import lock

fcntl = pytest.importorskip("fcntl")
DEAD = {"pid": 2**22 + 1, "host": os.uname().nodename, "started": 1.0}  # above the largest number of a process


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_second_owner_is_refused(tmp_path: Path) -> None:
    for _ in range(2):
        with lock(tmp_path):
            for _ in range(2):  # a refusal must not take the first one's mark away
                with pytest.raises(RunError, match=rf"in use by process {os.getpid()} on "), lock(tmp_path):
                    pass
        assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without_locks")
@pytest.mark.parametrize("gone", [DEAD, DEAD | {"pid": os.getpid()}])
def test_without_locks_an_owner_that_is_gone_does_not_matter(gone: dict, tmp_path: Path) -> None:
    (tmp_path / ".lock.owner").write_text(json.dumps(gone))  # the second: another process has its number now
    with lock(tmp_path):
        assert json.loads((tmp_path / ".lock.owner").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_living_owner_is_believed(tmp_path: Path) -> None:
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        owner = {"pid": living.pid, "host": DEAD["host"], "started": psutil.Process(living.pid).create_time()}
        for held in (owner, {"pid": 17, "host": "elsewhere"}, {}):
            (tmp_path / ".lock.owner").write_text(json.dumps(held))
            with pytest.raises(RunError, match="in use by process"), lock(tmp_path):
                pass
    finally:
        living.communicate(b"\n")


@pytest.mark.usefixtures("without_locks")
def test_without_locks_one_of_many_takes_over(tmp_path: Path) -> None:
    for _ in range(20):
        (tmp_path / ".lock.owner").write_text(json.dumps(DEAD))
        ready, owners = threading.Barrier(8), []
        refused = threading.Barrier(8)

        def claim(ready=ready, owners=owners, refused=refused) -> None:
            ready.wait()
            try:
                with lock(tmp_path):
                    owners.append(threading.get_ident())
                    refused.wait()
            except RunError:
                refused.wait()

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(owners) == 1
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["with locks", "without"])
def test_a_job_that_is_started_again_follows_its_earlier_start(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if kind == "without":
        request.getfixturevalue("without_locks")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    earlier = {"pid": 17, "host": "lost-node", "started": 1.0, "job": "4711", "restart": 1}

    def leave() -> None:
        for name in (".lock", ".lock.owner"):
            (tmp_path / name).write_text(json.dumps(earlier))

    for restart in ("0", "1", "junk"):  # an earlier start, the same one on another node, nobody knows
        leave()
        monkeypatch.setenv("SLURM_RESTART_COUNT", restart)
        with pytest.raises(RunError, match="process 17 on lost-node"), lock(tmp_path):
            pass
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with lock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["restart"] == 2
    leave()
    monkeypatch.setenv("SLURM_JOB_ID", "4712")
    with pytest.raises(RunError, match="process 17 on lost-node"), lock(tmp_path):
        pass
