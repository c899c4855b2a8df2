"""What the scores of the next token go through before the best is taken: repetition, then sampling."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopPLogitsWarper,
)

from emotion_circuits.generation.config import GenerationConfig
from emotion_circuits.model import TokenBatch


def processors(config: GenerationConfig, batch: TokenBatch) -> LogitsProcessorList:
    """Everything that the configuration asks for, in its order."""
    held: list[LogitsProcessor] = []
    if config.repetition_penalty != 1.0 or config.no_repeat_ngram_size > 0:
        held.append(Repetition(config, batch))
    if config.temperature > 0:
        held.append(Sampler(config, batch))
    return LogitsProcessorList(held)


class Repetition(LogitsProcessor):
    """Hugging Face's repetition penalty and n-gram ban, on each row without its padding."""

    def __init__(self, config: GenerationConfig, batch: TokenBatch) -> None:
        self._parts: list[LogitsProcessor] = []
        if config.repetition_penalty != 1.0:
            self._parts.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
        if config.no_repeat_ngram_size > 0:
            self._parts.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
        self._rows: dict[int, list[int]] = {}
        for row, n_padding in enumerate((~batch.mask).sum(dim=1).tolist()):
            self._rows.setdefault(n_padding, []).append(row)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores = scores.clone()
        for n_padding, rows in self._rows.items():
            held = scores[rows]
            for part in self._parts:
                held = part(input_ids[rows, n_padding:], held)
            scores[rows] = held
        return scores


class Sampler(LogitsProcessor):
    """Makes the greedy choice a sample: temperature, nucleus, then Gumbel noise of each row's own."""

    def __init__(self, config: GenerationConfig, batch: TokenBatch) -> None:
        self._temperature = config.temperature
        self._nucleus = TopPLogitsWarper(config.top_p) if config.top_p < 1 else None
        self._generators = [torch.Generator().manual_seed(config.seed_of(i)) for i in batch.samples.tolist()]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores = scores.float() / self._temperature
        if self._nucleus:
            scores = self._nucleus(input_ids, scores)
        noise = torch.stack([torch.rand(scores.shape[1], generator=g) for g in self._generators])
        gumbel = -torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))
        return scores + gumbel.to(scores.device)
