"""Several processes make what one makes: every stage of the pipeline, split over 2 and 3 gloo processes on the CPU.

Texts, verdicts, counts and selections are equal to the bit; means to 1e-6 of their largest value.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
from safetensors.torch import load_file

from emotion_circuits import distributed
from emotion_circuits.circuits import Circuit
from emotion_circuits.control.bisection import Range
from emotion_circuits.errors import DeviceError, ModelError
from emotion_circuits.model import HookedModel, loading
from emotion_circuits.pipeline import STAGES, Settings, load_run, run_pipeline, search

PROCESSES = Path(__file__).parent / "processes"
EMOTIONS = ("anger", "happiness")
KILLED = -signal.SIGKILL if os.name == "posix" else 1
SMALL = {"emotions": EMOTIONS, "limit": 3, "max_new_tokens": 12, "temperature": 0.7, "size": 60, "batch_size": 4}
LONGEST = 1200.0
"""Seconds for a run of several processes, on a slow machine that is busy too."""

# Alone


def test_alone_nothing_is_exchanged() -> None:
    assert (distributed.rank(), distributed.size(), distributed.is_first()) == (0, 1, True)
    value = torch.ones(3)
    distributed.add(value)
    assert value.tolist() == [1, 1, 1]
    assert distributed.merge({4: value})[4] is value
    assert distributed.spread(lambda items: [2 * i for i in items], [1, 2, 3]) == [2, 4, 6]
    assert distributed.from_first("what I say") == "what I say"


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("neighbours", [False, True])
def test_shares_are_everything_once(n: int, neighbours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "size", lambda: n)
    parts = []
    for rank in range(n):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(list(distributed.share(range(5), neighbours=neighbours)))
    assert sorted(i for part in parts for i in part) == list(range(5))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    if neighbours:
        assert [i for part in parts for i in part] == list(range(5))


# Several processes


def environment(timeout: float) -> dict[str, str]:
    """Of the processes that are started; they wait longer for each other than the test does for them."""
    return os.environ | {
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1",
        "EMOTION_CIRCUITS_TIMEOUT_HOURS": str(2 * timeout / 3600),
    }  # fmt: skip


def started(*command: str, timeout: float = LONGEST) -> subprocess.CompletedProcess[str]:
    """Run a launcher, which is stopped together with all that it started when it takes too long."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-m", *command], env=environment(timeout), **pipes)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun's workers are in sessions of their own, and only it knows them
        try:
            process.wait(60)
        finally:
            process.kill()
        raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def launch(n: int, program: str, *arguments: str, **options: float) -> subprocess.CompletedProcess[str]:
    """Run one of the programs in ``processes/`` in ``n`` processes."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    return started(*launcher, str(PROCESSES / program), *arguments, **options)


@contextmanager
def by_hand(n: int, folder: Path, program: str, *arguments: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start ``n`` processes that no launcher looks after; ``<rank>.log`` in ``folder`` is what each prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    team = {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(n):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with (folder / f"{rank}.log").open("w") as log:
                command = [sys.executable, str(PROCESSES / program), *arguments]
                held = environment(LONGEST) | team | place
                workers.append(subprocess.Popen(command, env=held, stdout=log, stderr=log))
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_exchange(n: int) -> None:
    result = launch(n, "exchange.py")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("as expected") == n


@pytest.mark.slow
def test_a_process_that_stops_with_an_error_ends_all() -> None:
    result = launch(3, "stop.py", "error", timeout=LONGEST)  # less than the time that processes wait for each other
    assert result.returncode != 0
    # Those that waited say whose error it was, and what.
    said = [line for line in result.stdout.splitlines() if line.startswith("stopped by: process 1 of 3")]
    assert said and all(line.endswith("nothing to say") for line in said), result.stdout + result.stderr


@pytest.mark.slow
def test_processes_end_by_themselves_when_another_is_killed(tmp_path: Path) -> None:
    with by_hand(3, tmp_path, "stop.py", "kill") as workers:
        codes = [worker.wait(LONGEST) for worker in workers]
    logs = [(tmp_path / f"{rank}.log").read_text() for rank in range(3)]
    assert codes == [1, KILLED, 1], "\n".join(logs)
    for rank in (0, 2):
        assert "PeerError: another process cannot be reached any more" in logs[rank], logs[rank]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    small_run(out)
    return out


def small_run(out: Path) -> None:
    """What ``processes/pipeline.py`` does, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "STRENGTHS", Range(0.7, 1.0))
        patch.setattr(search, "PLACES", search.PLACES[:1])
        run_pipeline(Settings(**SMALL), out)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_the_run_of_several_processes_is_the_run_of_one(n: int, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "together"
    result = launch(n, "pipeline.py", json.dumps(SMALL), str(out))
    assert result.returncode == 0, result.stderr
    assert not list(out.rglob("*.tmp")) and not list(out.rglob("*.journal")) and not (out / ".lock").exists()
    names = files(alone)
    assert files(out) == names
    for name in names:
        same(name, alone / name, out / name)
    assert list(json.loads((out / "manifest.json").read_text())["stages"]) == list(STAGES)
    for emotion in EMOTIONS:
        mine, theirs = (Circuit.load(folder / f"circuit/{emotion}.safetensors") for folder in (alone, out))
        assert mine.nodes == theirs.nodes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "file"),
    [
        pytest.param("elicit", "elicit/anger.jsonl", marks=pytest.mark.faults),
        ("generate", "generate/greedy/circuit.jsonl"),
    ],
)
def test_a_run_that_is_killed_is_finished_by_one_process(stage: str, file: str, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    journals = [out / f"{file}.{rank}.journal" for rank in range(2)]
    with by_hand(2, tmp_path, "pipeline.py", json.dumps(SMALL), str(out), file) as workers:
        end = time.monotonic() + LONGEST
        while not all(journal.exists() and b"\n" in journal.read_bytes() for journal in journals):
            logs = "\n".join(log.read_text() for log in tmp_path.glob("*.log"))
            assert all(worker.poll() is None for worker in workers) and time.monotonic() < end, logs
            time.sleep(0.02)
        for worker in workers:
            worker.kill()
        assert [worker.wait() for worker in workers] == [KILLED] * 2
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["stages"][stage]["status"] == "running" and file not in manifest["files"]
    small_run(out)
    assert not list(out.rglob("*.tmp")) and not list(out.rglob("*.journal")) and not (out / ".lock").exists()
    assert files(out) == files(alone)
    for name in files(alone):
        same(name, alone / name, out / name)


@pytest.mark.slow
def test_methods_by_themselves_are_split_too(tmp_path: Path) -> None:
    """Edges, validation curves, stability, side effects, ...: the same tables, and no process does all of the work."""
    folders = {n: tmp_path / str(n) for n in (1, 3)}
    rows = {}
    for n, folder in folders.items():
        folder.mkdir()
        result = launch(n, "methods.py", str(folder))
        assert result.returncode == 0, result.stderr
        rows[n] = [int(path.read_text()) for path in folder.glob("rows-*.txt")]
    names = sorted(path.name for path in folders[1].glob("*.parquet"))
    assert len(names) == 8 and sorted(path.name for path in folders[3].glob("*.parquet")) == names
    for name in names:
        same(name, folders[1] / name, folders[3] / name)
    (whole,) = rows[1]
    assert len(rows[3]) == 3
    assert whole / 3 < max(rows[3]) < whole / 2


@pytest.mark.slow
def test_a_run_is_taken_up_by_another_number_of_processes(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "handed-over"
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    options = f"--emotions {','.join(EMOTIONS)} --limit 3 --max-new-tokens 12 --size 60 --batch-size 4".split()
    first = started(*launcher, "-m", "emotion_circuits", "judge", "--out", str(out), *options)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("done, in") == 1  # one process talks
    for name in ("elicit/anger.jsonl", "elicit/uninstructed.jsonl", "judge/scores.jsonl"):
        same(name, alone / name, out / name)
    run_pipeline(Settings(**SMALL), out, until="attribute")
    run = load_run(out)
    assert list(run.attributions()) == list(EMOTIONS)


def files(run: Path) -> list[str]:
    """Names of a run's files but the report, which shows how long the stages took."""
    return sorted(name for name in json.loads((run / "manifest.json").read_text())["files"] if name != "report.html")


def same(name: str, mine: Path, theirs: Path) -> None:
    """To the bit, or, for what are means, to 1e-6."""
    if name.endswith(".jsonl"):
        assert mine.read_bytes() == theirs.read_bytes(), name
    elif name.endswith(".safetensors"):
        one, other = load_file(mine), load_file(theirs)
        assert one.keys() == other.keys()
        for key, value in one.items():
            close(f"{name} {key}", value, other[key])
    elif name.endswith(".json"):
        alike(name, json.loads(mine.read_text()), json.loads(theirs.read_text()))
    else:
        read = pd.read_parquet if name.endswith(".parquet") else pd.read_csv
        pd.testing.assert_frame_equal(read(mine), read(theirs), rtol=1e-6, atol=1e-12)


def close(name: str, one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.dtype == other.dtype and one.shape == other.shape, name
    if not one.is_floating_point():
        assert torch.equal(one, other), name
        return
    assert torch.equal(one.isnan(), other.isnan()), name
    difference, scale = (one - other).nan_to_num().abs().max(), one.nan_to_num().abs().max()
    assert difference <= 1e-6 * scale, f"{name}: {difference:.1e} of {scale:.1e}"


def alike(name: str, one: object, other: object) -> None:
    """Numbers with a fraction to 1e-6, everything else exactly."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), name
        for key in one:
            alike(f"{name} {key}", one[key], other[key])
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), name
        for a, b in zip(one, other, strict=True):
            alike(name, a, b)
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-6), name
    else:
        assert one == other, name


# Where each process's model goes


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    for place in ((0, 4), (1, 4), (2, 4), (3, 4)):
        monkeypatch.setattr(distributed, "local_place", lambda place=place: place)
        chosen.append([str(loading.as_device(device)) for device in (None, "cuda", "cuda:1")])
    assert chosen == [["cuda:0", "cuda:0", "cuda:1"], ["cuda:1"] * 3] * 2


def test_auto_spreads_over_the_processes_own_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loading.over_all_devices() == {"device_map": "cpu"} or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (100 + i, 200))
    assert loading.over_all_devices()["max_memory"] == {i: 100 + i for i in range(5)}
    parts = []
    for mine in range(2):
        monkeypatch.setattr(distributed, "local_place", lambda mine=mine: (mine, 2))
        parts.append(loading.over_all_devices())
    assert parts == [
        {"device_map": "auto", "max_memory": {0: 100, 1: 101}},
        {"device_map": "auto", "max_memory": {2: 102, 3: 103, 4: 104}},
    ]
    monkeypatch.setattr(distributed, "local_place", lambda: (0, 6))
    with pytest.raises(DeviceError, match="6 processes"):
        loading.over_all_devices()


def test_device_auto_reaches_transformers(tmp_path: Path) -> None:
    tiny.hf_model().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    model = HookedModel.from_pretrained(tmp_path, dtype="float32", device="auto")
    alone = HookedModel.from_pretrained(tmp_path, dtype="float32", device="cpu")
    assert torch.allclose(model.logits(["my desk"]), alone.logits(["my desk"]), atol=1e-5)


def test_tensor_parallelism_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tp_plan.*device='auto'"):
        HookedModel.from_pretrained(tmp_path, tp_plan="auto")
