"""Replies: what a model answered, to which prompt, and which emotion was wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits import records
from emotion_circuits.checked import build
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.errors import ArtefactError, DataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Reply:
    """One generated reply.

    Attributes:
        prompt: what was asked.
        text: the reply, without special tokens.
        tokens: its token ids, with the end token when the model ended it.
        emotion: the emotion that was wanted, by instruction or by intervention; None when none was.
        method: how it was wanted, e.g. ``"prompting"`` or ``"circuit"``.
        error: why there is no reply, where a server gave none; None otherwise.
    """

    prompt: Prompt
    text: str
    tokens: tuple[int, ...]
    emotion: str | None = None
    method: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Replies:
    """A list of replies; wherever prompts are taken, replies can be given, and then bring their tokens along."""

    replies: tuple[Reply, ...]

    @property
    def texts(self) -> list[str]:
        """The replies' texts."""
        return [reply.text for reply in self.replies]

    @property
    def prompts(self) -> list[Prompt]:
        """The replies' prompts."""
        return [reply.prompt for reply in self.replies]

    @property
    def emotions(self) -> list[str]:
        """The emotions that were wanted, in order of appearance."""
        return list(dict.fromkeys(r.emotion for r in self.replies if r.emotion is not None))

    def filter(self, keep: Callable[[Reply], bool]) -> Replies:
        """The replies that ``keep`` says yes to."""
        return Replies(tuple(reply for reply in self.replies if keep(reply)))

    @property
    def answered(self) -> Replies:
        """The replies that came, i.e. without an error in place of a text."""
        return self.filter(lambda reply: reply.error is None)

    def of(self, emotion: str | None) -> Replies:
        """The replies that wanted ``emotion``."""
        return self.filter(lambda reply: reply.emotion == emotion)

    def to_frame(self) -> pd.DataFrame:
        """One row per reply: ``item, theme, valence, emotion, method, text, n_tokens``."""
        import pandas as pd

        rows = [
            {
                "item": r.prompt.item, "theme": r.prompt.theme, "valence": r.prompt.valence, "emotion": r.emotion,
                "method": r.method, "text": r.text, "n_tokens": len(r.tokens),
            }
            for r in self.replies
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=["item", "theme", "valence", "emotion", "method", "text", "n_tokens"])

    def save(self, path: str | Path) -> None:
        """Write one record per reply: a line of JSON with its number and a checksum."""
        records.write(path, ({**asdict(reply), "index": i} for i, reply in enumerate(self.replies)))

    @classmethod
    def load(cls, path: str | Path) -> Replies:
        """Read what `save` wrote.

        Raises:
            DataError: the file cannot be read, or a line is damaged, lost or doubled; names it.
        """
        return cls(
            tuple(_reply(fields, n, f"{path}, line {line}") for n, (line, fields) in enumerate(records.read(path)))
        )

    def __add__(self, other: Replies) -> Replies:
        return Replies(self.replies + other.replies)

    def __len__(self) -> int:
        return len(self.replies)

    def __iter__(self) -> Iterator[Reply]:
        return iter(self.replies)

    def __getitem__(self, index: int) -> Reply:
        return self.replies[index]

    def __repr__(self) -> str:
        wanted = ", ".join(self.emotions) or "no emotion"
        return f"Replies({len(self)} replies: {wanted})"


def join(parts: Iterable[Replies]) -> Replies:
    """All replies of ``parts``, in order."""
    return Replies(tuple(reply for part in parts for reply in part))


def _reply(fields: dict[str, Any], n: int, place: str) -> Reply:
    """The reply of one record, which should be number ``n``."""
    index = fields.pop("index", n)
    if index != n:
        raise DataError(f"{place}: reply {index} where {n} was expected; a line before it was lost or doubled")
    try:
        prompt = build(Prompt, place, fields.pop("prompt", None))
        return build(Reply, place, {**fields, "prompt": prompt})
    except ArtefactError as error:
        raise DataError(str(error)) from error
