"""Verify: is a run still what was written, and would it be computed again?

1. Every file is held against its hash, and every record against its own checksum.
2. In a copy of the run, a sample of every stage is thrown away: a few replies of each file of replies, and a file or
   two of the others. The stages then run over the copy as over a run that was damaged, and make again what is missing.
3. What they made is compared with what was there. On the same versions the files must be the same to the last bit;
   on others, numbers may differ by rounding and few replies by a word, and the table says which comparison was used.

Calibration is the dearest file of a run; it is made again only when ``calibration`` is asked for.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_circuits import records
from emotion_circuits.evaluation.judges import Judge
from emotion_circuits.model import HookedModel
from emotion_circuits.pipeline.difference import distance
from emotion_circuits.pipeline.folder import RunFolder, damage_of, file_hash, read_manifest
from emotion_circuits.pipeline.manifest import place
from emotion_circuits.pipeline.run import Run, load_run
from emotion_circuits.pipeline.stages import STAGES
from emotion_circuits.provenance import versions

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-4
"""Largest difference of numbers, relative to the largest of their file, when versions differ."""

CHANGED = 0.1
"""Largest share of changed replies when versions differ: near a tie, rounding decides the next word."""

_DEAR = "calibration.json"
_NEVER = ("report.html",)
"""Shows how long stages took."""


@dataclass(frozen=True)
class Sample:
    """One thing that was checked.

    Attributes:
        stage: the stage.
        what: the file, or some of its records.
        expected: its recorded hash, or what was asked for.
        got: the hash of what was made again, or the difference.
        verdict: ``same``, ``close`` (within the tolerance for other versions), ``different`` or ``damaged``.
    """

    stage: str
    what: str
    expected: str
    got: str
    verdict: str


@dataclass(frozen=True)
class Verification:
    """What was checked, and how it came out.

    Attributes:
        samples: one entry for each.
        exact: whether results had to be the same to the last bit.
        n_files: files whose hash was checked.
    """

    samples: tuple[Sample, ...]
    exact: bool
    n_files: int

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged and everything came out the same, or close where that is enough."""
        return all(sample.verdict in ("same", "close") for sample in self.samples)

    def to_frame(self) -> pd.DataFrame:
        """One row per sample: ``stage, sample, expected, got, verdict``."""
        import pandas as pd

        rows = [{"stage": s.stage, "sample": s.what, "expected": s.expected, "got": s.got, "verdict": s.verdict}
                for s in self.samples]  # fmt: skip
        return pd.DataFrame(rows, columns=["stage", "sample", "expected", "got", "verdict"])

    def __repr__(self) -> str:
        how = "to the last bit" if self.exact else "to rounding, since versions differ"
        bad = sum(sample.verdict not in ("same", "close") for sample in self.samples)
        return f"Verification({self.n_files} files, {len(self.samples)} samples compared {how}: {bad} failed)"


def verify(
    folder: str | Path,
    *,
    replies: int = 2,
    files: int = 1,
    calibration: bool = False,
    seed: int = 0,
    judge: Judge | None = None,
    model: HookedModel | None = None,
    trust_remote_code: bool = False,
) -> Verification:
    """Check a run's files, and compute a sample of every stage again. The run itself is not touched.

    Args:
        folder: a run folder.
        replies: of every file of replies, how many are generated again (with the batches that they were made in).
        files: of every other kind of file of a stage, how many are made again.
        calibration: calibrate again too.
        seed: of the sample.
        judge: what the run was judged with; its usual judge by default.
        model: if it is loaded already.
        trust_remote_code: let the model's repository run code of its own.

    Raises:
        RunError: there is no run.
    """
    folder, manifest = Path(folder), read_manifest(folder)
    hashes: dict[str, str] = manifest["files"]
    damaged = {name: damage_of(place(folder, name), recorded) for name, recorded in hashes.items()}
    found = [Sample(_stage(n), n, hashes[n][:12], damage, "damaged") for n, damage in damaged.items() if damage]
    whole = [folder / name for name, damage in damaged.items() if damage is None and name not in _NEVER]
    chosen = _choose(whole, random.Random(seed), replies, files, calibration)
    exact = manifest["versions"] == versions()
    run = load_run(folder, model, trust_remote_code=trust_remote_code)
    with tempfile.TemporaryDirectory(prefix="verify-") as temporary:
        copy = _Copy(folder, Path(temporary) / "run")
        for path, lines in chosen.items():
            _throw_away(copy.path / path.relative_to(folder), lines)
        again = Run(run.settings, copy, (run.train, run.validation, run.test), judge or run.judge, run.model)
        for name, stage in STAGES.items():
            if manifest["stages"].get(name, {}).get("status") == "done" and name != "report":
                stage(again)
        for path, lines in chosen.items():
            name = path.relative_to(folder).as_posix()
            found.append(_compared(name, lines, path, copy.made.get(name), hashes[name], exact))
    order = list(STAGES)
    found.sort(key=lambda sample: (order.index(sample.stage) if sample.stage in order else -1, sample.what))
    return Verification(tuple(found), exact, len(hashes))


class _Copy(RunFolder):
    """A copy of a run. What is made again is put aside, so that every sample is made from what the run itself had.

    Attributes:
        made: where each file that was made again lies.
    """

    def __init__(self, original: Path, path: Path) -> None:
        shutil.copytree(original, path, ignore=shutil.ignore_patterns(".lock", "*.journal", "report.html"))
        super().__init__(path, read_manifest(path))
        self._original = original
        self.made: dict[str, Path] = {}

    def remade(self, name: str, before: str | None) -> None:
        """Put a file aside, and the run's own in its place if that is whole."""
        original, path = self._original / name, self.path / name
        self.made[name] = path.with_name(f"{path.name}.again")
        shutil.copy2(path, self.made[name])
        if before is not None and damage_of(original, before) is None:
            shutil.copy2(original, path)
            self.manifest["files"][name] = before


def _choose(
    paths: Sequence[Path], rng: random.Random, replies: int, files: int, calibration: bool
) -> dict[Path, list[int]]:
    """What is made again: whole files, or some lines of a file of replies."""
    chosen: dict[Path, list[int]] = {}
    kinds: dict[tuple[str, str], list[Path]] = {}
    for path in paths:
        if _holds_replies(path):
            n = sum(1 for _ in records.scan(path))
            chosen[path] = sorted(rng.sample(range(n), min(replies, n)))
        elif path.name != _DEAR or calibration:
            kinds.setdefault((path.parent.name, "".join(path.suffixes[-2:])), []).append(path)
    for held in kinds.values():
        chosen |= {path: [] for path in rng.sample(held, min(files, len(held)))}
    return chosen


def _throw_away(path: Path, lines: list[int]) -> None:
    """Remove some lines of a file, or the file."""
    kept = [line for n, line in enumerate(path.read_bytes().split(b"\n")) if n not in lines]
    path.unlink()
    if lines:
        path.write_bytes(b"\n".join(kept))


def _compared(name: str, lines: list[int], before: Path, after: Path | None, recorded: str, exact: bool) -> Sample:
    what = f"{name}, replies {', '.join(str(n) for n in lines)}" if lines else name
    if after is None:
        return Sample(_stage(name), what, recorded[:12], "no stage makes this file any more", "different")
    new = file_hash(after)
    if new == recorded:
        return Sample(_stage(name), what, recorded[:12], new[:12], "same")
    apart = distance(before, after)
    close = not exact and apart.largest <= (CHANGED if before.suffix == ".jsonl" else TOLERANCE)
    return Sample(_stage(name), what, recorded[:12], f"{new[:12]}: {apart}", "close" if close else "different")


def _holds_replies(path: Path) -> bool:
    return path.suffix == ".jsonl" and not path.name.endswith("scores.jsonl")


def _stage(name: str) -> str:
    return name.split("/", 1)[0]
