"""Elicitation: ask for each emotion by instruction (method.md, stage 1)."""

from __future__ import annotations

from collections.abc import Sequence

from emotion_circuits.data.instructions import Style
from emotion_circuits.data.labels import LabelSet
from emotion_circuits.data.sev import SEV
from emotion_circuits.generation import Backend, GenerationConfig, OnReply, generate
from emotion_circuits.model import HookedModel
from emotion_circuits.replies import Replies
from emotion_circuits.types import EKMAN


def elicit(
    model: HookedModel | Backend,
    data: SEV,
    emotions: Sequence[str] | LabelSet = EKMAN,
    style: Style = "named",
    config: GenerationConfig | None = None,
    *,
    language: str | None = None,
    batch_size: int | None = None,
    on_reply: OnReply | None = None,
) -> Replies:
    """Replies to every item under every emotion's instruction.

    Args:
        model: the model, or a backend that replies for it.
        data: the items.
        emotions: the emotions to ask for; a label set brings its own words and texts.
        style: ``"named"`` says the emotion's name (the reference's), ``"described"`` a state that does not.
        config: how to decode; greedy by default.
        language: of the instructions; the data's own by default, which is English.
        batch_size: rows in a batch.
        on_reply: called with every reply as it is done.

    Returns:
        ``len(data.items) * len(emotions)`` replies; the emotions of one item follow each other.
    """
    if isinstance(emotions, LabelSet) or language is not None:
        labels = emotions if isinstance(emotions, LabelSet) else LabelSet.of(*emotions)
        data = data.worded(labels.wording(language or data.wording.language))
    prompts = [item.prompt(emotion, style) for item in data.items for emotion in emotions]
    return generate(
        model, prompts, None, config, method=f"prompting ({style})", batch_size=batch_size, on_reply=on_reply
    )
