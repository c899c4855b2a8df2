"""The report's tables as plain rows: methods, emotions, nodes, settings. No HTML here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.stability import Stability
from emotion_circuits.control.doses import Calibration
from emotion_circuits.directions.quality import DirectionQuality
from emotion_circuits.evaluation.comparison import Comparison
from emotion_circuits.types import KINDS

EXPLANATIONS = {
    "none": "no instruction, no change: how often an untouched reply looks like the emotion",
    "prompting": "the prompt asks for the emotion",
    "steering": "a direction is added to the residual stream, the prompt asks for nothing",
    "circuit": "what the emotion changes is added to the circuit’s nodes, the prompt asks for nothing",
    "random circuit": "the same, at as many random nodes in every layer",
    "prompting - circuit": "the prompt asks for the emotion, the circuit’s part is taken away",
    "prompting - random": "the same, at the random nodes",
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


def node_rows(circuit: Circuit, stability: Stability | None = None) -> list[dict[str, Any]]:
    """One row per node of a circuit, best first; with ``chosen``, in percent of the resamples, and ``core``."""
    table = circuit.to_frame()
    if stability is not None:
        frequency = {kind: 100 * stability.frequency.values(kind) for kind in KINDS}
        core = stability.core().names()
        at = zip(table["kind"], table["layer"], table["index"], strict=True)
        table = table.assign(chosen=[float(frequency[k][l, i]) for k, l, i in at], core=table["node"].isin(core))
    return table.to_dict("records")


def quality_rows(quality: DirectionQuality) -> list[dict[str, Any]]:
    """One row per emotion: its tests' results, and whether it is flagged."""
    table: Any = quality.to_frame()
    return [
        {"emotion": emotion, "flags": quality.flags(emotion),
         "tests": table[table["emotion"] == emotion].to_dict("records")}
        for emotion in quality.emotions
    ]  # fmt: skip


def calibration_rows(calibration: Calibration) -> list[dict[str, Any]]:
    """One row per emotion: the candidate and strength that were chosen, and what they measured."""
    return [
        asdict(point) | {"n_points": len(calibration.curve(emotion)),
                         "tried": len({p.candidate for p in calibration.points if p.emotion == emotion})}
        for emotion, point in calibration.chosen.items()
    ]  # fmt: skip


def stability_summary(circuit: Circuit, stability: Stability) -> str:
    """How many nodes other data would have given too, in two sentences."""
    kept = len(stability.core() & circuit.nodes)
    return (
        f"Chosen again on {stability.n_draws} resamples of the {stability.n_scenarios} training scenarios and on "
        f"halves of them, {kept} of the {len(circuit.nodes)} nodes are in at least 90 % of both (● in the table of "
        f"nodes). Circuits of two disjoint halves share {100 * stability.halves:.0f} % of their nodes (Jaccard)."
    )


def layer_summary(circuit: Circuit) -> str:
    """Where a circuit lies, in two sentences."""
    counts = (circuit.nodes.neurons.sum(dim=1) + circuit.nodes.heads.sum(dim=1)).tolist()
    fullest = max(range(len(counts)), key=counts.__getitem__)
    best = ", ".join(circuit.to_frame()["node"].head(5))
    flagged = f" The direction it was found with is flagged: {'; '.join(circuit.flags)}." if circuit.flags else ""
    return (
        f"Of the model’s {circuit.dims.n_nodes:,} nodes the circuit has {len(circuit.nodes)}; layer {fullest} holds "
        f"the most ({counts[fullest]}). Highest scores: {best}.{flagged}"
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
