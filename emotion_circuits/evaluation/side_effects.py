"""Side effects: what a method does to prompts that have nothing to do with emotion.

1. The unmodulated model answers every request greedily: y.
2. For each emotion the method is put to work on the same request, its instruction and patches included, and reads y:
   KL = mean over positions k of  sum_t p(t | y_<k) (log p(t | y_<k) - log p'(t | y_<k)), in nats per token,
   with p of the unmodulated model and p' of the modulated one. ``same_token`` is the share of positions at which both
   would say the same next token.
3. Plain questions with known answers are answered under each emotion: ``answered`` is the share with a right answer,
   ``answered_change`` that share minus the unmodulated model's.

A method that only instructs changes no weights, but it does change what is said to unrelated prompts, and is measured
alike. Prompts are the clusters of the intervals. On a model that knows no answers, look at ``same_token``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import distributed
from emotion_circuits.control.methods import Method, Unmodulated, together
from emotion_circuits.data.prompts import as_emotions
from emotion_circuits.data.sev import Item
from emotion_circuits.errors import DataError
from emotion_circuits.evaluation.plain_questions import QUESTIONS, REQUESTS, answers, as_items
from emotion_circuits.evaluation.running import run_method
from emotion_circuits.generation import GenerationConfig
from emotion_circuits.intervals import clustered
from emotion_circuits.journal import ReplyJournal
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.progress import progress
from emotion_circuits.replies import Replies, Reply
from emotion_circuits.types import EKMAN


@dataclass(frozen=True)
class SideEffects:
    """What a method does to unrelated prompts.

    Attributes:
        kl: mean KL divergence from the unmodulated model, nats per token.
        kl_low: lower end of its 95 % interval over requests.
        kl_high: upper end.
        same_token: share of tokens at which the first choice is the unmodulated model's.
        n_requests: requests times emotions.
        answered: share of plain questions answered rightly.
        answered_low: lower end of its 95 % interval over questions.
        answered_high: upper end.
        answered_change: ``answered`` minus the unmodulated model's share.
        n_questions: questions times emotions.
    """

    kl: float
    kl_low: float
    kl_high: float
    same_token: float
    n_requests: int
    answered: float
    answered_low: float
    answered_high: float
    answered_change: float
    n_questions: int


class SideEffectTest:
    """Measures methods against what the unmodulated model says, which is found out once.

    Args:
        model: the model.
        emotions: each method is put to work for each of these.
        config: how replies are decoded; greedy by default.
        requests: for the divergence.
        questions: with the answers that count as right.
        batch_size: rows in a batch.
        journal: keeps replies as they are made.
    """

    def __init__(
        self,
        model: HookedModel,
        emotions: Sequence[str] = EKMAN,
        config: GenerationConfig | None = None,
        *,
        requests: Sequence[str] = REQUESTS,
        questions: Sequence[tuple[str, Sequence[str]]] = QUESTIONS,
        batch_size: int | None = None,
        journal: ReplyJournal | None = None,
    ) -> None:
        if not requests or not questions or not emotions:
            raise DataError("side effects need at least one request, one question and one emotion")
        self.model, self.emotions, self.config = model, as_emotions(emotions), config
        self.batch_size, self.journal = batch_size, journal
        self.requests = as_items(requests, "I have a small request.")
        self.questions = as_items([text for text, _ in questions], "I have a short question.")
        self.accepted = [accepted for _, accepted in questions]
        self._said = self._run(Unmodulated(), self.requests, self.emotions[:1])
        before = self._run(Unmodulated(), self.questions, self.emotions[:1])
        self._answered = sum(map(answers, before.texts, self.accepted)) / len(self.questions)

    def __call__(self, method: Method) -> SideEffects:
        """The method's side effects."""
        kl, same = self._divergences(method)
        requests = [item.record.skeleton_id for item in self.requests for _ in self.emotions]
        kl_low, kl_high = clustered(kl.flatten().tolist(), requests)
        replies = self._run(method, self.questions, self.emotions)
        accepted = self.accepted * len(self.emotions)
        right = [answers(text, known) for text, known in zip(replies.texts, accepted, strict=True)]
        low, high = clustered(right, [reply.prompt.item for reply in replies])
        answered = sum(right) / len(right)
        return SideEffects(
            kl=float(kl.mean()), kl_low=kl_low, kl_high=kl_high, same_token=float(same.mean()), n_requests=kl.numel(),
            answered=answered, answered_low=low, answered_high=high, answered_change=answered - self._answered,
            n_questions=len(right),
        )  # fmt: skip

    def _run(self, method: Method, items: Sequence[Item], emotions: Sequence[str]) -> Replies:
        options = {"batch_size": self.batch_size, "journal": self.journal}
        return run_method(self.model, method, items, emotions, self.config, **options)

    def _divergences(self, method: Method) -> tuple[Float[Tensor, "request emotion"], Float[Tensor, "request emotion"]]:
        """KL and share of equal first choices; one request at a time, since the logits of many would fill memory."""
        mine = distributed.share(list(enumerate(zip(self.requests, self._said, strict=True))))
        found: dict[int, Tensor] = {}
        with progress("side effects", len(self.requests), shared=True) as advance, distributed.apart():
            for place, (item, said) in mine:
                prompts, patches = together(((method, e) for e in self.emotions), [item])
                before = self._log_probabilities([said])
                with self.model.patched(*patches):
                    after = self._log_probabilities([Reply(prompt, said.text, said.tokens) for prompt in prompts])
                kl = (before.exp() * (before - after)).sum(dim=-1)
                same = (before.argmax(dim=-1) == after.argmax(dim=-1)).to(kl.dtype)
                found[place] = torch.stack([kl.mean(dim=-1), same.mean(dim=-1)])
                advance(1)
        found = distributed.merge(found)
        kls, sames = torch.stack([found[i] for i in sorted(found)], dim=1)
        return kls, sames

    @torch.no_grad()
    def _log_probabilities(self, replies: Sequence[Reply]) -> Float[Tensor, "reply pos d_vocab"]:
        """Log-probabilities of every next token where the replies' tokens stand; all have equally many."""
        keep = len(replies[0].tokens) + 1

        def score(batch: TokenBatch) -> Tensor:
            return self.model.run(batch, logits_to_keep=keep).logits[:, :-1].float().log_softmax(dim=-1).cpu()

        rows: dict[int, Tensor] = {}
        size = self.batch_size or len(replies)
        for batch, scores in self.model.run_batches(Replies(tuple(replies)), score, size, stage="score"):
            rows.update(zip(batch.samples.tolist(), scores, strict=True))
        return torch.stack([rows[i] for i in range(len(replies))])
