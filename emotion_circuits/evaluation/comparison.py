"""Comparison: several methods on the same items, judged alike (method.md, stage 8).

`compare` runs, judges and scores every method on the same items and, if asked to, on prompts that have nothing to do
with emotion. A row of `Comparison.table` then says what a method gets, and what it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from emotion_circuits.control.methods import Method
from emotion_circuits.data.sev import SEV
from emotion_circuits.errors import DataError
from emotion_circuits.evaluation.accuracy import Evaluation, Question, evaluate
from emotion_circuits.evaluation.judges import Judge
from emotion_circuits.evaluation.judges.labels import check_labels
from emotion_circuits.evaluation.running import run_method
from emotion_circuits.evaluation.side_effects import SideEffects, SideEffectTest
from emotion_circuits.evaluation.text_quality import Fluency, fluency
from emotion_circuits.generation import GenerationConfig
from emotion_circuits.intervals import mcnemar
from emotion_circuits.journal import ReplyJournal
from emotion_circuits.model import HookedModel
from emotion_circuits.provenance import provenance
from emotion_circuits.replies import Replies, join
from emotion_circuits.types import EKMAN, NEUTRAL, as_choice

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """Every method's replies, scores, fluency and side effects.

    Attributes:
        evaluations: by method.
        fluencies: by method.
        side_effects: by method; empty where they were not measured.
        provenance: model, data, versions and settings.
    """

    evaluations: Mapping[str, Evaluation]
    fluencies: Mapping[str, Fluency]
    side_effects: Mapping[str, SideEffects] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def table(self, reference: str | None = None) -> pd.DataFrame:
        """One row per method: accuracy with intervals, unscored and neutral replies, fluency, side effects.

        Args:
            reference: the method that the others are tested against; the first one by default.

        Returns:
            Columns of `Evaluation.accuracy`; ``neutral``; ``p`` of McNemar's test against the reference (NaN for the
            reference itself) and ``n_paired`` items in it; then those of `Fluency` and `SideEffects`.
        """
        import pandas as pd

        reference = self.known(next(iter(self.evaluations)) if reference is None else reference)
        rows = []
        for name, evaluation in self.evaluations.items():
            (overall,) = evaluation.accuracy().to_dict("records")
            test = self.paired(name, reference)
            tested = {"p": float("nan") if name == reference else test["p"], "n_paired": test["n"]}
            costs = vars(self.fluencies[name]) | (vars(self.side_effects[name]) if self.side_effects else {})
            rows.append({"method": name, **overall, "neutral": evaluation.share(NEUTRAL), **tested, **costs})
        return pd.DataFrame(rows)

    def accuracy(self, by: str) -> pd.DataFrame:
        """One row per method and value of ``by`` (``"emotion"``, ``"valence"`` or ``"theme"``), and one overall."""
        import pandas as pd

        parts = [evaluation.accuracy(by).assign(method=name) for name, evaluation in self.evaluations.items()]
        return pd.concat(parts, ignore_index=True)

    def by_emotion(self) -> pd.DataFrame:
        """`accuracy` by emotion."""
        return self.accuracy("emotion")

    def paired(self, first: str, second: str) -> dict[str, float | int]:
        """McNemar's exact test of two methods on the items that both answered and the judge could score.

        Returns:
            ``only_first, only_second`` (hits of one method alone), ``p``, ``n`` pairs compared, ``unscored`` pairs left
            out.
        """
        one, other = self.evaluations[self.known(first)], self.evaluations[self.known(second)]
        verdicts = zip(one.scores, other.scores, one.hits, other.hits, strict=True)
        pairs = [(a, b) for s, t, a, b in verdicts if s.label is not None and t.label is not None]
        only_first, only_second, p = mcnemar([a for a, _ in pairs], [b for _, b in pairs])
        unscored = len(one.scores) - len(pairs)
        return {"only_first": only_first, "only_second": only_second, "p": p, "n": len(pairs), "unscored": unscored}

    @property
    def replies(self) -> Replies:
        """All replies of all methods."""
        return join(evaluation.replies for evaluation in self.evaluations.values())

    def to_frame(self) -> pd.DataFrame:
        """One row per reply of every method, with its label and the judge's reason."""
        import pandas as pd

        return pd.concat([e.to_frame().assign(method=name) for name, e in self.evaluations.items()], ignore_index=True)

    def known(self, method: str) -> str:
        """The method's name, if it was compared.

        Raises:
            DataError: it was not; says which were.
        """
        if method not in self.evaluations:
            raise DataError(f"no method {method!r} was compared; there are {', '.join(self.evaluations)}")
        return method

    def __repr__(self) -> str:
        shares = ", ".join(
            f"{name} {100 * sum(e.hits) / max(1, len(e.hits)):.1f} %" for name, e in self.evaluations.items()
        )
        return f"Comparison({shares}; unscored replies count as misses)"


def compare(
    model: HookedModel,
    methods: Sequence[Method],
    data: SEV,
    judge: Judge,
    emotions: Sequence[str] = EKMAN,
    config: GenerationConfig | None = None,
    *,
    question: Question = "classify",
    side_effects: SideEffectTest | None = None,
    batch_size: int | None = None,
    journal: ReplyJournal | None = None,
    on_method: Callable[[str, Replies], None] | None = None,
) -> Comparison:
    """Run, judge and score several methods on the same items.

    Args:
        model: the model.
        methods: what to compare; see `emotion_circuits.control`.
        data: held-out items.
        judge: of the replies.
        emotions: emotions to aim at.
        config: how to decode, the same for all.
        question: ``"classify"`` is strict; ``"match"`` names the emotion to the judge, as the reference does.
        side_effects: also measures what the methods do to unrelated prompts; for six emotions that takes 144 more
            replies and 96 forward passes per method.
        batch_size: rows in a batch.
        journal: keeps replies as they are made.
        on_method: called with each method's name and replies as soon as they are there.

    Raises:
        DataError: two methods have the same name, or there is no such question.
        EmotionError: the judge does not know an emotion, or ``emotions`` is one string.
    """
    _check_names(methods)
    as_choice(question, Question, "question")
    emotions = check_labels(judge, emotions)
    evaluations, fluencies, effects = {}, {}, {}
    for method in methods:
        replies = run_method(model, method, data.items, emotions, config, batch_size=batch_size, journal=journal)
        if on_method:
            on_method(method.name, replies)
        evaluations[method.name] = evaluate(replies, judge, question)
        fluencies[method.name] = fluency(model, replies, wording=data.wording, batch_size=batch_size)
        if side_effects:
            effects[method.name] = side_effects(method)
    made_by = provenance(
        model, data.prompts(), judge=judge.name, question=question, emotions=list(emotions), methods=list(evaluations),
        **asdict(config or GenerationConfig()),
    )  # fmt: skip
    return Comparison(evaluations, fluencies, effects, made_by)


def _check_names(methods: Sequence[Method]) -> None:
    names = [method.name for method in methods]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"two methods are called {', '.join(repeated)}; give each a name of its own")
    if not names:
        raise DataError("there is no method to compare; give at least one, e.g. Prompting()")
