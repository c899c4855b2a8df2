"""Replies: what a model answered, to which prompt, and which emotion was wanted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_circuits.artefacts import write_text
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.errors import DataError

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
    """

    prompt: Prompt
    text: str
    tokens: tuple[int, ...]
    emotion: str | None = None
    method: str = ""


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
        """Write one JSON object per line."""
        lines = (json.dumps(asdict(reply), ensure_ascii=False) + "\n" for reply in self.replies)
        write_text(path, "".join(lines))

    @classmethod
    def load(cls, path: str | Path) -> Replies:
        """Read what `save` wrote.

        Raises:
            DataError: the file cannot be read, or a line is damaged.
        """
        replies = []
        try:
            # Not splitlines(), which also splits at characters that JSON keeps inside strings.
            lines = Path(path).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as a file of replies ({error})") from error
        for n, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
                prompt = fields["prompt"]
                prompt["messages"] = tuple((role, text) for role, text in prompt["messages"])
                fields |= {"prompt": Prompt(**prompt), "tokens": tuple(fields["tokens"])}
                replies.append(Reply(**fields))
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path}, line {n}: not a saved reply ({error})") from error
        return cls(tuple(replies))

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
