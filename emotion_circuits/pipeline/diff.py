"""Diff: what differs between two runs, from their settings to their replies.

Results are compared stage by stage, for the emotions that both have: how many instructed replies were accepted, how
well directions agree (cosine), which nodes both circuits have (Jaccard), what calibration chose, how many replies
changed, and how accuracies differ, with a 95 % interval over scenarios, drawn whole.

Only files that a run's manifest lists are read: others may be left from before something changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import EmotionCircuitsError, RunError
from emotion_circuits.evaluation import Comparison
from emotion_circuits.intervals import clustered, interval_text
from emotion_circuits.pipeline.folder import RunFolder
from emotion_circuits.pipeline.run import Run, load_run
from emotion_circuits.pipeline.stages import comparison, decodings

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Difference:
    """One thing in two runs.

    Attributes:
        part: settings, versions, data, or a stage.
        what: which of it.
        first: in the first run.
        second: in the second run.
        difference: in words; empty where the two values say it all.
    """

    part: str
    what: str
    first: str
    second: str
    difference: str = ""


@dataclass(frozen=True)
class RunDiff:
    """Everything that was compared."""

    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.changed

    @property
    def changed(self) -> list[Difference]:
        """What differs."""
        return [d for d in self.differences if d.first != d.second]

    def to_frame(self, *, all_parts: bool = False) -> pd.DataFrame:
        """One row per difference: ``part, what, first, second, difference``; equal ones too with ``all_parts``."""
        import pandas as pd

        held = self.differences if all_parts else self.changed
        return pd.DataFrame([vars(d) for d in held], columns=["part", "what", "first", "second", "difference"])

    def __repr__(self) -> str:
        return f"RunDiff({len(self.changed)} of {len(self.differences)} things compared differ)"


def diff(first: str | Path, second: str | Path) -> RunDiff:
    """Compare two runs, as far as both have come. A damaged file is named, and what it holds is not compared.

    Raises:
        RunError: one of them is no run.
    """
    one, other = _opened(first), _opened(second)
    if one.folder.path.resolve() == other.folder.path.resolve():
        raise RunError(f"{first} and {second} are one folder; give two runs")
    found = list(_given(one, other))
    for part, compare in _STAGES.items():
        try:
            # What was compared before a file is missing stays.
            for difference in compare(one, other):
                found.append(difference)
        except _NotMadeError:
            continue  # one of the runs has not come so far
        except EmotionCircuitsError as error:
            found.append(Difference(part, "cannot be compared", "", "?", str(error)))
    return RunDiff(tuple(found))


class _NotMadeError(RunError):
    """The run has not made this file yet, or has to make it again."""


class _Listed(RunFolder):
    """A run folder of which only files that its manifest lists can be read, and only if they are as it says."""

    def file(self, name: str) -> Path:
        if name not in self.manifest["files"]:
            raise _NotMadeError(
                f"{self.path / name} is not in the run's manifest; run again with this folder, which makes it"
            )
        return super().file(name)


def _opened(path: str | Path) -> Run:
    run = load_run(path)
    run.folder = _Listed(run.folder.path, run.folder.manifest)
    return run


def _given(one: Run, other: Run) -> Iterator[Difference]:
    """Settings, versions and data."""
    a, b = one.folder.manifest, other.folder.manifest
    for part in ("settings", "versions", "facts"):
        for name in dict.fromkeys((*a[part], *b[part])):
            yield Difference("data" if part == "facts" else part, name, _text(a[part], name), _text(b[part], name))


def _shared(one: Run, other: Run) -> list[str]:
    return [emotion for emotion in one.emotions if emotion in other.emotions]


def _accepted(one: Run, other: Run) -> Iterator[Difference]:
    counts = [{e: len(run.evaluation().accepted().of(e)) for e in run.emotions} for run in (one, other)]
    for emotion in _shared(one, other):
        yield Difference("judge", f"{emotion}: accepted replies", *(str(held[emotion]) for held in counts))


def _directions(one: Run, other: Run) -> Iterator[Difference]:
    a, b = one.directions(), other.directions()
    for emotion in _shared(one, other):
        first, second = a.of(emotion), b.of(emotion)
        if first.shape != second.shape:
            yield Difference("directions", emotion, str(tuple(first.shape)), str(tuple(second.shape)), "other models")
        elif not first.equal(second):
            least = float((first * second).sum(dim=-1).min())
            yield Difference("directions", emotion, "", "other", f"least cosine over layers {least:.4f}")


def _circuits(one: Run, other: Run) -> Iterator[Difference]:
    a, b = one.circuits(), other.circuits()
    chosen = one.calibration()["circuit"], other.calibration()["circuit"]
    for emotion in _shared(one, other):
        x, y = a[emotion], b[emotion]
        if x.dims == y.dims:
            shared, either = len(x.nodes & y.nodes), len(x.nodes | y.nodes)
            jaccard = f"Jaccard {shared / max(1, either):.3f}, {shared} nodes shared"
            names = [str(len(c.nodes)) if x.nodes == y.nodes else f"{len(c.nodes)} nodes" for c in (x, y)]
            if shared != either:
                yield Difference("circuit", f"{emotion}: nodes", names[0], f"{names[1]} (other)", jaccard)
        for name in ("candidate", "strength"):
            yield Difference("circuit", f"{emotion}: {name}", *(_text(held[emotion], name) for held in chosen))


def _compared(one: Run, other: Run) -> Iterator[Difference]:
    """Replies and accuracies of every method that both runs have."""
    labels = [label for label, _ in decodings(one) if label in dict(decodings(other))]
    for label in labels:
        a, b = comparison(one, label), comparison(other, label)
        for method in (name for name in a.evaluations if name in b.evaluations):
            yield from _method(label, method, a, b)


def _method(label: str, method: str, a: Comparison, b: Comparison) -> Iterator[Difference]:
    x, y = a.evaluations[method], b.evaluations[method]
    texts = [{_key(r): (r.text, hit) for r, hit in zip(e.replies, e.hits, strict=True)} for e in (x, y)]
    both = [key for key in texts[0] if key in texts[1]]
    if not both:
        yield Difference(
            "generate", f"{label}, {method}", str(len(x.replies)), str(len(y.replies)), "no item in common"
        )
        return
    changed = sum(texts[0][key][0] != texts[1][key][0] for key in both)
    if changed:
        yield Difference("generate", f"{label}, {method}", "", "other", f"{changed} of {len(both)} replies changed")
    gains = [float(texts[1][key][1]) - float(texts[0][key][1]) for key in both]
    low, high = clustered(gains, [key[0] for key in both])
    rates = [sum(held[key][1] for key in both) / len(both) for held in texts]
    words = f"{100 * (rates[1] - rates[0]):+.1f} points {interval_text(100 * low, 100 * high, '+.1f')}"
    before, after = (f"{100 * rate:.1f} %" for rate in rates)
    yield Difference("evaluate", f"{label}, {method}: accuracy", before, after, words)


def _key(reply: Any) -> tuple[Any, ...]:
    return reply.prompt.item, reply.prompt.valence, reply.emotion


def _text(held: dict[str, Any], name: str) -> str:
    return str(held[name]) if name in held else "(none)"


_STAGES: dict[str, Callable[[Run, Run], Iterator[Difference]]] = {
    "judge": _accepted,
    "directions": _directions,
    "circuit": _circuits,
    "evaluate": _compared,
}
