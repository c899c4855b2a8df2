"""How far two files of one kind are apart, in that kind's own terms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_circuits import artefacts, records
from emotion_circuits.errors import ArtefactError


@dataclass(frozen=True)
class Distance:
    """How far two files are apart.

    Attributes:
        largest: largest difference of numbers, relative to the largest of them; for records, the share that differ.
        unit: what that is.
    """

    largest: float
    unit: str

    def __str__(self) -> str:
        return f"{self.largest:.2g} {self.unit}"


def distance(first: Path, second: Path) -> Distance:
    """How far two files are apart; infinitely when they do not even have the same shape."""
    if first.suffix == ".jsonl":
        return Distance(share_changed(first, second), "of the records changed")
    pairs = zip(_numbers(first), _numbers(second), strict=False)
    largest = max((_apart(a, b) for a, b in pairs), default=float("inf"))
    return Distance(largest, "of the largest number")


def share_changed(first: Path, second: Path) -> float:
    """Share of records whose text or label differs; 1 when there are not as many of them."""
    one, other = ([r.get("text", r.get("label")) for _, r in records.read(path)] for path in (first, second))
    if len(one) != len(other):
        return 1.0
    return sum(a != b for a, b in zip(one, other, strict=True)) / max(1, len(one))


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape or not (np.isnan(a) == np.isnan(b)).all():
        return float("inf")
    both = np.nan_to_num(np.stack([a, b]))
    return float(np.abs(both[0] - both[1]).max(initial=0) / max(np.abs(both).max(initial=0), 1e-30))


def _numbers(path: Path) -> Iterator[np.ndarray]:
    """Every array of numbers in a file, in an order that depends on names alone."""
    if path.name.removesuffix(".again").endswith(".safetensors"):
        from safetensors.numpy import load_file

        held = load_file(path)
        yield from (held[name].astype("f8") for name in sorted(held))
    elif path.name.removesuffix(".again").endswith(".parquet"):
        frame = artefacts.load_frame(path).select_dtypes("number")
        yield from (frame[name].to_numpy("f8") for name in sorted(frame))
    else:
        yield np.array(list(_leaves(_json(path))), dtype="f8")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} cannot be compared: {error}") from error


def _leaves(held: Any) -> Iterator[float]:
    if isinstance(held, dict | list):
        for part in held.values() if isinstance(held, dict) else held:
            yield from _leaves(part)
    elif isinstance(held, int | float):
        yield float(held)
