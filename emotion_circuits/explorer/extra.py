"""What to do when a package of the extra ``explorer`` is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from emotion_circuits.errors import EmotionCircuitsError


@contextmanager
def needs(what: str) -> Iterator[None]:
    """Imports inside the block say how to get what is missing.

    Raises:
        EmotionCircuitsError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise EmotionCircuitsError(
            f"{what} needs {error.name}, which is not installed; get it with: pip install 'emotion-circuits[explorer]'"
        ) from error
