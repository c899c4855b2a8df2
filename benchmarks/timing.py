"""Paired timing, and what is written about it."""

from __future__ import annotations

import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass
class Comparison:
    """One benchmark's outcome.

    Attributes:
        name: the benchmark.
        ratio: median over pairs of rival's time / own time (or own / rival's, where ``ratio_is`` says so).
        ratio_is: what the ratio is.
        target: what was asked for.
        met: whether it was reached.
        error: largest difference between the two results, relative to the largest value.
        details: sizes, times, how the rival was cut.
    """

    name: str
    ratio: float
    ratio_is: str
    target: str
    met: bool
    error: float | None
    details: dict[str, Any] = field(default_factory=dict)

    def report(self) -> None:
        """Print one paragraph and write the JSON file."""
        error = "" if self.error is None else f", largest relative difference {self.error:.1e}"
        print(f"{self.name}: {self.ratio:.3g} x ({self.ratio_is}; target {self.target}: "
              f"{'met' if self.met else 'MISSED'}){error}")  # fmt: skip
        for name, value in self.details.items():
            print(f"    {name}: {value}")
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps(asdict(self) | {"machine": machine()}, indent=2) + "\n")


@dataclass(frozen=True)
class Time:
    """How long one run took: on the clock, and on the processors (all threads), in seconds."""

    clock: float
    processor: float

    def __mul__(self, factor: float) -> Time:
        return Time(self.clock * factor, self.processor * factor)


def timed(work: Callable[[], Any]) -> tuple[Time, Any]:
    """The time of one run, and its result."""
    gc.collect()
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    return Time(time.perf_counter() - clock, time.process_time() - processor), result


def paired(own: Callable[[], Any], rival: Callable[[], Any], n_pairs: int):
    """Times of both, pair by pair, and the results of the last pair; the order alternates, and own is run once before.

    Returns:
        Own times, the rival's times, own result, the rival's result.
    """
    own()
    times: tuple[list[Time], list[Time]] = ([], [])
    held: list[Any] = [None, None]
    for pair in range(n_pairs):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            taken, held[which] = timed((own, rival)[which])
            times[which].append(taken)
    return *times, *held


def median_ratio(above: list[Time], below: list[Time]) -> tuple[float, str]:
    """Median over pairs of above / below on the clock; and both ratios with their range, for reading."""
    clock = [a.clock / b.clock for a, b in zip(above, below, strict=True)]
    processor = [a.processor / b.processor for a, b in zip(above, below, strict=True)]
    text = (
        f"clock {statistics.median(clock):.3g} ({min(clock):.3g} to {max(clock):.3g}), processor "
        f"{statistics.median(processor):.3g} ({min(processor):.3g} to {max(processor):.3g}), n = {len(clock)} pairs"
    )
    return statistics.median(clock), text


def spread(times: list[Time]) -> str:
    """Median, least and most on the clock, for reading."""
    clock = [t.clock for t in times]
    return f"{statistics.median(clock):.4g} s ({min(clock):.4g} to {max(clock):.4g})"


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


def machine() -> dict[str, Any]:
    """What it ran on, as far as it matters."""
    from importlib.metadata import version

    names = ("torch", "transformers", "transformer-lens")
    return {
        "threads": torch.get_num_threads(), "architecture": platform.machine(), "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }  # fmt: skip
