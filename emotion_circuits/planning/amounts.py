"""How much data there is, and how long its prompts are, before there is a tokenizer."""

from __future__ import annotations

from emotion_circuits.data.sev import SEV, load_sev
from emotion_circuits.errors import DataError
from emotion_circuits.planning.workload import Scale

TOKENS_PER_CHARACTER = 0.24
"""English prose in vocabularies of 100,000 tokens and more."""
TEMPLATE_TOKENS = 15
"""Of a chat template, for a system message and a user's."""


def data_of(data: str, emotions: int) -> tuple[Scale, int]:
    """The scale of a run, and the mean length of an instructed prompt in tokens.

    Args:
        data: how many items, whose prompts are taken to be as long as those of the project's own set; ``"demo"``,
            ``"own"``, or a SEV JSONL file.
        emotions: how many.

    Raises:
        DataError: the number is no number of items, or the file is none of scenarios.
    """
    items = _number(data)
    if items is not None:
        if items < 10:
            raise DataError(f"{items} items cannot be split into training, validation and test; plan at least 10")
        return Scale.split(items, emotions), _mean_tokens(load_sev("own")[0])
    if data in ("demo", "own"):
        parts = load_sev(data)
        train, validation, test = (len(part.items) for part in parts)
        return Scale(train, validation, test, emotions), _mean_tokens(parts[0])
    whole = SEV.from_jsonl(data)
    return Scale.split(len(whole.items), emotions), _mean_tokens(whole)


def _number(text: str) -> int | None:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return None


def _mean_tokens(data: SEV) -> int:
    prompts = data.limit(200).prompts("anger")
    characters = sum(len(text) for prompt in prompts for _, text in prompt.messages)
    return round(TEMPLATE_TOKENS + TOKENS_PER_CHARACTER * characters / len(prompts))
