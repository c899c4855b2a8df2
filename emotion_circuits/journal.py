"""A journal of replies: what generation has made so far, so that an interruption loses a batch at most.

1. Every reply is appended as a record with a checksum as soon as its batch is done.
2. Work that is taken up again makes the same calls of `emotion_circuits.generate` in the same order; each finds its
   replies under its number and a hash of model, prompts, patches and settings, and makes the missing ones.
3. Batches are made up as before, and a batch of which something is missing is run whole, so that no reply depends on
   where the interruption was.

A journal lasts as long as the file that it is for is not finished (`emotion_circuits.pipeline.folder`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emotion_circuits import records
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.provenance import content_hash, prompts_hash
from emotion_circuits.replies import Reply

Made = dict[int, tuple[str, tuple[int, ...]]]
"""Text and tokens of replies, by the index of their prompt."""


class ReplyJournal:
    """Replies by call. Use `open_journal`, which also closes it.

    Args:
        path: the file that this process adds to.
        kept: files that are read: this process's and those of others that made part of the replies.
        saved: a file of replies that was damaged; what is whole in it counts as made by the first call.
    """

    def __init__(self, path: Path, kept: Iterable[Path] = (), saved: Path | None = None) -> None:
        self._calls: dict[tuple[int, str], Made] = {}
        self._saved = {} if saved is None else _whole(saved)
        self._n_calls = 0
        for record in (record for file in dict.fromkeys((path, *kept)) for record in _good(file)):
            match record:
                case {"call": int(call), "key": str(key), "index": int(index), "text": str(text), "tokens": [*tokens]}:
                    self._calls.setdefault((call, key), {})[index] = text, tuple(tokens)
        self._file = records.Appender(path)

    def call(self, prompts: Sequence[Prompt], *settings: object) -> Call:
        """The next call of `generate`.

        Args:
            prompts: what it asks.
            settings: what else its replies depend on, patches included (`emotion_circuits.provenance.content_hash`).
        """
        key = content_hash((prompts_hash(prompts), settings))[:16]
        made = dict(self._saved) if self._n_calls == 0 else {}
        made |= self._calls.get((self._n_calls, key), {})
        self._n_calls += 1
        return Call(self, self._n_calls - 1, key, {i: held for i, held in made.items() if i < len(prompts)})

    def add(self, record: dict[str, Any]) -> None:
        """Write one record."""
        self._file.add(record)

    def close(self) -> None:
        """Bring everything to the disk."""
        self._file.close()


class Call:
    """One call's replies.

    Attributes:
        made: those that were made before.
    """

    def __init__(self, journal: ReplyJournal, number: int, key: str, made: Made) -> None:
        self._journal, self._number, self._key, self.made = journal, number, key, made

    def add(self, index: int, reply: Reply) -> None:
        """Keep a reply."""
        place = {"call": self._number, "key": self._key, "index": index}
        self._journal.add({**place, "text": reply.text, "tokens": reply.tokens})


@contextmanager
def open_journal(path: Path, kept: Iterable[Path] = (), saved: Path | None = None) -> Iterator[ReplyJournal]:
    """A journal, closed at the end whatever happens; see `ReplyJournal`."""
    journal = ReplyJournal(path, kept, saved)
    try:
        yield journal
    finally:
        journal.close()


def _whole(path: Path) -> Made:
    found: Made = {}
    for record in _good(path):
        match record:
            case {"index": int(index), "text": str(text), "tokens": [*tokens]} if not record.get("error"):
                found[index] = text, tuple(tokens)
    return found


def _good(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for _, record in records.scan(path, checked=True):
            if isinstance(record, ValueError):
                continue
            match record:
                case {"tokens": [*tokens]} if all(isinstance(i, int) for i in tokens):
                    yield record
