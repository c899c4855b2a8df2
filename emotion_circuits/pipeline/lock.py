"""One owner for a run folder.

1. The owner holds the operating system's lock on ``.lock``, which ends with its process however that ends.
2. The file says who the owner is, so that others can be told.
3. Hosts that share a file system need not share its locks, so an owner on another host that has not signed off is
   believed. One exception: a batch job that was started again follows its own earlier start, which is over.
4. On a file system without locks, the owner is who made ``.lock.owner``. It counts until its process is gone.
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
            _marker(path).unlink(missing_ok=True)
        if os.name != "nt":
            os.close(handle)


def _claim(path: Path) -> int:
    """The open lock file, with our name in it."""
    us = _ourselves()
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | _NO_LINKS)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise RunError(f"{path} is no plain file; remove it")
            free, owner = _locked(handle), _owner(handle)
            if free is False or _is_elsewhere(owner, us):
                _refuse(path, owner)
            if free is None:
                _mark(_marker(path), us)
            if free is None or _still_there(path, handle):
                os.ftruncate(handle, 0)
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, json.dumps(us).encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its owner has removed it between our opening and our locking it


def _locked(handle: int) -> bool | None:
    """Whether the lock is ours now; None on a file system without locks."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(handle, _BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS) else False
    return True


# Who


def _ourselves() -> dict[str, Any]:
    import psutil

    us = {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}
    job = os.environ.get("SLURM_JOB_ID")
    return us | {"job": job, "restart": _restart(os.environ.get("SLURM_RESTART_COUNT"))} if job else us


def _restart(held: object) -> int:
    return int(held) if isinstance(held, (int, str)) and str(held).isdecimal() else 0


def _is_elsewhere(owner: dict[str, Any], us: dict[str, Any]) -> bool:
    """Whether another host's process has to be believed to own it."""
    if owner.get("host", us["host"]) == us["host"]:
        return False
    same_job = "job" in us and owner.get("job") == us["job"]
    return not (same_job and _restart(owner.get("restart")) < us["restart"])


def _is_gone(owner: dict[str, Any], us: dict[str, Any]) -> bool:
    """Whether the process that this names is over, as far as can be known from here."""
    import psutil

    if owner.get("host") != us["host"] or not isinstance(owner.get("pid"), int):
        return bool(owner) and not _is_elsewhere(owner, us)
    try:
        started = psutil.Process(owner["pid"]).create_time()
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
    # Another process may have got the number since. The time is counted from the boot's, which may be corrected.
    return isinstance(owner.get("started"), float) and abs(owner["started"] - started) > 5


def _owner(handle: int) -> dict[str, Any]:
    os.lseek(handle, 0, os.SEEK_SET)
    return _parsed(os.read(handle, 4096))


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(text)
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


# Without locks


def _marker(path: Path) -> Path:
    return path.with_name(".lock.owner")


def _mark(marker: Path, us: dict[str, Any]) -> None:
    """Make the file that only one process can make; the file of a process that is gone is removed first."""
    while not _made(marker, us):
        try:
            owner = _parsed(marker.read_bytes())
        except FileNotFoundError:
            continue
        if not _is_gone(owner, us):
            _refuse(marker, owner)
        # One at a time: whoever comes second must not remove the file of whoever came first.
        takeover = marker.with_name(".lock.takeover")
        if not _made(takeover, us):
            _refuse(takeover, {})
        try:
            if marker.exists() and _parsed(marker.read_bytes()) == owner:
                marker.unlink()
        finally:
            takeover.unlink(missing_ok=True)


def _made(path: Path, us: dict[str, Any]) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    try:
        os.write(handle, json.dumps(us).encode())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return True
