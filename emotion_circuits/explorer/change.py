"""`ReplyChange`: one prompt's reply without and with an intervention, and where the two differ."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from emotion_circuits.replies import Reply

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ReplyChange:
    """Two replies to one prompt.

    Attributes:
        before: without the intervention.
        after: with it.
    """

    before: Reply
    after: Reply

    @property
    def changed(self) -> bool:
        """Whether the texts differ."""
        return self.before.text != self.after.text

    def parts(self) -> list[tuple[str, bool]]:
        """The text after, cut where it stops or starts being that of before: ``(piece, whether it is new)``."""
        before, after = (re.findall(r"\s*\S+", reply.text) for reply in (self.before, self.after))
        steps = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        return [("".join(after[start:end]), tag != "equal") for tag, _, _, start, end in steps if end > start]

    def to_frame(self) -> pd.DataFrame:
        """Two rows, ``without`` and ``with``: ``reply, text, n_tokens``."""
        import pandas as pd

        held = {"without": self.before, "with": self.after}
        return pd.DataFrame([{"reply": k, "text": r.text, "n_tokens": len(r.tokens)} for k, r in held.items()])

    def __repr__(self) -> str:
        if not self.changed:
            return f"ReplyChange(none: {self.before.text!r})"
        return f"ReplyChange(\n  without: {self.before.text!r}\n  with:    {self.after.text!r}\n)"
