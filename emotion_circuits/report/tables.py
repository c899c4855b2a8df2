"""The report's tables as plain rows: methods, emotions, nodes, settings. No HTML here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.evaluation.comparison import Comparison

EXPLANATIONS = {
    "none": "no instruction, no change: how often an untouched reply looks like the emotion",
    "prompting": "the prompt asks for the emotion",
    "steering": "a direction is added to the residual stream, the prompt asks for nothing",
    "circuit": "what the emotion changes is added to the circuit’s nodes, the prompt asks for nothing",
    "random circuit": "the same, at as many random nodes in every layer",
    "prompting - circuit": "the prompt asks for the emotion, the circuit’s part is taken away",
}
"""What each known method does, in a few words."""


@dataclass(frozen=True)
class Share:
    """A share of replies with its interval, in percent; NaN where nothing was scored."""

    value: float
    low: float
    high: float
    n: int
    unscored: int

    @property
    def known(self) -> bool:
        """Whether anything was scored."""
        return self.value == self.value

    def __str__(self) -> str:
        return f"{self.value:.1f} %" if self.known else "none scored"


def share_of(row: Any, low: str = "low", high: str = "high") -> Share:
    """The share in one row of an accuracy table."""
    value, low_end, high_end = (float(100 * row[column]) for column in ("accuracy", low, high))
    return Share(value, low_end, high_end, int(row["n"]), int(row["unscored"]))


def method_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row per method: accuracy, what is left out of it, fluency."""
    rows = []
    for row in comparison.table().to_dict("records"):
        rows.append(
            {
                "method": row["method"], "explanation": EXPLANATIONS.get(row["method"], ""),
                "accuracy": share_of(row), "clustered": share_of(row, "cluster_low", "cluster_high"),
                "at_least": 100 * row["at_least"], "unscored": int(row["unscored"]), "n": int(row["n"]),
                "neutral": 100 * row["neutral"], "perplexity": row["perplexity"], "distinct_2": row["distinct_2"],
                "repetition": 100 * row["repetition"], "n_words": row["n_words"], "on_topic": 100 * row["on_topic"],
            }
        )  # fmt: skip
    return rows


def emotion_rows(comparison: Comparison) -> tuple[list[str], list[dict[str, Any]]]:
    """The emotions, and for each method its share for every one of them (None where it was not run)."""
    table = comparison.by_emotion()
    emotions = [str(e) for e in dict.fromkeys(table["emotion"]) if e != "overall"]
    held = {(row["method"], row["emotion"]): share_of(row) for row in table.to_dict("records")}
    rows = [
        {"method": method, "shares": [held.get((method, emotion)) for emotion in emotions]}
        for method in comparison.evaluations
    ]
    return emotions, rows


def node_rows(circuit: Circuit) -> list[dict[str, Any]]:
    """One row per node of a circuit, best first."""
    return circuit.to_frame().to_dict("records")


def layer_summary(circuit: Circuit) -> str:
    """Where a circuit lies, in two sentences."""
    counts = (circuit.nodes.neurons.sum(dim=1) + circuit.nodes.heads.sum(dim=1)).tolist()
    fullest = max(range(len(counts)), key=counts.__getitem__)
    best = ", ".join(circuit.to_frame()["node"].head(5))
    return (
        f"Of the model’s {circuit.dims.n_nodes:,} nodes the circuit has {len(circuit.nodes)}; layer {fullest} holds "
        f"the most ({counts[fullest]}). Highest scores: {best}."
    )


def setting_rows(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names and values, nested mappings as ``outer · inner``."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        label = f"{prefix}{str(name).replace('_', ' ')}"
        if isinstance(value, Mapping):
            rows += setting_rows(value, f"{label} · ")
        elif isinstance(value, list | tuple):
            rows.append((label, ", ".join(_text(v) for v in value)))
        else:
            rows.append((label, _text(value)))
    return rows


def timing_rows(timings: Mapping[str, float | int] | None) -> list[tuple[str, str]]:
    """Stages and how long they took, and the sum."""
    if not timings:
        return []
    return [(str(name), duration(s)) for name, s in timings.items()] + [("total", duration(sum(timings.values())))]


def duration(seconds: float | int) -> str:
    """``4.2 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    return f"{minutes} min {round(seconds) % 60:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
