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

_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Distance:
    """How far two files are apart.

    Attributes:
        largest: largest difference of numbers, relative to the largest of them; infinite where anything else differs.
            For records, the share that differ.
        unit: what that is; what differs where it is infinite.
    """

    largest: float
    unit: str

    def __str__(self) -> str:
        return self.unit if np.isinf(self.largest) else f"{self.largest:.2g} {self.unit}"


def distance(first: Path, second: Path) -> Distance:
    """How far two files are apart; infinitely when they differ in anything but fractional numbers.

    Names, shapes, texts and whole numbers such as a node's place are the same or not; there is no rounding in them.
    """
    if first.suffix == ".jsonl":
        return Distance(share_changed(first, second), "of the records changed")
    one, other = _parts(first), _parts(second)
    if one.keys() != other.keys():
        names = sorted(one.keys() ^ other.keys())
        return Distance(float("inf"), f"only one of the files has {', '.join(names[:_SHOWN])}")
    apart = {name: _apart(part, other[name]) for name, part in one.items()}
    unlike = sorted(name for name, value in apart.items() if np.isinf(value))
    if unlike:
        return Distance(float("inf"), f"other {', '.join(unlike[:_SHOWN])}")
    return Distance(max(apart.values(), default=0.0), "of the largest number")


def share_changed(first: Path, second: Path) -> float:
    """Share of records whose text or label differs; 1 when there are not as many of them."""
    one, other = ([r.get("text", r.get("label")) for _, r in records.read(path)] for path in (first, second))
    if len(one) != len(other):
        return 1.0
    return sum(a != b for a, b in zip(one, other, strict=True)) / max(1, len(one))


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    if not (a.dtype.kind == "f" and b.dtype.kind == "f"):
        return 0.0 if np.array_equal(a, b) else float("inf")
    finite = np.isfinite(a)
    # What is no number, or infinite, must be so in both.
    if not np.array_equal(np.where(finite, 0.0, a), np.where(np.isfinite(b), 0.0, b), equal_nan=True):
        return float("inf")
    a, b = a[finite], b[finite]
    largest = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0), 1e-30)
    return float(np.abs(a - b).max(initial=0) / largest)


def _parts(path: Path) -> dict[str, np.ndarray]:
    """Everything in a file that is compared, by name."""
    name = path.name.removesuffix(".again")
    if name.endswith(".safetensors"):
        return _tensors(path)
    if name.endswith(".parquet"):
        return _columns(path)
    leaves = dict(_leaves(_json(path)))
    numbers = {place: leaf for place, leaf in leaves.items() if isinstance(leaf, float)}
    # All numbers are one part, since rounding is held against the largest number of the file.
    held = {"places of numbers": np.array(list(numbers), dtype=str), "numbers": np.array(list(numbers.values()), "f8")}
    return held | {place: np.array(repr(leaf)) for place, leaf in leaves.items() if place not in numbers}


def _tensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file  # torch has bfloat16, NumPy has not

    return {
        name: (tensor.double() if tensor.is_floating_point() else tensor).numpy()
        for name, tensor in load_file(path).items()
    }


def _columns(path: Path) -> dict[str, np.ndarray]:
    frame = artefacts.load_frame(path)
    held: dict[str, np.ndarray] = {"columns": np.array([str(name) for name in frame])}
    for name in frame:
        column = frame[name]
        if column.dtype.kind in "iuf":
            held[str(name)] = column.to_numpy()
        else:
            # How a missing text is kept depends on the version of pandas.
            texts = [None if missing else str(text) for text, missing in zip(column, column.isna(), strict=True)]
            held[str(name)] = np.array(texts, dtype=object)
    return held


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_int=float)
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} cannot be compared: {error}") from error


def _leaves(held: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that holds no others, and where it is."""
    if isinstance(held, dict | list) and held:
        for name, part in held.items() if isinstance(held, dict) else enumerate(held):
            yield from _leaves(part, f"{place}/{name}")
    else:
        yield place, held
