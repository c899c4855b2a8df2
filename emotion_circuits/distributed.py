"""Several processes, one run; torch.distributed underneath.

Every process runs the same program on the same data. Inside `joined`,

1. each process runs its own share of the batches (`share`), on its own GPU if there is one;
2. what it found is put together: sums are added up in float64 (`add`), results by sample are collected (`merge`), and
   judged texts come back in order (`spread`). Afterwards every process has the same;
3. the first process decides and writes (`from_first`); the others follow.

Only sums and texts travel, through gloo on the CPU: no GPU needs to reach another one. Nothing is pickled.
When a process stops with an error it says so to the others, which look for that while they wait: all end, none hangs.

Outside `joined`, or alone, every function here does nothing at all.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from emotion_circuits.errors import PeerError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

TIMEOUT = timedelta(hours=float(os.environ.get("EMOTION_CIRCUITS_TIMEOUT_HOURS", "2")))
"""Longest wait for another process; one that dies is noticed at once, this is for one that has become unreachable."""

_PATIENCE = 3.0  # seconds for which a process that stops may need to say why

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class _Team:
    """The processes of a run, as torchrun and its kin describe them in the environment."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self.dist = dist
        store, self.rank, self.size = next(iter(dist.rendezvous("env://", timeout=TIMEOUT)))
        self.store = dist.PrefixStore("emotion_circuits", store)
        dist.init_process_group("gloo", store=self.store, rank=self.rank, world_size=self.size, timeout=TIMEOUT)

    @property
    def name(self) -> str:
        """This process, for messages."""
        return f"process {self.rank} of {self.size} on {socket.gethostname()}"

    def announce(self, error: BaseException) -> bool:
        """Tell the others that this process stops; false when another one said so before."""
        try:
            if self.store.add("stopped", 1) > 1:
                return False
            self.store.set("reason", f"{self.name}: {str(error) or type(error).__name__}")
        except RuntimeError:
            pass  # the store went with the process that held it
        return True

    def finish(self, work: Any) -> None:
        """Wait for an exchange to end, and for news of a process that stopped.

        Raises:
            PeerError: another process stopped, or cannot be reached.
        """
        pause = 1e-4
        try:
            while not work.is_completed():
                if self.store.check(["reason"]):
                    raise self.stopped()
                time.sleep(pause)
                pause = min(2 * pause, 0.02)
            work.wait()
        except PeerError:
            raise
        except RuntimeError as error:
            raise self.stopped(f"another process cannot be reached any more ({error})") from error

    def stopped(self, otherwise: str = "another process stopped") -> PeerError:
        """Why another process stopped; it may still be about to say so."""
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            try:
                if self.store.check(["reason"]):
                    error = PeerError(self.store.get("reason").decode())
                    error.told = True
                    return error
            except RuntimeError:
                break
            time.sleep(0.05)
        return PeerError(otherwise)


_team: _Team | None = None


@contextmanager
def joined() -> Iterator[None]:
    """Work together with the other processes that torchrun, ``accelerate launch`` or the like started.

    Does nothing when there are none, or inside another `joined`.

    Raises:
        PeerError: another process stopped; the message is that process's.
    """
    global _team
    if _team is not None or int(os.environ.get("WORLD_SIZE", "1")) < 2 or not all(n in os.environ for n in _NEEDED):
        with _termination_as_exit():
            yield
        return
    with _termination_as_exit():
        _team = _Team()
        try:
            yield
            _exchange(b"")  # nobody leaves before all are done
        except PeerError:
            raise
        except BaseException as error:
            if not _team.announce(error):
                raise _team.stopped() from error
            error.add_note(f"in {_team.name}")
            raise
        finally:
            _team.dist.destroy_process_group()
            _team = None


@contextmanager
def apart() -> Iterator[None]:
    """Work by oneself for a while: what is run inside is not shared, since each process runs something else."""
    global _team
    team, _team = _team, None
    try:
        yield
    finally:
        _team = team


def rank() -> int:
    """This process's number, from 0."""
    return 0 if _team is None else _team.rank


def size() -> int:
    """How many processes there are."""
    return 1 if _team is None else _team.size


def is_first() -> bool:
    """Whether this is the process that decides and writes."""
    return rank() == 0


def local_place() -> tuple[int, int]:
    """This process's number on its own machine, and how many there are."""
    if _team is None:
        return 0, 1
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def share(items: Sequence[Item], *, neighbours: bool = False) -> Sequence[Item]:
    """This process's part of ``items``, which are the same on all.

    Args:
        items: dealt out in turn, so that items sorted by length are of like length everywhere.
        neighbours: give out whole stretches instead, because neighbours belong together.
    """
    if not neighbours:
        return items[rank() :: size()]
    begin, end = (len(items) * r // size() for r in (rank(), rank() + 1))
    return items[begin:end]


def add(*sums: Tensor) -> None:
    """Add up tensors over all processes, in place; each must have the same shape everywhere."""
    if _team is None:
        return
    for held in sums:
        flat = held.detach().cpu().contiguous()
        _team.finish(_team.dist.all_reduce(flat, async_op=True))
        held.copy_(flat)


def least(value: int) -> int:
    """The smallest of the processes' values."""
    return min(collect(value))


def merge(parts: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Results by sample, of all processes: each sample was run by one of them."""
    if _team is None:
        return dict(parts)
    from safetensors.torch import load, save

    mine = save({str(i): held.detach().cpu().contiguous() for i, held in parts.items()})
    return {int(i): held for found in _exchange(mine) for i, held in load(found).items()}


def spread(
    work: Callable[[Sequence[Item]], Sequence[Answer]], items: Sequence[Item], *, alone: bool = False
) -> list[Answer]:
    """``work(items)``, each process doing a stretch of them, or the first one everything when it must be ``alone``.

    With several processes, answers must be what JSON can hold.
    """
    stretch = share(items, neighbours=True) if not alone else items if is_first() else items[:0]
    mine = list(work(stretch)) if stretch else []
    return mine if _team is None else [answer for part in collect(mine) for answer in part]


def from_first(value: Any = None) -> Any:
    """The first process's value, which JSON must be able to hold, on every process."""
    if _team is None:
        return value
    return json.loads(_exchange(json.dumps(value).encode() if is_first() else b"")[0])


def collect(value: Any) -> list[Any]:
    """Every process's value, which JSON must be able to hold, in the processes' order."""
    return [json.loads(part) for part in _exchange(json.dumps(value).encode())]


def _exchange(mine: bytes) -> list[bytes]:
    """Every process's bytes, in the processes' order."""
    if _team is None:
        return [mine]
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(_team.size)]
    _team.finish(_team.dist.all_gather(lengths, torch.tensor([len(mine)]), async_op=True))
    longest = max(1, *(int(n) for n in lengths))
    padded = torch.frombuffer(bytearray(mine.ljust(longest, b"\0")), dtype=torch.uint8)
    parts = [torch.empty_like(padded) for _ in range(_team.size)]
    _team.finish(_team.dist.all_gather(parts, padded, async_op=True))
    return [part[: int(n)].numpy().tobytes() for part, n in zip(parts, lengths, strict=True)]


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Launchers end the others with SIGTERM when one process fails: leave in order, so that locks are released."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
