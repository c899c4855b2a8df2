"""One run folder, several processes: the first one leads, and the others follow (`emotion_circuits.distributed`).

1. The leader holds the folder: its lock, its manifest, and the decision whether a unit has to be made.
2. A unit that has to be made is made by all, because all run their share of the prompts. The leader writes the file;
   what the others write goes into a folder of their own that is thrown away.
3. Everybody reads what earlier units left from the run folder, which therefore must be one that all processes see.
4. Replies are kept in a journal of each process's own while they are made. Whoever takes the run up again, with
   however many processes, reads all of them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emotion_circuits import distributed
from emotion_circuits.errors import RunError
from emotion_circuits.pipeline.folder import RunFolder, open_run
from emotion_circuits.pipeline.settings import Settings
from emotion_circuits.provenance import versions

OnRepair = Callable[[str, str], None]

_PATIENCE = 60.0  # seconds until another machine's file system shows what was written


@contextmanager
def open_together(
    path: str | Path, settings: Settings, facts: dict[str, Any], on_repair: OnRepair | None = None
) -> Iterator[RunFolder]:
    """`open_run`, by all processes of a run, or by the only one.

    Raises:
        RunError: as `open_run`; or a process has other data, another version, or does not see the folder.
    """
    if distributed.size() == 1:
        with open_run(path, settings, facts, on_repair) as folder:
            yield folder
        return
    _refuse_differences({"settings": settings.identity(), **facts, **versions()})
    if distributed.is_first():
        with open_run(path, settings, facts, on_repair, kind=_Leader) as folder:
            distributed.from_first(folder.manifest)
            yield folder
    else:
        manifest = distributed.from_first()
        _await_manifest(Path(path))
        with tempfile.TemporaryDirectory(prefix="emotion-circuits-") as own:
            yield _Follower(Path(path), manifest, Path(own))


class _Leader(RunFolder):
    """Makes a unit together with the followers."""

    def unit(self, name: str, make: Callable[[Path], Any]) -> Path:
        def make_together(path: Path) -> None:
            distributed.from_first({"recorded": self.manifest["files"], "from_nothing": sorted(self.from_nothing)})
            make(path)

        made = super().unit(name, make_together)
        distributed.from_first(None)
        return made


class _Follower(RunFolder):
    """Does its share of what the leader has made, and writes nothing into the run folder but its journal."""

    def __init__(self, path: Path, manifest: dict[str, Any], own: Path) -> None:
        super().__init__(path, manifest)
        self._own = own

    def unit(self, name: str, make: Callable[[Path], Any]) -> Path:
        while call := distributed.from_first():
            self.manifest["files"], self.from_nothing = call["recorded"], set(call["from_nothing"])
            thrown_away = self._own / Path(name).name
            make(thrown_away)
            thrown_away.unlink(missing_ok=True)
        return self.path / name

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        yield

    def write(self) -> None:
        pass


def _refuse_differences(held: dict[str, Any]) -> None:
    first, *others = distributed.collect(held)
    for process, other in enumerate(others, start=1):
        names = [name for name in first if first[name] != other.get(name)]
        if names:
            raise RunError(
                f"process {process} has another {', '.join(names)} than the first process; start all with the same "
                "command, data and package versions"
            )


def _await_manifest(path: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while not (path / "manifest.json").exists():
        if time.monotonic() > until:
            raise RunError(f"{path} of the first process is not seen here; choose an --out that all machines share")
        time.sleep(0.2)
