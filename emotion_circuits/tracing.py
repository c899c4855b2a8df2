"""Tracing: how far every token's residual points along each emotion, over a conversation or a long document.

1. A text is tokenized as it stands, a conversation by the chat template; every token knows its place in the text, and
   in a conversation whose turn it belongs to.
2. A text longer than the window is read in windows that overlap. A token is reported once, by the first window in
   which it has ``overlap`` tokens of context before it, or all there are. Where the text begins with a begin-of-text
   token, every window does.
3. In every window, projection[layer, token, emotion] = r_post[layer, token] . v[layer, emotion] (method.md, stage 2),
   computed inside the hook: no residual is kept.

Windows are exact where the context that they cut off does not matter, as under a sliding attention window; elsewhere
they are an approximation that grows better with the overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.data.prompts import Message, Prompt
from emotion_circuits.directions.result import EmotionDirections
from emotion_circuits.errors import PromptError
from emotion_circuits.model import HookedModel
from emotion_circuits.model.recording import project
from emotion_circuits.model.tokens import pad, render
from emotion_circuits.progress import progress
from emotion_circuits.provenance import provenance
from emotion_circuits.types import Site, as_site

if TYPE_CHECKING:
    import pandas as pd

Window = tuple[int, int, int]
"""First token, end, and the first token that is reported."""


@dataclass(frozen=True)
class TracedToken:
    """One token of the text.

    Attributes:
        text: as it stands in the text.
        start: its first character in `Trace.text`.
        end: the character after its last.
        role: who says it; empty outside of a turn's content, and in a document.
        turn: index of the message; -1 where there is no role.
    """

    text: str
    start: int
    end: int
    role: str = ""
    turn: int = -1


@dataclass(frozen=True, eq=False)
class Trace:
    """Projections of every token.

    Attributes:
        text: what was traced; of a conversation as the chat template writes it.
        tokens: its tokens.
        emotions: order of the emotion axis.
        projections: of the residual on the unit directions, in the residual's unit.
        site: where the residual was read.
        provenance: model, data, settings.
    """

    text: str
    tokens: tuple[TracedToken, ...]
    emotions: tuple[str, ...]
    projections: Float[Tensor, "layer token emotion"]
    site: Site = "resid_post"
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_frame(self, layer: int | None = None) -> pd.DataFrame:
        """One row per layer, token and emotion.

        Args:
            layer: this layer alone; negative counts from the end.

        Returns:
            Columns ``position, token, start, end, role, turn, layer, emotion, projection``.
        """
        import pandas as pd

        every = range(len(self.projections))
        layers = list(every) if layer is None else [every[layer]]
        held = [(i, t.text, t.start, t.end, t.role, t.turn) for i, t in enumerate(self.tokens)]
        rows = [(*row, l, e) for l in layers for row in held for e in self.emotions]
        table = pd.DataFrame(rows, columns=["position", "token", "start", "end", "role", "turn", "layer", "emotion"])
        return table.assign(projection=self.projections[layers].flatten().tolist())

    def by_turn(self, layer: int = -1) -> pd.DataFrame:
        """Mean projection of each message's tokens: ``turn, role, emotion, projection, n_tokens``."""
        table = self.to_frame(layer)
        grouped = table[table["turn"] >= 0].groupby(["turn", "role", "emotion"], sort=False)["projection"]
        return grouped.agg(projection="mean", n_tokens="size").reset_index()

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        n_layers = len(self.projections)
        return f"Trace({len(self)} tokens, {n_layers} layers at {self.site}: {', '.join(self.emotions)})"


def trace(
    model: HookedModel,
    text: str | Prompt | Sequence[Message],
    directions: EmotionDirections,
    *,
    site: Site | str = "resid_post",
    window: int | None = None,
    overlap: int | None = None,
    batch_size: int | None = None,
) -> Trace:
    """Projection on each emotion's direction at every token and layer (method.md, stage 2).

    Patches in force act: ``with model.patched(...)`` shows what they do along the text.

    Args:
        model: the model.
        text: a document, or a conversation as messages of role and content or as a prompt.
        directions: from `fit_directions`.
        site: ``"resid_post"`` or ``"resid_mid"``.
        window: tokens read at once; by default the model's context, or everything where it has none.
        overlap: tokens of context that a token has at least; half a window by default.
        batch_size: windows in a batch.

    Raises:
        PromptError: there is no text, or window and overlap leave nothing to report.

    Example:
        >>> import emotion_circuits as ec
        >>> model = ec.HookedModel.demo()
        >>> ec.trace(model, "I moved my desk.", directions).to_frame()  # doctest: +SKIP
    """
    site = as_site(site)
    vectors = torch.stack([directions.of(emotion, site) for emotion in directions.emotions], dim=1)
    prompt = _as_prompt(text)
    ids = render(model.tokenizer, prompt)
    if not ids:
        raise PromptError("there is nothing to trace; give a text or a conversation with at least one word")
    begin = ids[:1] if ids[0] == model.tokenizer.bos_token_id else []
    width = min(window or model.context or len(ids), model.context or len(ids))
    windows = list(windows_of(len(ids), width, width // 2 if overlap is None else overlap, len(begin)))
    sequences = [(begin if start else []) + ids[start:end] for start, end, _ in windows]
    projections = _project(model, sequences, site, vectors, batch_size or max(1, 4096 // width))
    reported = [
        rows[:, rows.shape[1] - (end - first) :] for rows, (_, end, first) in zip(projections, windows, strict=True)
    ]
    whole, tokens = locate(model.tokenizer, ids, prompt)
    made_by = provenance(model, [prompt], site=site, window=width, n_windows=len(windows))
    return Trace(whole, tokens, tuple(directions.emotions), torch.cat(reported, dim=1), site, made_by)


def _project(
    model: HookedModel, sequences: Sequence[list[int]], site: Site, vectors: Tensor, batch_size: int
) -> Iterator[Float[Tensor, "layer pos emotion"]]:
    """Every sequence's projections, padding included on the left."""
    with progress("trace", len(sequences)) as advance:
        for first in range(0, len(sequences), batch_size):
            chunk = sequences[first : first + batch_size]
            batch = pad(chunk, range(len(chunk)), model.tokenizer.pad_token_id, [0] * len(chunk)).to(model.device)
            yield from project(model, batch, site, vectors).unbind(dim=1)
            advance(len(chunk))


def windows_of(n_tokens: int, window: int, overlap: int, n_begin: int = 0) -> Iterator[Window]:
    """Windows that report every token exactly once.

    Args:
        n_tokens: of the text.
        window: tokens of a window, those that are put before it included.
        overlap: tokens before the first one that a later window reports.
        n_begin: tokens put before every window but the first.

    Raises:
        PromptError: the window is not larger than overlap and begin.
    """
    if n_tokens > window and not 0 <= overlap < window - n_begin:
        raise PromptError(
            f"a window of {window} tokens with an overlap of {overlap} reports nothing; choose an overlap below "
            f"{window - n_begin}"
        )
    end = min(window, n_tokens)
    yield 0, end, 0
    while end < n_tokens:
        reported, start = end, end - overlap
        end = min(start + window - n_begin, n_tokens)
        yield start, end, reported


def locate(tokenizer: Any, ids: Sequence[int], prompt: Prompt) -> tuple[str, tuple[TracedToken, ...]]:
    """The text, and each token's place in it and turn."""
    text = tokenizer.decode(ids, skip_special_tokens=False) if prompt.text is None else prompt.text
    spans = _spans(tokenizer, text, ids, special=prompt.text is not None)
    if spans is None:
        # The text does not give the same tokens again: it is taken to be what the tokens say one by one.
        pieces = [tokenizer.decode([i], skip_special_tokens=False) for i in ids]
        ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0).tolist()
        text, spans = "".join(pieces), list(zip([0, *ends[:-1]], ends, strict=True))
    turns = list(_turns(text, prompt.messages))
    return text, tuple(TracedToken(text[a:b], a, b, *_turn_of(a, b, turns)) for a, b in spans)


def _spans(tokenizer: Any, text: str, ids: Sequence[int], *, special: bool) -> list[tuple[int, int]] | None:
    if not getattr(tokenizer, "is_fast", False):
        return None
    begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    encoded = tokenizer(text, add_special_tokens=special and not begun, return_offsets_mapping=True)
    same = list(encoded["input_ids"]) == list(ids)
    return [(int(a), int(b)) for a, b in encoded["offset_mapping"]] if same else None


def _turns(text: str, messages: Sequence[Message]) -> Iterator[tuple[int, int, str, int]]:
    """Where each message's content stands; one that the template rewrote is left out."""
    reached = 0
    for turn, (role, content) in enumerate(messages):
        start = text.find(content.strip(), reached)
        if start >= 0 and content.strip():
            reached = start + len(content.strip())
            yield start, reached, role, turn


def _turn_of(start: int, end: int, turns: Sequence[tuple[int, int, str, int]]) -> tuple[str, int]:
    for first, last, role, turn in turns:
        if start < last and end > first:
            return role, turn
    return "", -1


def _as_prompt(text: str | Prompt | Sequence[Message]) -> Prompt:
    if isinstance(text, Prompt):
        return text
    return Prompt.raw(text) if isinstance(text, str) else Prompt(tuple((role, said) for role, said in text))
