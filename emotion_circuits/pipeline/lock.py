"""One owner for a run folder.

1. The owner holds the operating system's lock on ``.lock``, which ends with its process however that ends.
2. The file says who the owner is, so that others can be told.
3. Hosts that share a file system need not share its locks, so an owner on another host that has not signed off is
   believed.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from emotion_circuits.errors import RunError

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""A link would let a folder from elsewhere have any file of ours overwritten; a pipe would keep us waiting."""

_BYTE = 1 << 30
"""What Windows locks, whose locks also keep others from reading; far behind the owner's name."""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Own ``folder`` while the block runs.

    Raises:
        RunError: another process owns it, or it cannot be written.
    """
    path = folder / ".lock"
    try:
        handle = _claim(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RunError(f"{path} is a link, which no run makes; remove it") from error
        raise RunError(f"cannot write into {folder}: {error.strerror or error}; choose another --out") from error
    try:
        yield
    finally:
        if os.name == "nt":  # where an open file cannot be removed
            os.close(handle)
        with suppress(OSError):
            path.unlink(missing_ok=True)
        if os.name != "nt":
            os.close(handle)


def _claim(path: Path) -> int:
    """The open lock file, with our name in it."""
    here = socket.gethostname()
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | _NO_LINKS)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise RunError(f"{path} is no plain file; remove it")
            free, owner = _locked(handle), _owner(handle)
            if not free or owner.get("host", here) != here:
                _refuse(path, owner)
            if _still_there(path, handle):
                os.ftruncate(handle, 0)
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, json.dumps({"pid": os.getpid(), "host": here}).encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its owner has removed it between our opening and our locking it


def _locked(handle: int) -> bool:
    """Whether the lock is ours now."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(handle, _BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # A file system without locks is no reason not to run on it.
        return error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
    return True


def _owner(handle: int) -> dict[str, Any]:
    os.lseek(handle, 0, os.SEEK_SET)
    try:
        owner = json.loads(os.read(handle, 4096))
    except (ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _still_there(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _refuse(path: Path, owner: dict[str, Any]) -> NoReturn:
    raise RunError(
        f"{path.parent} is in use by process {owner.get('pid', '(just started)')} on "
        f"{owner.get('host', socket.gethostname())}; wait for it, or remove {path} if that process is gone"
    )
