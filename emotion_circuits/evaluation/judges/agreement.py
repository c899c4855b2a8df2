"""How far two judges, or a judge and people, agree.

1. `confusion` counts what one called what, unscored included.
2. `cohen_kappa` is agreement beyond chance, (p_o - p_e) / (1 - p_e), with a bootstrap interval.
3. `write_labelling_sheet` and `read_labelling_sheet` are the way to human labels: a CSV in shuffled order, filled in
   with any spreadsheet, checked line by line when it is read back.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from emotion_circuits.errors import DataError
from emotion_circuits.evaluation.judges.base import NEUTRAL, Score, check_texts
from emotion_circuits.types import EKMAN

UNSCORED = "unscored"
COLUMNS = ("item", "text", "label", "note", "check")


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa with its interval.

    Args:
        value: Kappa; 1 is perfect, 0 is chance. NaN where both used one and the same label throughout.
        low: Lower end of the bootstrap interval.
        high: Upper end of the bootstrap interval.
        agreement: Share of items with the same label.
        n: Items that both scored.
        unscored: Items that one of them did not score; they are left out.
    """

    value: float
    low: float
    high: float
    agreement: float
    n: int
    unscored: int


def confusion(first: Sequence[Score | str | None], second: Sequence[Score | str | None]) -> pd.DataFrame:
    """Counts: rows are the first's labels, columns the second's, with "unscored" where there is one."""
    a, b = (_names(labels) for labels in (first, second))
    _check_length(a, b)
    used = {*a, *b}
    order = [
        label for label in (*EKMAN, *sorted(used - {*EKMAN, NEUTRAL, UNSCORED}), NEUTRAL, UNSCORED) if label in used
    ]
    table = pd.DataFrame(0, index=pd.Index(order, name="first"), columns=pd.Index(order, name="second"))
    for x, y in zip(a, b, strict=True):
        table.loc[x, y] += 1
    return table


def cohen_kappa(
    first: Sequence[Score | str | None],
    second: Sequence[Score | str | None],
    *,
    groups: Sequence[Hashable] | None = None,
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Kappa:
    """Agreement beyond chance of two raters, with a percentile bootstrap interval.

    Args:
        first: Labels or scores of one rater; None is unscored.
        second: The same items by another rater.
        groups: The cluster of each item (its scenario); whole clusters are drawn then.
        n_boot: Bootstrap samples.
        confidence: Of the interval.
        seed: Of the bootstrap.

    Raises:
        DataError: lengths differ, or no item is scored by both.
    """
    a, b = _names(first), _names(second)
    _check_length(a, b)
    keep = [i for i in range(len(a)) if UNSCORED not in (a[i], b[i])]
    if not keep:
        raise DataError(f"none of {len(a)} items is scored by both raters: there is nothing to compare")
    if groups is not None and len(groups) != len(a):
        raise DataError(f"{len(a)} items but {len(groups)} groups: give one group per item")
    names = sorted({a[i] for i in keep} | {b[i] for i in keep})
    cell = np.array([names.index(a[i]) * len(names) + names.index(b[i]) for i in keep])
    clusters = np.unique([str(groups[i]) for i in keep] if groups is not None else keep, return_inverse=True)[1]
    counts = np.zeros((clusters.max() + 1, len(names) ** 2))
    np.add.at(counts, (clusters, cell), 1)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=n_boot)
    samples = _kappa((draws @ counts).reshape(-1, len(names), len(names)))
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(samples, [tail, 100 - tail]) if np.isfinite(samples).any() else (np.nan, np.nan)
    table = counts.sum(0).reshape(len(names), len(names))
    agreement = float(np.trace(table) / len(keep))
    return Kappa(float(_kappa(table[None])[0]), float(low), float(high), agreement, len(keep), len(a) - len(keep))


def _kappa(tables: np.ndarray) -> np.ndarray:
    n = tables.sum((1, 2))
    observed = np.trace(tables, axis1=1, axis2=2) / n
    expected = (tables.sum(1) * tables.sum(2)).sum(1) / n**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)


def write_labelling_sheet(path: str | Path, texts: Sequence[str], seed: int = 0) -> Path:
    """Writes a CSV for a person to fill in: one row per text, in shuffled order, with an empty ``label``.

    Args:
        path: The file; an existing one is not overwritten, it may hold someone's work.
        texts: The replies.
        seed: Of the order.

    Raises:
        DataError: the file exists.
    """
    path, texts = Path(path), check_texts(texts)
    if path.exists():
        raise DataError(f"{path} exists and may hold labels: give another name, or move it away first")
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for i in np.random.default_rng(seed).permutation(len(texts)):
        writer.writerow([int(i), _as_cell(texts[i]), "", "", _check_sum(texts[i])])
    path.write_text(out.getvalue(), encoding="utf-8-sig", newline="")
    return path


def read_labelling_sheet(path: str | Path, texts: Sequence[str], labels: Sequence[str] = EKMAN) -> list[Score]:
    """Read a filled-in sheet back, in the order of the texts; an empty label or "?" is unscored.

    Args:
        path: The file.
        texts: The same texts as when it was written.
        labels: The emotions that may stand there, besides "neutral".

    Raises:
        DataError: columns or rows are missing or doubled, a row belongs to another text, or a label is unknown.
    """
    path, texts = Path(path), check_texts(texts)
    scores: dict[int, Score] = {}
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        item = row["item"].strip()
        if not item.isdecimal() or len(item) > 18 or int(item) >= len(texts):
            raise DataError(f"{where}: item is {item!r}, expected a number below {len(texts)}: do not edit this column")
        if row["check"].strip() != _check_sum(texts[int(item)]):
            raise DataError(f"{where}: item {item} belongs to another text: read with the texts of writing")
        if int(item) in scores:
            raise DataError(f"{where}: item {item} stands there twice: delete one of the rows")
        scores[int(item)] = _human(row, (*labels, NEUTRAL), where)
    if len(scores) < len(texts):
        gone = [i for i in range(len(texts)) if i not in scores]
        raise DataError(f"{path} lacks {len(gone)} of {len(texts)} items, e.g. {gone[:5]}: put the deleted rows back")
    return [scores[i] for i in range(len(texts))]


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells of every row; a cell that is not there is empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            found, rows = reader.fieldnames or (), [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a labelling sheet ({error}): save it as CSV in UTF-8") from error
    missing = [column for column in COLUMNS if column not in found]
    if missing:
        raise DataError(f"{path} lacks the columns {missing}, it has {found}: keep the sheet's header")
    return rows


def _human(row: dict[str, str], known: tuple[str, ...], where: str) -> Score:
    label = (row["label"] or "").strip().lower()
    if label in ("", "?"):
        return Score(None, "not labelled" if not label else "the rater could not tell")
    if label not in known:
        raise DataError(f"{where}: label is {label!r}, expected {', '.join(known)}, '?' or nothing: correct it")
    return Score(label, (row["note"] or "").strip() or "human label", {label: 1.0})


def _as_cell(text: str) -> str:
    """Keep a spreadsheet from taking a text for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _check_sum(text: str) -> str:
    return "t" + hashlib.sha256(text.encode()).hexdigest()[:12]


def _names(labels: Sequence[Score | str | None]) -> list[str]:
    return [(x.label if isinstance(x, Score) else x) or UNSCORED for x in labels]


def _check_length(a: list[str], b: list[str]) -> None:
    if len(a) != len(b):
        raise DataError(f"{len(a)} labels against {len(b)}: give both raters' labels of the same items, in order")
