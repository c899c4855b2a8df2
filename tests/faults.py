"""A small run, and the same run in a process that can be killed: forked, so that a life costs no imports."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from emotion_circuits.pipeline import Settings, run_pipeline, search

SMALL = Settings(emotions=("anger", "happiness"), limit=2, max_new_tokens=8, temperature=None, size=60)
PATIENCE = 600.0
"""Seconds in which a process must have begun its next stage, however slow and busy the machine is."""
SEARCH = {"STRENGTHS": search.Range(0.7, 1.0), "PLACES": search.PLACES[:1]}
"""A small search is enough here."""

# Elsewhere there is no fork, or, on macOS, none that is safe once PyTorch has started threads.
forked = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked here, which is safe on Linux alone")


class Life:
    """One process that works on a run folder.

    Args:
        out: the run folder.
        before: called in the process before it starts.
        settings: of the run.
        log: where what it prints goes; beside the run folder by default.
    """

    def __init__(
        self,
        out: Path,
        before: Callable[[], None] = lambda: None,
        settings: Settings = SMALL,
        log: Path | None = None,
    ) -> None:
        self._pipe, writing = os.pipe()
        self.stage = ""
        self._heard: list[str] = []
        self._code: int | None = None
        self._log = log or out.with_name(f"{out.name}.log")
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._pipe)
                code = self._work(out, writing, before, settings)
            finally:
                os._exit(code)  # whatever happens: this process must not go on with the tests
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
            if not self._listen_patiently():
                self._end()
                return False
        return True

    def kill_after(self, seconds: float) -> str | None:
        """SIGKILL after a while; the stage that it was in, or None if it had ended by itself, and well.

        Raises:
            AssertionError: it had ended by itself, with an error.
        """
        end = time.monotonic() + seconds
        try:
            while self._listen(max(0.0, end - time.monotonic())):
                pass
        except TimeoutError:
            os.kill(self.pid, signal.SIGKILL)
        while self._listen_patiently():
            pass
        code = self._end()
        assert code in (0, -signal.SIGKILL), self._log.read_text()
        return self.stage if code else None

    def wait(self) -> tuple[int, str]:
        """Exit code, and what the process printed."""
        while self._listen_patiently():
            pass
        return self._end(), self._log.read_text()

    def _listen_patiently(self) -> bool:
        try:
            return self._listen(PATIENCE)
        except TimeoutError:
            self._give_up()

    def _listen(self, seconds: float) -> bool:
        """Hear of the next stage; false at the end of the process.

        Raises:
            TimeoutError: nothing was heard for so long.
        """
        # One stage at a time, so that `reach` misses none of several that began at once.
        if not self._heard and self._code is None:
            ready, _, _ = select.select([self._pipe], [], [], seconds)
            if not ready:
                raise TimeoutError
            self._heard = os.read(self._pipe, 4096).decode().split()
        if self._heard:
            self.stage = self._heard.pop(0)
            return True
        return False

    def _give_up(self) -> NoReturn:
        os.kill(self.pid, signal.SIGKILL)
        self._end()
        raise AssertionError(f"no news for {PATIENCE:.0f} s since stage {self.stage!r}:\n{self._log.read_text()}")

    def _end(self) -> int:
        """Exit code of the process, once it has ended."""
        if self._code is None:
            os.close(self._pipe)
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code


def kill_in(out: Path, stage: str, delay: float) -> str:
    """Kill a run a while after a stage began, sooner and from the start again if it had ended; where it was."""
    while True:
        life = Life(out)
        assert life.reach(stage), life.wait()[1]
        if killed := life.kill_after(delay):
            return killed
        shutil.rmtree(out)
        delay /= 2


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
