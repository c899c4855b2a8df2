"""Running a method of control on items, for several emotions at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from emotion_circuits.control.methods import Method, together
from emotion_circuits.data.prompts import as_emotions
from emotion_circuits.data.sev import Item
from emotion_circuits.generation import Backend, GenerationConfig, generate
from emotion_circuits.journal import ReplyJournal
from emotion_circuits.model import HookedModel
from emotion_circuits.replies import Replies
from emotion_circuits.types import EKMAN


def run_method(
    model: HookedModel | Backend,
    method: Method,
    items: Sequence[Item],
    emotions: Sequence[str] = EKMAN,
    config: GenerationConfig | None = None,
    *,
    batch_size: int | None = None,
    journal: ReplyJournal | None = None,
) -> Replies:
    """Replies to every item under every emotion, by one method.

    All emotions are generated together, each on rows of its own, so that what their prompts share is computed once.

    Raises:
        EmotionError: ``emotions`` is one string.
    """
    emotions = as_emotions(emotions)
    prompts, patches = together(((method, emotion) for emotion in emotions), items)
    replies = generate(model, prompts, patches, config, batch_size=batch_size, journal=journal)
    wanted = [emotion for emotion in emotions for _ in items]
    return Replies(tuple(replace(r, emotion=e, method=method.name) for r, e in zip(replies, wanted, strict=True)))
