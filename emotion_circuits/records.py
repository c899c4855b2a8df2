"""Records: files of one JSON object a line, each with a checksum of its own.

1. A line is a JSON object whose last entry, ``"check"``, is a hash of the line without it. Anything that reads JSON
   lines reads these files; this module also finds, and names, a line that is not what was written.
2. A file is written whole (`write`) or grows line by line (`Appender`). Whatever ends the process, a growing file
   loses no more than its last, half-written line, and `scan` says that the line is damaged.
3. Lines without a checksum, such as people write, are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from emotion_circuits import artefacts
from emotion_circuits.errors import ArtefactError, DataError

_MARK = ', "check": "'
_SYNC_SECONDS = 1.0


def encode(record: Mapping[str, Any]) -> str:
    """One line, without its line break."""
    body = _dumps(record)
    return f'{body[:-1]}{_MARK}{_hash(body)}"}}'


def decode(line: str, *, checked: bool = False) -> dict[str, Any]:
    """The record of one line.

    Args:
        line: the line.
        checked: only with a checksum.

    Raises:
        ValueError: the line is no JSON object, or not what was written.
    """
    try:
        record = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__} instead of a JSON object")
    if "check" not in record:
        if checked:
            raise ValueError("it has no checksum")
        return record
    body, _, _ = line.rstrip().rpartition(_MARK)
    if not body or record.pop("check") != _hash(f"{body}}}"):
        raise ValueError("its checksum does not fit: it is not what was written")
    return record


def write(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of records, whole or not at all; nothing but the current line is held in memory."""
    with artefacts.replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(encode(record) + "\n")


def scan(path: str | Path, *, checked: bool = False) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    """Line number and record of every line that is not empty; what is wrong with it where it is damaged.

    Args:
        path: the file.
        checked: a line without a checksum is damaged too, as in files that this package writes.

    Raises:
        DataError: the file cannot be opened.
    """
    try:
        # In bytes, since a damaged line need not be UTF-8; split at line feeds alone, since JSON keeps other breaks.
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _attempt(line, checked)
    except OSError as error:
        raise DataError(f"{path}: cannot be read as a file of records ({error})") from error


def read(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and record of every line.

    Raises:
        DataError: the file cannot be opened, or a line is damaged; names it.
    """
    for number, record in scan(path):
        if isinstance(record, ValueError):
            raise DataError(f"{path}, line {number}: cannot be used ({record}); delete or mend it, or make it again")
        yield number, record


def damaged(path: str | Path) -> list[int]:
    """Numbers of the lines that are damaged, or have no checksum."""
    return [number for number, record in scan(path, checked=True) if isinstance(record, ValueError)]


class Appender:
    """Adds records to the end of a file. Each reaches the system at once, and the disk within a second or at `close`.

    Args:
        path: the file; made if it is not there.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)  # what is written has left this process
            if path.stat().st_size and not _ends_whole(path):
                self._file.write(b"\n")  # the half line stays damaged, and alone
        except OSError as error:
            raise ArtefactError(f"cannot write {path}: {error.strerror or error}") from error
        self._path, self._synced = path, time.monotonic()

    def add(self, record: Mapping[str, Any]) -> None:
        """Write one record.

        Raises:
            ArtefactError: the disk is full, or cannot be written.
        """
        try:
            rest = memoryview((encode(record) + "\n").encode())
            while rest:
                rest = rest[self._file.write(rest) :]
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                self._sync()
        except OSError as error:
            raise ArtefactError(
                f"cannot write {self._path}: {error.strerror or error}; what it holds is kept"
            ) from error

    def close(self) -> None:
        """Bring everything to the disk."""
        if not self._file.closed:
            try:
                self._sync()
            finally:
                self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def _attempt(line: bytes, checked: bool) -> dict[str, Any] | ValueError:
    try:
        return decode(line.decode("utf-8"), checked=checked)
    except ValueError as error:  # JSON's and Unicode's errors are among them
        return error


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _dumps(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False)
    # Half a surrogate pair, which JSON can hold and UTF-8 cannot.
    return text if text.isascii() or text.encode("utf-8", "replace").decode() == text else json.dumps(record)


def _hash(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]
