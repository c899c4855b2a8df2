"""The run folder: what is done, where it lies, and whether it is still what was written.

A run is a list of files, each made by one unit of work. The manifest records a file's hash once it is written, so

* a unit whose file is there and unchanged is not done again; everything else is, with the same result;
* a file is written whole or not at all, and so is the manifest;
* replies go to a journal as they are made, so that a unit of many replies goes on where it was interrupted;
* what is damaged is named, down to the record, and made again; so is what came after it, should it turn out different;
* other settings, or a second process, are refused with the difference or the owner.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emotion_circuits import artefacts, distributed, records
from emotion_circuits.errors import EmotionCircuitsError, RunError
from emotion_circuits.journal import ReplyJournal, open_journal
from emotion_circuits.pipeline.lock import lock
from emotion_circuits.pipeline.manifest import SCHEMA, load_manifest, place, write_manifest
from emotion_circuits.pipeline.settings import Settings
from emotion_circuits.provenance import versions

logger = logging.getLogger(__name__)
_JOURNAL = ".journal"


class RunFolder:
    """A folder with a manifest. Use `open_run`, which also locks it.

    Attributes:
        path: the folder.
        manifest: its content, as written.
    """

    def __init__(
        self, path: Path, manifest: dict[str, Any], on_repair: Callable[[str, str], None] | None = None
    ) -> None:
        self.path, self.manifest, self._on_repair = path, manifest, on_repair
        self._kept: set[str] = set()

    def unit(self, name: str, make: Callable[[Path], Any]) -> Path:
        """Make one file, unless it is there and unchanged.

        Args:
            name: path inside the folder.
            make: writes the file at the path that it is given.
        """
        path = place(self.path, name)
        recorded = self.manifest["files"].get(name)
        damage = None if name in self._kept or recorded is None else damage_of(path, recorded)
        if recorded is None or damage:
            if damage:
                self.note_repair(name, damage)
            self._make(name, path, make)
            self.remade(name, recorded)
            self.write()
        for journal in _journals_of(path):
            journal.unlink(missing_ok=True)
        self._kept.add(name)
        return path

    @contextmanager
    def journal(self, name: str) -> Iterator[ReplyJournal]:
        """The journal of a unit that makes replies; a damaged file's whole records count as made."""
        path = place(self.path, name)
        damaged = name in self.manifest["files"] and path.is_file()
        with open_journal(_journal_of(path), _journals_of(path), path if damaged else None) as journal:
            yield journal

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

    def note_repair(self, name: str, damage: str) -> None:
        """Keep in the manifest that a file was damaged, and say so to whoever asked to be told."""
        logger.warning("%s: %s is made again, %s", self.path, name, damage)
        self.manifest.setdefault("repairs", []).append({"file": name, "damage": damage, "when": _now()})
        if self._on_repair:
            self._on_repair(name, damage)

    def write(self) -> None:
        """Write the manifest."""
        write_manifest(self.path, self.manifest)

    def _make(self, name: str, path: Path, make: Callable[[Path], Any]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with artefacts.replacing(path) as temporary:
                make(temporary)
            self.manifest["files"][name] = file_hash(path)
        except EmotionCircuitsError:
            raise
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}; nothing was left half-written") from error

    def remade(self, name: str, before: str | None) -> None:
        """Forget what was made after a file that is now another one: it was made from another one.

        Args:
            name: the file that was just made.
            before: its recorded hash before.
        """
        files = self.manifest["files"]
        if before not in (None, files[name]):
            names = list(files)
            for later in names[names.index(name) + 1 :]:
                del files[later]
                self._kept.discard(later)
            _sweep(self.path, f"*{_JOURNAL}")


@contextmanager
def open_run(
    path: str | Path,
    settings: Settings,
    facts: dict[str, Any],
    on_repair: Callable[[str, str], None] | None = None,
    kind: type[RunFolder] = RunFolder,
) -> Iterator[RunFolder]:
    """A run folder, new or taken up again, locked while it is open.

    Args:
        path: the folder; made if it is not there.
        settings: must be those that the folder was started with.
        facts: hashes of the data, noted in the manifest and compared as well.
        on_repair: called with a file's name and what is wrong with it, before it is made again.
        kind: of the folder.

    Raises:
        RunError: the folder cannot be written, belongs to other settings, or is in use.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {path}: {error.strerror or error}; choose another --out") from error
    with lock(path):
        manifest, damage = load_manifest(path)
        _sweep(path, ".*.tmp")
        if manifest is None:
            _sweep(path, f"*{_JOURNAL}")
            manifest = {
                "schema": SCHEMA, "settings": settings.identity(), "facts": facts, "versions": versions(),
                "started": _now(), "stages": {}, "files": {},
            }  # fmt: skip
        _refuse_others(path, manifest, settings, facts)
        folder = kind(path, manifest, on_repair)
        if damage:
            folder.note_repair("manifest.json", damage)
        folder.write()
        yield folder


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        RunError: there is none, or it is damaged.
    """
    manifest, _ = load_manifest(Path(path))
    if manifest is None:
        raise RunError(f"{path} is no run folder (it has no manifest.json); make one with 'emotion-circuits run --out'")
    return manifest


def damage_of(path: Path, recorded: str) -> str | None:
    """What is wrong with a file of this hash, in words; None when it is as it was written."""
    if not path.is_file():
        return "it is missing"
    if file_hash(path) == recorded:
        return None
    wrong = records.damaged(path) if path.suffix == ".jsonl" else []
    shown = ", ".join(map(str, wrong[:5])) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    return f"record {shown} is not what was written" if wrong else "its content is not what was written"


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_others(path: Path, manifest: dict[str, Any], settings: Settings, facts: dict[str, Any]) -> None:
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


def _journal_of(path: Path) -> Path:
    """Each process has a journal of its own."""
    return path.with_name(f"{path.name}.{distributed.rank()}{_JOURNAL}")


def _journals_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.*{_JOURNAL}"))


def _sweep(folder: Path, pattern: str) -> None:
    """Remove what an interrupted process left."""
    for path in folder.rglob(pattern):
        path.unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
