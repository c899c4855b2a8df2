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
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from emotion_circuits import artefacts, distributed, records
from emotion_circuits.errors import DataError, EmotionCircuitsError, RunError
from emotion_circuits.journal import ReplyJournal, open_journal
from emotion_circuits.pipeline.lock import lock
from emotion_circuits.pipeline.manifest import SCHEMA, load_manifest, place, write_manifest
from emotion_circuits.pipeline.settings import Settings
from emotion_circuits.provenance import versions

logger = logging.getLogger(__name__)
FOLDERS = ("elicit", "judge", "directions", "attribute", "influence", "circuit", "generate", "evaluate", "compare")
"""Folders inside a run: one for each stage that leaves several files, and the comparison's."""

_JOURNAL = ".journal"
_OWN_JOURNAL = re.compile(r".+\.jsonl?\.\d+\.journal")
_OWN_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


class RunFolder:
    """A folder with a manifest. Use `open_run`, which also locks it.

    Attributes:
        path: the folder.
        manifest: its content, as written.
        from_nothing: files of which nothing may be kept.
    """

    def __init__(
        self, path: Path, manifest: dict[str, Any], on_repair: Callable[[str, str], None] | None = None
    ) -> None:
        self.path, self.manifest, self._on_repair = path, manifest, on_repair
        self._kept: set[str] = set()
        self.from_nothing: set[str] = set()

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
            if damage and self.manifest["files"][name] != recorded and not self._asks_elsewhere():
                # What was whole in the damaged file need not have been this file's: make it from nothing.
                self.from_nothing.add(name)
                self._drop_journals(name)
                self._make(name, path, make)
            self.remade(name, recorded)
            self.write()
        self._drop_journals(name)
        self._kept.add(name)
        return path

    def file(self, name: str) -> Path:
        """A finished file, to be read.

        Raises:
            RunError: it is not what was written.
        """
        path, recorded = place(self.path, name), self.manifest["files"].get(name)
        if name not in self._kept and recorded is not None:
            if damage := damage_of(path, recorded):
                raise RunError(f"{path} is damaged ({damage}); run again with this folder, which makes it anew")
            self._kept.add(name)
        return path

    def check_fact(self, name: str, value: str | None, advice: str) -> None:
        """Note what the run works with, or hold it against what it has worked with so far.

        Args:
            name: what it is, e.g. ``"weights"``.
            value: which; None where it cannot be known.
            advice: what to do when it is another one.

        Raises:
            RunError: it is another one.
        """
        facts = self.manifest["facts"]
        known = facts.get(name)
        if known is None:
            facts[name] = value
        elif value is not None and known != value:
            raise RunError(f"{self.path} was started with other {name} ({known} then, {value} now): {advice}")

    @contextmanager
    def journal(self, name: str) -> Iterator[ReplyJournal]:
        """The journal of a unit that makes replies; a damaged file's whole records count as made."""
        path = place(self.path, name)
        damaged = name in self.manifest["files"] and path.is_file() and name not in self.from_nothing
        # Each process has a journal of its own.
        own = place(self.path, f"{name}.{distributed.rank()}{_JOURNAL}")
        with open_journal(own, self._journals(name), path if damaged else None) as journal:
            yield journal

    def _journals(self, name: str) -> list[Path]:
        path = place(self.path, name)
        found = sorted(path.parent.glob(f"{glob.escape(path.name)}.*{_JOURNAL}"))
        return [place(self.path, held.relative_to(self.path).as_posix()) for held in found]

    def _drop_journals(self, name: str) -> None:
        for journal in self._journals(name):
            journal.unlink(missing_ok=True)

    def _asks_elsewhere(self) -> bool:
        """Whether replies come from a server, which need not say the same twice."""
        return self.manifest["settings"].get("backend") == "openai"

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
                entry = self.manifest["stages"].get(PurePosixPath(later).parts[0].removesuffix(".html"))
                if entry and entry["status"] == "done":
                    entry["status"] = "stopped"
            _sweep(self.path, _OWN_JOURNAL)


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
        _sweep(path, _OWN_TEMPORARY)
        if manifest is None:
            _sweep(path, _OWN_JOURNAL)
            manifest = {
                "schema": SCHEMA, "settings": settings.identity(), "facts": facts, "versions": versions(),
                "started": _now(), "stages": {}, "files": {},
            }  # fmt: skip
        elif versions() not in (manifest["versions"], *manifest.get("later_versions", [])):
            logger.warning("%s goes on with other versions than it was started with", path)
            manifest.setdefault("later_versions", []).append(versions())
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
    try:
        if not path.is_file():
            return "it is missing"
        if file_hash(path) == recorded:
            return None
        wrong = records.damaged(path) if path.suffix == ".jsonl" else []
    except (OSError, DataError) as error:
        return f"it cannot be read ({error})"
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


def _sweep(folder: Path, named: re.Pattern[str]) -> None:
    """Remove what an interrupted process left: files beside the manifest and in the stages' folders, no others'."""
    for path in (*folder.iterdir(), *(held for part in FOLDERS for held in (folder / part).rglob("*"))):
        if named.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
