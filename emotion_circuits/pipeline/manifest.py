"""The manifest: what a run folder was started with, and the hash of every finished file.

It is kept twice, each copy written whole and with a checksum, so that damage to one is found and mended from the
other. File names in it are relative to the folder and stay inside, whatever the manifest or a link says.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from emotion_circuits import artefacts
from emotion_circuits.errors import RunError

SCHEMA = 2
NAMES = ("manifest.json", ".manifest-copy.json")


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write both copies."""
    text = json.dumps({**manifest, "check": _hash(manifest)}, indent=2, ensure_ascii=False) + "\n"
    for name in reversed(NAMES):
        artefacts.write_text(folder / name, text)


def load_manifest(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The manifest, and what is wrong with its first copy if the second had to be taken; None, None for no run.

    Raises:
        RunError: neither copy can be used.
    """
    problems = []
    for name in NAMES:
        path = folder / name
        if not path.exists() and not path.is_symlink():
            problems.append(f"{name} is missing")
            continue
        try:
            return _checked(folder, path), problems[0] if problems else None
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{name} cannot be read ({error})")
    if all(problem.endswith("is missing") for problem in problems):
        return None, None
    raise RunError(f"{folder}: {'; '.join(problems)}; move the folder away and start again")


def is_run(folder: Path) -> bool:
    """Whether a folder has a manifest, or what is left of one."""
    try:
        return any((folder / name).exists() for name in NAMES)
    except OSError:  # it may not be searched, or no folder can have that name; whoever opens it is told
        return False


def place(folder: Path, name: str) -> Path:
    """Where a file of the run is.

    Raises:
        RunError: the name, or a link on the way, leads out of the folder.
    """
    pure = PurePosixPath(name)
    wrong = not pure.parts or pure.is_absolute() or ".." in pure.parts or set(name) & {"\\", ":", "\0"}
    path = folder / pure
    try:
        wrong = wrong or not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a circle of links, a name too long
        wrong = True
    if wrong:
        raise RunError(
            f"{folder}: the file name {name!r} leads out of the run folder; its manifest is not to be trusted"
        )
    return path


def _checked(folder: Path, path: Path) -> dict[str, Any]:
    place(folder, path.name)
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise ValueError("not a JSON object")
    if manifest.pop("check", None) != _hash(manifest):
        raise ValueError("its checksum does not fit")
    if manifest.get("schema") != SCHEMA:
        raise ValueError(f"written by another version of this package, schema {manifest.get('schema')!r}")
    for part in ("settings", "facts", "versions", "stages", "files"):
        if not isinstance(manifest.get(part), dict):
            raise ValueError(f"{part!r} is no JSON object")
    for part in ("repairs", "later_versions"):
        if not isinstance(manifest.get(part, []), list):
            raise ValueError(f"{part!r} is no list")
    for stage in manifest["stages"].values():
        if not (isinstance(stage, dict) and isinstance(stage.get("status"), str) and _is_number(stage.get("seconds"))):
            raise ValueError(f"{stage!r} is no stage's entry")
    for name, digest in manifest["files"].items():
        place(folder, name)
        if not isinstance(digest, str):
            raise ValueError(f"the hash of {name!r} is no text")
    return manifest


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _hash(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
