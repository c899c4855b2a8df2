"""Evaluation: a judge's verdict on every reply, and accuracies with intervals (method.md, stage 8).

Two accuracies are always reported together. ``accuracy`` counts the scored replies alone, because a judge that
failed has not said "no"; ``at_least`` counts every unscored reply as a miss, because a text that no judge can read
may be one. A method that breaks its text shows in the gap between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from emotion_circuits import distributed
from emotion_circuits.errors import DataError
from emotion_circuits.evaluation.judges import Judge, Score
from emotion_circuits.intervals import clustered, wilson
from emotion_circuits.replies import Replies, Reply
from emotion_circuits.types import as_choice

if TYPE_CHECKING:
    import pandas as pd

Question = Literal["classify", "match"]


@dataclass(frozen=True)
class Evaluation:
    """Replies with their scores.

    Attributes:
        replies: the replies.
        scores: one score per reply.
        judge: the judge's name.
        question: ``"classify"`` (which of the labels, or neutral?) or ``"match"`` (this emotion, yes or no?).
    """

    replies: Replies
    scores: tuple[Score, ...]
    judge: str
    question: Question = "classify"

    def accepted(self) -> Replies:
        """The replies that express the emotion that was wanted."""
        return Replies(
            tuple(r for r, s in zip(self.replies, self.scores, strict=True) if s.label == r.emotion is not None)
        )

    @property
    def hits(self) -> list[bool]:
        """For each reply whether it expresses the emotion that was wanted; false where unscored."""
        wanted = (reply.emotion or "neutral" for reply in self.replies)
        return [score.label == emotion for score, emotion in zip(self.scores, wanted, strict=True)]

    @property
    def n_unscored(self) -> int:
        """Replies that the judge could not score."""
        return sum(score.label is None for score in self.scores)

    def share(self, label: str | None) -> float:
        """Share of all replies with this verdict; None means unscored."""
        return sum(score.label == label for score in self.scores) / max(1, len(self.scores))

    def accuracy(self, by: str | None = None) -> pd.DataFrame:
        """Accuracy with 95 % intervals.

        Args:
            by: ``"emotion"``, ``"valence"``, ``"theme"`` or ``"method"``; None for one row over everything.

        Returns:
            Columns ``n, unscored, accuracy, low, high`` (Wilson), ``cluster_low, cluster_high`` (scenarios drawn
            whole; NaN with fewer than two) and ``at_least``; an ``overall`` row comes last.
        """
        import pandas as pd

        table = self.to_frame()
        if by is not None and by not in table:
            raise DataError(f"cannot group by {by!r}; replies have emotion, valence, theme, item and method")
        rows = (
            [] if by is None else [{by: key, **_row(part)} for key, part in table.groupby(by, sort=False, dropna=False)]
        )
        rows.append(({} if by is None else {by: "overall"}) | _row(table))
        return pd.DataFrame(rows)

    def to_frame(self) -> pd.DataFrame:
        """One row per reply: the columns of `Replies.to_frame`, and ``label, hit, reason``."""
        table = self.replies.to_frame()
        table["label"] = [score.label for score in self.scores]
        table["hit"] = self.hits
        table["reason"] = [score.reason for score in self.scores]
        return table

    def __repr__(self) -> str:
        counts = f"{sum(self.hits)} hits, {self.n_unscored} unscored"
        return f"Evaluation({len(self.replies)} replies by {self.judge}: {counts})"


def evaluate(replies: Replies, judge: Judge, question: Question = "classify") -> Evaluation:
    """Ask a judge about every reply.

    Args:
        replies: the replies.
        judge: any judge.
        question: ``"classify"`` is strict and does not name the emotion; ``"match"`` is the reference's.

    Raises:
        DataError: ``"match"`` was asked of replies that wanted no emotion, or there is no such question.
    """
    as_choice(question, Question, "question")
    if question == "match" and None in (reply.emotion for reply in replies):
        raise DataError("question='match' needs the wanted emotion of every reply; use question='classify'")

    def ask(part: Sequence[Reply]) -> list[dict]:
        texts = [reply.text for reply in part]
        scores = judge(texts) if question == "classify" else judge.match(texts, [str(reply.emotion) for reply in part])
        return [vars(score) for score in scores]

    # A judge that keeps answers or a pace of its own is asked by one process only.
    verdicts = distributed.spread(ask, replies.replies, alone=getattr(judge, "alone", False))
    return Evaluation(replies, tuple(Score(**verdict) for verdict in verdicts), judge.name, question)


def _row(table: pd.DataFrame) -> dict[str, float | int]:
    columns = zip(table["hit"], table["item"], table["label"], strict=True)
    # A reply to no known scenario is a cluster of its own.
    scored = [
        (bool(hit), item if isinstance(item, str) else i)
        for i, (hit, item, label) in enumerate(columns) if isinstance(label, str)
    ]  # fmt: skip
    hits, n = sum(hit for hit, _ in scored), len(scored)
    low, high = wilson(hits, n)
    cluster_low, cluster_high = clustered([hit for hit, _ in scored], [item for _, item in scored])
    return {
        "n": len(table), "unscored": len(table) - n, "accuracy": hits / n if n else float("nan"), "low": low,
        "high": high, "cluster_low": cluster_low, "cluster_high": cluster_high, "at_least": hits / max(1, len(table)),
    }  # fmt: skip
