"""The run folder: what is done, where it lies, and whether it is still what was written.

A run is a list of files, each made by one unit of work. The manifest records a file's hash once it is written, so

* a unit whose file is there and unchanged is not done again; everything else is, with the same result;
* a file is written whole or not at all, and so is the manifest;
* other settings, or a second process, are refused with the difference or the owner.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emotion_circuits import artefacts
from emotion_circuits.errors import EmotionCircuitsError, RunError
from emotion_circuits.pipeline.settings import Settings
from emotion_circuits.provenance import versions

_SCHEMA = 1


class RunFolder:
    """A folder with a manifest. Use `open_run`, which also locks it.

    Attributes:
        path: the folder.
        manifest: its content, as written.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self._kept: set[str] = set()

    def unit(self, name: str, make: Callable[[Path], Any]) -> Path:
        """Make one file, unless it is there and unchanged.

        Args:
            name: path inside the folder.
            make: writes the file at the path that it is given.
        """
        path = self.path / name
        recorded = self.manifest["files"].get(name)
        if name in self._kept or (recorded is not None and path.is_file() and file_hash(path) == recorded):
            self._kept.add(name)
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with artefacts.replacing(path) as temporary:
                make(temporary)
            self.manifest["files"][name] = file_hash(path)
        except EmotionCircuitsError:
            raise
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}; nothing was left half-written") from error
        self._kept.add(name)
        self.write()
        return path

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record a stage's status and time."""
        entry = self.manifest["stages"].setdefault(name, {"status": "new", "seconds": 0.0})
        entry["status"], start = "running", time.perf_counter()
        self.write()
        try:
            yield
            entry |= {"status": "done", "finished": _now()}
        except BaseException:
            entry["status"] = "stopped"
            raise
        finally:
            entry["seconds"] = round(entry["seconds"] + time.perf_counter() - start, 3)
            self.write()

    def write(self) -> None:
        """Write the manifest."""
        artefacts.write_text(
            self.path / "manifest.json", json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n"
        )


@contextmanager
def open_run(path: str | Path, settings: Settings, facts: dict[str, Any]) -> Iterator[RunFolder]:
    """A run folder, new or taken up again, locked while it is open.

    Args:
        path: the folder; made if it is not there.
        settings: must be those that the folder was started with.
        facts: hashes of the data, noted in the manifest and compared as well.

    Raises:
        RunError: the folder cannot be written, belongs to other settings, or is in use.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {path}: {error.strerror or error}; choose another --out") from error
    with _lock(path):
        manifest = _read(path / "manifest.json") or {
            "schema": _SCHEMA, "settings": settings.identity(), "facts": facts, "versions": versions(),
            "started": _now(), "stages": {}, "files": {},
        }  # fmt: skip
        differences = settings.differences(manifest["settings"])
        differences += [
            f"{name}: {manifest['facts'].get(name)!r} then, {value!r} now"
            for name, value in facts.items()
            if manifest["facts"].get(name) != value
        ]
        if differences:
            raise RunError(
                f"{path} was started with other settings ({'; '.join(differences)}); give the same, or another --out"
            )
        folder = RunFolder(path, manifest)
        folder.write()
        yield folder


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        RunError: there is none.
    """
    manifest = _read(Path(path) / "manifest.json")
    if manifest is None:
        raise RunError(f"{path} is no run folder (it has no manifest.json); make one with 'emotion-circuits run --out'")
    return manifest


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        missing = {"schema", "settings", "facts", "stages", "files"} - set(manifest)
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}); move the folder away and start again") from error
    if missing or manifest["schema"] != _SCHEMA:
        raise RunError(f"{path} was written by another version of this package; choose another --out")
    return manifest


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    lock, host = path / ".lock", socket.gethostname()
    try:
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        _refuse_unless_stale(lock, host)
        handle = os.open(lock, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    except OSError as error:
        raise RunError(f"cannot write into {path}: {error.strerror or error}; choose another --out") from error
    with os.fdopen(handle, "w") as file:
        json.dump({"pid": os.getpid(), "host": host}, file)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _refuse_unless_stale(lock: Path, host: str) -> None:
    try:
        owner = json.loads(lock.read_text())
    except (OSError, ValueError):
        return
    if owner.get("host") == host and not _alive(int(owner.get("pid", -1))):
        return
    raise RunError(
        f"{lock.parent} is in use by process {owner.get('pid')} on {owner.get('host')}; wait for it, or remove {lock} "
        "if that process is gone"
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
