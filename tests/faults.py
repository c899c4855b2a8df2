"""A small run, and the same run in a process that can be killed: forked, so that a life costs no imports."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from emotion_circuits.pipeline import Settings, run_pipeline, search

SMALL = Settings(emotions=("anger", "happiness"), limit=2, max_new_tokens=8, temperature=None, size=60)
PATIENCE = 120
SEARCH = {"STRENGTHS": search.Range(0.7, 1.0), "PLACES": search.PLACES[:1]}
"""A small search is enough here."""


class Life:
    """One process that works on a run folder."""

    def __init__(self, out: Path, before: Callable[[], None] = lambda: None, settings: Settings = SMALL) -> None:
        self._pipe, writing = os.pipe()
        self.stage = ""
        self._log = out.with_name(f"{out.name}.log")
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._pipe)
            os._exit(self._work(out, writing, before, settings))
        os.close(writing)

    def _work(self, out: Path, writing: int, before: Callable[[], None], settings: Settings) -> int:
        with self._log.open("w") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            try:
                # After a fork torch makes its pool of threads anew, and fails if several threads ask for it at once.
                torch.set_num_threads(1)
                vars(search).update(SEARCH)
                before()
                run_pipeline(settings, out, on_stage=lambda stage: os.write(writing, f"{stage}\n".encode()) and None)
            except BaseException:
                traceback.print_exc(file=sys.__stderr__)
                return 1
        return 0

    def reach(self, stage: str) -> bool:
        """Wait until a stage begins; whether it did before the process ended."""
        while self.stage != stage:
            if not self._listen(PATIENCE):
                return False
        return True

    def kill_after(self, seconds: float) -> str | None:
        """SIGKILL after a while; the stage that it was in, or None if it had ended by itself."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and self._listen(left):
            pass
        gone, _ = os.waitpid(self.pid, os.WNOHANG)
        if gone:
            os.close(self._pipe)
            return None
        os.kill(self.pid, signal.SIGKILL)
        while self._listen(PATIENCE):
            pass
        self._end()
        return self.stage

    def wait(self) -> tuple[int, str]:
        """Exit code, and what the process printed."""
        while self._listen(PATIENCE):
            pass
        code = os.waitstatus_to_exitcode(self._end())
        return code, self._log.read_text()

    def _listen(self, seconds: float) -> bool:
        """Hear of the next stage; false at the end of the process or of the time."""
        ready, _, _ = select.select([self._pipe], [], [], seconds)
        if not ready:
            return False
        heard = os.read(self._pipe, 4096).decode().split()
        self.stage = heard[-1] if heard else self.stage
        return bool(heard)

    def _end(self) -> int:
        os.close(self._pipe)
        return os.waitpid(self.pid, 0)[1]


def hashes(out: Path) -> dict[str, str]:
    """Hash of every file but the report, which shows how long the stages took."""
    files = json.loads((out / "manifest.json").read_text())["files"]
    return {name: value for name, value in files.items() if name != "report.html"}


def seconds(out: Path) -> dict[str, float]:
    """Time of every stage."""
    stages = json.loads((out / "manifest.json").read_text())["stages"]
    return {name: stage["seconds"] for name, stage in stages.items()}


def left_over(out: Path) -> list[Path]:
    """Files that a finished run must not leave."""
    return [path for path in out.rglob("*") if path.suffix in (".tmp", ".journal") or path.name == ".lock"]
