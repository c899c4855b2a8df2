"""Reading without stopping: each line becomes a row, or a finding that says why not.

1. Sources (a path, several, records, a mapping of names to these) become named lists of rows.
2. A row keeps the raw record, its line, its layout (which fields to look at), and the texts that are usable.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emotion_circuits.data.validate.report import Finding
from emotion_circuits.errors import DataError

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


@dataclass(frozen=True)
class Layout:
    """Which fields a kind of record has.

    Attributes:
        id: the field that names the record.
        group: the field within which the set is to be balanced.
        lead: texts that stand before the arms.
        arms: texts that take each other's place, such as the three events of a scenario.
    """

    id: str
    group: str
    lead: tuple[str, ...]
    arms: tuple[str, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Every field that must hold a text."""
        return (self.id, self.group, *self.lead, *self.arms)


VIGNETTE = Layout("id", "emotion", (), ("text", "neutral"))


def sev_layout(valences: Iterable[str]) -> Layout:
    """The layout of a scenario with one event for each valence."""
    return Layout("skeleton_id", "theme", ("scenario",), tuple(f"event.{valence}" for valence in valences))


@dataclass(frozen=True)
class Row:
    """One record, where it stands, and its texts by field (only those that are usable)."""

    file: str
    line: int
    record: Mapping[str, Any]
    layout: Layout
    texts: Mapping[str, str]

    @property
    def group(self) -> str:
        """Its theme, or its emotion for a vignette."""
        return str(self.record.get(self.layout.group, ""))

    def finding(self, check: str, field: str, message: str, severity: str = "error") -> Finding:
        """A finding about this row."""
        return Finding(check, self.file, self.line, field, message, severity)


def named_sources(sources: Any) -> list[tuple[str, Path | list[Any]]]:
    """Pairs of a name and what to read.

    Raises:
        DataError: ``sources`` is neither paths nor records.
    """
    if isinstance(sources, str | os.PathLike):
        return [(str(sources), Path(sources))]
    if isinstance(sources, Mapping) and not any(isinstance(key, str) and key == "event" for key in sources):
        pairs = [(str(name), source) for name, source in sources.items()]
        return [(name, Path(s) if isinstance(s, str | os.PathLike) else list(s)) for name, s in pairs]
    if isinstance(sources, Iterable) and not isinstance(sources, Mapping | bytes):
        listed = list(sources)
        if listed and all(isinstance(source, str | os.PathLike) for source in listed):
            return [(str(source), Path(source)) for source in dict.fromkeys(listed)]
        if all(isinstance(source, Mapping) for source in listed):
            return [("records", listed)]
    raise DataError(
        f"check() was given a {type(sources).__name__} ({str(sources)[:60]!r}); expected a path, several paths, a list "
        "of records (dicts), or a mapping from names to these; pass for instance check('train.jsonl')"
    )


def read(name: str, source: Path | list[Any], sev: Layout) -> tuple[list[Row], list[Finding]]:
    """The records of one source, and what could not be read."""
    if isinstance(source, list):
        numbered = list(enumerate(source, 1))
    else:
        try:
            lines = source.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            message = f"cannot be read ({error}); give the path of a UTF-8 text file with one JSON object per line"
            return [], [Finding("file", name, 0, "", message)]
        numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        return [], [Finding("file", name, 0, "", "holds no record; expected one JSON object per line")]
    rows, findings = [], []
    for i, record in numbered:
        try:
            record = json.loads(record) if isinstance(record, str) else record
            if not isinstance(record, Mapping):
                raise ValueError(f"is a {type(record).__name__}")
        except (ValueError, RecursionError) as error:
            message = f"cannot be used ({error}); expected one JSON object per line: mend the line or delete it"
            findings.append(Finding("json", name, i, "", message))
            continue
        rows.append(_row(name, i, record, sev))
    return rows, findings


def _row(name: str, line: int, record: Mapping[str, Any], sev: Layout) -> Row:
    layout = VIGNETTE if "emotion" in record and "event" not in record else sev
    found = {path: value_at(record, path) for path in layout.lead + layout.arms}
    texts = {path: text for path, text in found.items() if isinstance(text, str) and text.strip()}
    return Row(name, line, record, layout, texts)


def value_at(record: Mapping[str, Any], path: str) -> Any:
    """The value at ``a`` or ``a.b``, or None."""
    top, _, key = path.partition(".")
    value = record.get(top)
    if not key:
        return value
    return value.get(key) if isinstance(value, Mapping) else None


def words_of(text: str) -> list[str]:
    """Lower-case words, without digits and punctuation."""
    return [word.casefold().replace("’", "'") for word in _WORD.findall(text)]


def grouped(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by theme (or emotion), in order of appearance."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    return dict(groups)
