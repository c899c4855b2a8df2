"""Verify: is a run still what was written, and would it be computed again?

1. Every file is held against its hash, and every record against its own checksum.
2. In a copy of the run, a sample of every stage is thrown away: a few replies of each file of replies, and a file or
   two of the others. The stages then run over the copy as over a run that was damaged, and make again what is missing.
3. What they made is compared with what was there. On the same versions, processor and batch size the files must be
   the same to the last bit; on others, numbers may differ by rounding and few replies by a word, and the table says
   which comparison was used.

It runs with as many threads and rows in a batch as the run last had, which its manifest knows. Calibration is the
dearest file of a run; it is made again only when ``calibration`` is asked for. Files that the run has not made itself
are not made here either.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits import records
from emotion_circuits.errors import RunError
from emotion_circuits.evaluation.judges import Judge
from emotion_circuits.model import HookedModel
from emotion_circuits.pipeline.difference import distance
from emotion_circuits.pipeline.folder import RunFolder, damage_of, file_hash, read_manifest
from emotion_circuits.pipeline.manifest import place
from emotion_circuits.pipeline.run import Run, load_run
from emotion_circuits.pipeline.stages import STAGES
from emotion_circuits.provenance import processor, versions

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-4
"""Largest difference of numbers, relative to the largest of their file, where bits need not be the same."""

CHANGED = 0.1
"""Largest share of changed replies then: near a tie, rounding decides the next word."""

_ANSWERS = "judge/answers.jsonl"
"""What an endpoint has said; no file of the manifest's."""
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
        verdict: ``same``, ``close`` (within the tolerance, where bits may differ), ``different`` or ``damaged``.
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
        how = "to the last bit" if self.exact else "to rounding, since versions, processor or batch size differ"
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
    device: str | None = None,
    batch_size: int | None = None,
    judge_url: str | None = None,
    base_url: str | None = None,
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
        device: where the model runs; picked by default.
        batch_size: rows in a batch; as many as the run last had by default.
        judge_url: endpoint of an LLM judge, asked what the run's kept answers do not say; what it says is not kept.
        base_url: the server that elicited, of a run whose replies came from one.

    Raises:
        RunError: there is no run, its scenarios have changed, or it cannot be copied.
        DataError: its scenarios are no longer where they were.
    """
    folder, manifest = Path(folder), read_manifest(folder)
    hashes: dict[str, str] = manifest["files"]
    damaged = {name: damage_of(place(folder, name), recorded) for name, recorded in hashes.items()}
    found = [Sample(_stage(n), n, hashes[n][:12], damage, "damaged") for n, damage in damaged.items() if damage]
    whole = [folder / name for name, damage in damaged.items() if damage is None and name not in _NEVER]
    chosen = _choose(whole, random.Random(seed), replies, files, calibration)
    run, ran_with = load_run(folder, trust_remote_code=trust_remote_code), manifest.get("ran_with")
    rows, threads = (_positive(ran_with, name) for name in ("batch_size", "threads"))
    exact = manifest["versions"] == versions() and not manifest.get("later_versions")
    exact = exact and _same_place(ran_with, device) and batch_size in (None, rows)
    rows = rows if batch_size is None else batch_size
    settings = replace(run.settings, batch_size=rows, device=device, judge_url=judge_url, base_url=base_url)
    # Also stages of which nothing was chosen: what is damaged in them is made again, since later ones read it.
    stages = {_stage(name) for name in hashes}
    with tempfile.TemporaryDirectory(prefix="verify-") as temporary, _threads(threads):
        copy = _Copy(folder, Path(temporary) / "run", manifest, damaged)
        for path, lines in chosen.items():
            _throw_away(copy.path / path.relative_to(folder), lines)
        # The judge is the copy's, so that an endpoint's new answers are kept there and not in the run.
        again = Run(settings, copy, judge=judge, model=model)
        for name, stage in STAGES.items():
            if name in stages and name != "report":
                stage(again)
        for path, lines in chosen.items():
            name = path.relative_to(folder).as_posix()
            found.append(_compared(name, lines, path, copy.made.get(name), hashes[name], exact))
    order = list(STAGES)
    found.sort(key=lambda sample: (order.index(sample.stage) if sample.stage in order else -1, sample.what))
    return Verification(tuple(found), exact, len(hashes))


class _Copy(RunFolder):
    """A copy of a run. What is made again is put aside, so that every sample is made from what the run itself had.

    Only files that the manifest lists are copied, and the judge's kept answers: what else lies there is not the run's.

    Args:
        original: the run folder.
        path: of the copy.
        manifest: the run's.
        damaged: what is wrong with every file that the manifest lists; None where nothing is.

    Attributes:
        made: where each file that was made again lies.
    """

    def __init__(self, original: Path, path: Path, manifest: dict[str, Any], damaged: Mapping[str, str | None]) -> None:
        super().__init__(path, deepcopy(manifest))
        self._original, self._names = original, frozenset(damaged)
        self.made: dict[str, Path] = {}
        for name, damage in damaged.items():
            try:
                if name not in _NEVER:
                    self._take(name)
            except RunError:
                if damage is None:
                    raise
                # Otherwise the table says that it is damaged, and it counts as missing.
        if os.path.lexists(place(original, _ANSWERS)):
            self._take(_ANSWERS)

    def _take(self, name: str) -> None:
        """Copy one file of the run."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_file(place(self._original, name), target)

    def unit(self, name: str, make: Callable[[Path], Any]) -> Path:
        """As in a run; but what the run has not made (yet) is not made here either."""
        return super().unit(name, make) if name in self._names else self.path / name

    def remade(self, name: str, before: str | None) -> None:
        """Put a file aside, and the run's own in its place if that is whole."""
        original, path = self._original / name, self.path / name
        self.made[name] = path.with_name(f"{path.name}.again")
        _copy_file(path, self.made[name])
        if before is not None and damage_of(original, before) is None:
            _copy_file(original, path)
            self.manifest["files"][name] = before


def _copy_file(source: Path, target: Path) -> None:
    """Copy a file's content, but not who may write it."""
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise RunError(
            f"cannot copy {source} to {target}: {error.strerror or error}; make it readable, or set TMPDIR to a "
            "folder with more room"
        ) from error


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
    if apart.largest == 0:  # the same content, in a file that another library's version writes otherwise
        return Sample(_stage(name), what, recorded[:12], f"{new[:12]}: the same content", "same")
    close = not exact and apart.largest <= (CHANGED if before.suffix == ".jsonl" else TOLERANCE)
    return Sample(_stage(name), what, recorded[:12], f"{new[:12]}: {apart}", "close" if close else "different")


def _holds_replies(path: Path) -> bool:
    return path.suffix == ".jsonl" and not path.name.endswith("scores.jsonl")


def _stage(name: str) -> str:
    return name.split("/", 1)[0]


def _same_place(ran_with: object, device: str | None) -> bool:
    """Whether the run was made on a processor and device like those of now."""
    import torch

    if not isinstance(ran_with, Mapping) or ran_with.get("processor") != processor():
        return False
    return ran_with.get("device") == device or not torch.cuda.is_available()


def _positive(held: object, name: str) -> int | None:
    """A number that a manifest may hold, which may come from anybody."""
    value = held.get(name) if isinstance(held, Mapping) else None
    return value if isinstance(value, int) and 0 < value < 2**16 else None


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    """As many threads as the run had, whose number decides the order of sums."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
