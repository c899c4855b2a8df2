"""Trials: candidates at strengths, generated side by side, judged and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from emotion_circuits.control.doses import Bounds, Point
from emotion_circuits.control.methods import Method, Prompting, together
from emotion_circuits.control.share import residual_share
from emotion_circuits.data.sev import Item
from emotion_circuits.evaluation.accuracy import Question, evaluate
from emotion_circuits.evaluation.judges import Judge
from emotion_circuits.evaluation.text_quality import asked_for, log_likelihoods, mentions, perplexity_of
from emotion_circuits.generation import GenerationConfig, generate
from emotion_circuits.interventions import Patch
from emotion_circuits.journal import ReplyJournal
from emotion_circuits.model import HookedModel
from emotion_circuits.replies import Replies

Family = Callable[[str, float], Method]
"""The method at an emotion and a strength."""

N_SHARE = 2
"""Replies of each point on which the share of the residual's norm is measured; it hardly varies between replies."""


@dataclass(frozen=True)
class Dose:
    """What is to be tried: a candidate at a strength, for an emotion."""

    candidate: str
    emotion: str
    strength: float


@dataclass
class Trials:
    """Runs doses; remembers how perplexing the prompted replies to the same items are.

    Attributes:
        model: the model.
        families: method families by candidate.
        judge: of the replies.
        bounds: what a point must keep.
        items: the validation items, on which the prompted replies are made.
        config: how to decode.
        batch_size: rows in a batch.
        journal: keeps replies as they are made.
        question: what the judge is asked; the strict one by default.
        n_generations: replies asked for so far.
    """

    model: HookedModel
    families: Mapping[str, Family]
    judge: Judge
    bounds: Bounds
    items: Sequence[Item]
    config: GenerationConfig | None = None
    batch_size: int | None = None
    journal: ReplyJournal | None = None
    question: Question = "classify"
    n_generations: int = 0
    _prompted: dict[str, float] = field(default_factory=dict)

    def run(self, doses: Sequence[Dose], items: Sequence[Item]) -> list[Point]:
        """The points of doses; all are generated together, each on rows of its own."""
        self._prompt([dose.emotion for dose in doses])
        wanted = [(self.families[d.candidate](d.emotion, d.strength), d.emotion) for d in doses]
        replies, patches = self._replies(wanted, items)
        hits = evaluate(replies, self.judge, self.question).hits
        scores = log_likelihoods(self.model, asked_for(replies), batch_size=self.batch_size)
        shares = self._shares(replies, patches, len(items))
        points = []
        for k, dose in enumerate(doses):
            rows = slice(k * len(items), (k + 1) * len(items))
            accuracy = sum(hits[rows]) / len(items)
            ratio = perplexity_of(scores[rows]) / self._prompted[dose.emotion]
            on_topic = sum(mentions(reply) for reply in replies.replies[rows]) / len(items)
            regime = self.bounds.regime(accuracy, ratio, on_topic)
            points.append(
                Point(
                    dose.emotion, dose.candidate, dose.strength, len(items), accuracy, ratio, on_topic, regime,
                    share=shares[k],
                )
            )  # fmt: skip
        return points

    def accuracies(self, methods: Sequence[tuple[Method, str]], items: Sequence[Item]) -> list[float]:
        """Accuracy of methods, each for its emotion."""
        hits = evaluate(self._replies(methods, items)[0], self.judge, self.question).hits
        n = len(items)
        return [sum(hits[k * n : (k + 1) * n]) / n for k in range(len(methods))]

    def _replies(self, methods: Sequence[tuple[Method, str]], items: Sequence[Item]) -> tuple[Replies, list[Patch]]:
        prompts, patches = together(methods, items)
        self.n_generations += len(prompts)
        options: dict[str, Any] = {"batch_size": self.batch_size, "journal": self.journal}
        made = generate(self.model, prompts, patches, self.config, **options)
        emotions = [emotion for _, emotion in methods for _ in items]
        return Replies(tuple(replace(r, emotion=e) for r, e in zip(made, emotions, strict=True))), patches

    def _shares(self, replies: Replies, patches: Sequence[Patch], n_items: int) -> list[float]:
        measured = [i for i in range(len(replies)) if i % n_items < N_SHARE]
        place = {row: i for i, row in enumerate(measured)}
        acting = [p.on([place[row] for row in p.rows if row in place]) for p in patches if p.rows is not None]
        few = Replies(tuple(replies[i] for i in measured))
        shares = residual_share(self.model, acting, few, batch_size=self.batch_size)
        return shares.view(-1, min(N_SHARE, n_items)).mean(dim=1).tolist()

    def _prompt(self, emotions: Sequence[str]) -> None:
        """Make the replies that perplexity is compared with, where they are missing."""
        missing = [e for e in dict.fromkeys(emotions) if e not in self._prompted]
        if missing:
            replies, _ = self._replies([(Prompting(), emotion) for emotion in missing], self.items)
            scores, n = log_likelihoods(self.model, replies, batch_size=self.batch_size), len(self.items)
            self._prompted |= {e: perplexity_of(scores[k * n : (k + 1) * n]) for k, e in enumerate(missing)}
