"""`SelfJudge`: the model under study, or any other causal model, as judge of a reply.

1. The reply stands in a prompt that asks for its emotion (*classify*) or asks yes or no about one (*match*).
2. For each possible answer a the model's log-probability is summed over its tokens:
   log p(a | prompt) = sum_k log p(a_k | prompt, a_1 .. a_{k-1}).
3. The answer with the largest probability, renormalised over the possible answers, is the label.

Prompts of a batch are padded on the left, with mask and position ids, so that a batch gives what one text gives.
It measures what the model believes, not what is true: compare it with another judge (`cohen_kappa`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from emotion_circuits.errors import ModelError
from emotion_circuits.evaluation.judges.base import NEUTRAL, Score, check_emotions, check_texts
from emotion_circuits.types import EKMAN

CLASSIFY = "Text: {text}\n\nWhich emotion does the writer of the text above express? Answer with one word: {answers}.\n"
MATCH = "Text: {text}\n\nDoes the text above express {emotion}? Answer yes or no.\n"
YES_NO = ("yes", "no")


class SelfJudge:
    """Judges by a causal language model's probabilities of the labels.

    Args:
        model: A `HookedModel`, or any object with ``.hf`` (a causal Hugging Face model) and ``.tokenizer``.
        labels: The emotions among which it chooses; "neutral" is added.
        batch_size: Prompts per forward pass.
        classify_prompt: Has ``{text}`` and ``{answers}``.
        match_prompt: Has ``{text}`` and ``{emotion}``.

    Raises:
        ModelError: two labels are the same tokens for the model's tokenizer.
    """

    def __init__(
        self,
        model: Any,
        labels: Sequence[str] = EKMAN,
        batch_size: int = 16,
        classify_prompt: str = CLASSIFY,
        match_prompt: str = MATCH,
    ) -> None:
        if not hasattr(model, "hf") or not hasattr(model, "tokenizer"):
            raise TypeError(
                f"SelfJudge got {type(model).__name__}: give a HookedModel, or an object with .hf, .tokenizer"
            )
        self.hf, self.tokenizer = model.hf, model.tokenizer
        self.labels, self.batch_size = tuple(labels), batch_size
        self.classify_prompt, self.match_prompt = classify_prompt, match_prompt
        self.name = f"self:{self.hf.config.name_or_path or type(self.hf).__name__}"

    def __call__(self, texts: Sequence[str]) -> list[Score]:
        """The most probable of the labels and "neutral" for each text."""
        texts = check_texts(texts)
        answers = (*self.labels, NEUTRAL)
        prompts = [self.classify_prompt.format(text=text, answers=", ".join(answers)) for text in texts]
        return [self._best(p, problem) for p, problem in self._probabilities(texts, prompts, answers)]

    def match(self, texts: Sequence[str], emotions: Sequence[str] | str) -> list[Score]:
        """The emotion asked for where "yes" is more probable than "no".

        Raises:
            EmotionError: an emotion is not among the labels.
        """
        texts = check_texts(texts)
        emotions = check_emotions(texts, emotions, self.labels)
        pairs = zip(texts, emotions, strict=True)
        prompts = [self.match_prompt.format(text=text, emotion=emotion) for text, emotion in pairs]
        out = []
        for (p, problem), emotion in zip(self._probabilities(texts, prompts, YES_NO), emotions, strict=True):
            score = self._best(p, problem)
            label = {"yes": emotion, "no": NEUTRAL}.get(score.label or "")
            out.append(Score(label, score.reason, {emotion: p["yes"]} if p else {}))
        return out

    @staticmethod
    def _best(p: dict[str, float], problem: str) -> Score:
        if problem:
            return Score(None, problem, p)
        label = max(p, key=lambda answer: p[answer])
        return Score(label, f"p({label}) = {p[label]:.2f}", p)

    def _probabilities(
        self, texts: list[str], prompts: list[str], answers: tuple[str, ...]
    ) -> list[tuple[dict[str, float], str]]:
        """(probability per answer, problem) of each prompt."""
        ids = {answer: self._answer_ids(answer) for answer in answers}
        self._check_distinct(ids)
        longest = max(map(len, ids.values()))
        limit = getattr(self.hf.config.get_text_config(), "max_position_embeddings", None) or math.inf
        encoded = [self._prompt_ids(prompt) for prompt in prompts]
        out: list[tuple[dict[str, float], str]] = [({}, "empty: no words")] * len(texts)
        for i, (text, prompt) in enumerate(zip(texts, encoded, strict=True)):
            if text.strip() and len(prompt) + longest > limit:
                out[i] = ({}, f"too long: {len(prompt) + longest} tokens with the question, the model reads {limit}")
        todo = [i for i, text in enumerate(texts) if text.strip() and len(encoded[i]) + longest <= limit]
        for i, logs in zip(todo, self._log_probabilities([encoded[i] for i in todo], list(ids.values())), strict=True):
            total = _log_sum(logs)
            if math.isfinite(total):
                out[i] = ({a: math.exp(x - total) for a, x in zip(answers, logs, strict=True)}, "")
            else:
                out[i] = ({}, "the model gave no finite probabilities")
        return out

    def _log_probabilities(self, prompts: list[list[int]], answers: list[tuple[int, ...]]) -> list[list[float]]:
        """Sums log p over the tokens of every answer; answers that begin alike share their passes."""
        begins = list(dict.fromkeys(answer[:k] for answer in answers for k in range(len(answer))))
        jobs = [(i, begin) for i in range(len(prompts)) for begin in begins]
        jobs.sort(key=lambda job: len(prompts[job[0]]) + len(job[1]))
        wanted = {begin: sorted({a[len(begin)] for a in answers if a[: len(begin)] == begin and len(a) > len(begin)})
                  for begin in begins}  # fmt: skip
        found: dict[tuple[int, tuple[int, ...], int], float] = {}
        for start in range(0, len(jobs), self.batch_size):
            batch = jobs[start : start + self.batch_size]
            rows = self._next_token([prompts[i] + list(begin) for i, begin in batch])
            for (i, begin), row in zip(batch, rows, strict=True):
                for token, value in zip(wanted[begin], row[wanted[begin]].tolist(), strict=True):
                    found[i, begin, token] = value
        return [[sum(found[i, a[:k], a[k]] for k in range(len(a))) for a in answers] for i in range(len(prompts))]

    def _next_token(self, sequences: list[list[int]]) -> Any:
        """Log p(next token) [sample, d_vocab] after each sequence."""
        import torch

        width = max(map(len, sequences))
        pad = self.tokenizer.pad_token_id or 0
        device = self.hf.get_input_embeddings().weight.device
        ids = torch.tensor([[pad] * (width - len(s)) + s for s in sequences], device=device)
        mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences], device=device)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if "position_ids" in self._forward_arguments:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        if "logits_to_keep" in self._forward_arguments:
            inputs["logits_to_keep"] = 1
        with torch.inference_mode():
            return self.hf(**inputs).logits[:, -1].float().log_softmax(-1).cpu()

    @cached_property
    def _forward_arguments(self) -> set[str]:
        return set(inspect.signature(self.hf.forward).parameters)

    @property
    def _chat(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))

    def _prompt_ids(self, prompt: str) -> list[int]:
        if not self._chat:
            return self.tokenizer(prompt + "Answer:")["input_ids"]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _answer_ids(self, answer: str) -> tuple[int, ...]:
        """Tokens of an answer where it will stand: after "Answer:", or at the beginning of a turn."""
        written = answer if self._chat else f" {answer}"
        before = self.tokenizer("Answer:\n" if self._chat else "Answer:", add_special_tokens=False)["input_ids"]
        both = self.tokenizer(("Answer:\n" if self._chat else "Answer:") + written, add_special_tokens=False)[
            "input_ids"
        ]
        if both[: len(before)] == before and len(both) > len(before):
            return tuple(both[len(before) :])
        return tuple(self.tokenizer(written, add_special_tokens=False)["input_ids"])

    def _check_distinct(self, ids: dict[str, tuple[int, ...]]) -> None:
        same = [answer for answer in ids if not ids[answer] or list(ids.values()).count(ids[answer]) > 1]
        if same:
            raise ModelError(
                f"the tokenizer of {self.name} writes {', '.join(same)} with the same tokens: the model does not know "
                "these words; use another judge (LexiconJudge), or other labels"
            )


def _log_sum(logs: list[float]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(x - top) for x in logs)) if math.isfinite(top) else math.nan
