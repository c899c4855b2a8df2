"""Streaming: the text of every row as it is made.

Each step's tokens are decoded together with the row's earlier ones, and what is new is handed on. What a later token
may still change is held back: half a character, blanks at the end, and the beginning of a stop string. So the pieces
of a row, joined, are its reply's text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from emotion_circuits.generation.config import GenerationConfig
from emotion_circuits.generation.decode import Ends
from emotion_circuits.model import HookedModel, TokenBatch

OnText = Callable[[int, str], None]
"""Called with a prompt's index and the next piece of its reply."""


def text_of(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str] = ()) -> str:
    """The reply that tokens spell: no special tokens, nothing from the first stop string on, no blanks around it."""
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    for end in stop:
        text = text.split(end)[0]
    return text.strip()


class TextStream:
    """What has been handed on of every reply of one call of `generate`.

    It outlives a batch: when a batch has to be made again with fewer rows, nothing is handed on twice.

    Args:
        model: whose tokenizer spells the text.
        config: its stop strings.
        on_text: called with each piece.
    """

    def __init__(self, model: HookedModel, config: GenerationConfig, on_text: OnText) -> None:
        self._tokenizer, self._stop, self._on_text = model.tokenizer, config.stop, on_text
        self.ends = Ends.of(model, config)
        self._sent: dict[int, str] = {}

    def reader(self, batch: TokenBatch) -> BaseStreamer:
        """What Hugging Face hands this batch's tokens to."""
        return _Reader(self, batch.samples.tolist())

    def update(self, index: int, tokens: list[int], *, done: bool) -> None:
        """Hand on what is certain of the text of ``tokens``; all of it when the reply is done."""
        text = text_of(self._tokenizer, tokens, self._stop)
        certain = text if done else _certain(text, self._stop)
        sent = self._sent.get(index, "")
        if len(certain) > len(sent) and certain.startswith(sent):
            self._sent[index] = certain
            self._on_text(index, certain[len(sent) :])


class _Reader(BaseStreamer):
    """Collects the tokens of one batch, row by row."""

    def __init__(self, stream: TextStream, samples: list[int]) -> None:
        self._stream, self._samples = stream, samples
        self._rows: list[list[int]] = [[] for _ in samples]
        self._prompt_is_over = False

    def put(self, value: Tensor) -> None:
        if not self._prompt_is_over:  # the first call brings the prompt
            self._prompt_is_over = True
            return
        for index, row, token in zip(self._samples, self._rows, value.tolist(), strict=True):
            row.append(token)
            self._stream.update(index, self._stream.ends.cut(row), done=False)

    def end(self) -> None:
        for index, row in zip(self._samples, self._rows, strict=True):
            self._stream.update(index, self._stream.ends.cut(row), done=True)


def _certain(text: str, stop: Sequence[str]) -> str:
    """``text`` without what a later token may change: half a character, or what may become a stop string."""
    text = text.rstrip("\ufffd")
    longest = max((n for end in stop for n in range(1, len(end)) if text.endswith(end[:n])), default=0)
    return text[: len(text) - longest].rstrip()
