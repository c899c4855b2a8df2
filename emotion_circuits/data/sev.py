"""SEV: scenarios, each with events of three valences (method.md, stage 0).

One line of the file is one scenario::

    {"skeleton_id": "work_00", "theme": "work", "scenario": "I moved my desk to the window",
     "event": {"positive": "...", "neutral": "...", "negative": "..."}}

A wrong record is an error that names file, line, field and what was expected; nothing is dropped silently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from emotion_circuits import artefacts
from emotion_circuits.data.instructions import Style, Wording, english
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.errors import DataError
from emotion_circuits.types import VALENCES

_TEXT_FIELDS = ("skeleton_id", "theme", "scenario")


@dataclass(frozen=True)
class Record:
    """One scenario with its events, as in the file."""

    skeleton_id: str
    theme: str
    scenario: str
    event: dict[str, str]


@dataclass(frozen=True)
class Item:
    """One scenario with one of its events: what a model is shown.

    Attributes:
        record: the scenario.
        valence: which of its events.
        wording: of its instructions.
    """

    record: Record
    valence: str
    wording: Wording = field(default_factory=english, repr=False)

    @property
    def text(self) -> str:
        """The user message: scenario, newline, event."""
        return f"{self.record.scenario}\n{self.record.event[self.valence]}"

    def prompt(self, emotion: str | None = None, style: Style = "named") -> Prompt:
        """The chat that shows this item under an instruction, or uninstructed when ``emotion`` is None."""
        messages = (("system", self.wording.instruction(emotion, style)), ("user", self.text))
        return Prompt(messages, emotion, self.record.skeleton_id, self.valence, self.record.theme)


@dataclass(frozen=True)
class SEV:
    """A list of scenarios.

    Attributes:
        records: the scenarios, in the order of the file.
        name: where they came from.
        wording: of the instructions that its items are shown under; English by default.
    """

    records: tuple[Record, ...]
    name: str = "SEV"
    wording: Wording = field(default_factory=english, repr=False)

    @classmethod
    def from_jsonl(cls, path: str | Path) -> SEV:
        """Read a SEV file.

        Raises:
            DataError: the file is missing or empty, or a record is wrong: names the line and the field.
        """
        path = Path(path)
        if not path.is_file():  # a pipe would keep us waiting, a device never end
            problem = "no plain file" if path.exists() else "there is no such file"
            raise DataError(f"{path}: {problem}; expected one JSON record per line, or 'demo' or 'own'")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as a UTF-8 text file ({error})") from error
        # Not splitlines(), which also splits at characters that JSON keeps inside strings.
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        if not lines:
            raise DataError(f"{path}: empty; expected one JSON record per line")
        records = tuple(_record(line, f"{path}, line {n}") for n, line in lines)
        seen: dict[str, int] = {}
        for (n, _), record in zip(lines, records, strict=True):
            if record.skeleton_id in seen:
                raise DataError(
                    f"{path}, line {n}: skeleton_id {record.skeleton_id!r} is already on line "
                    f"{seen[record.skeleton_id]}; every scenario needs an id of its own"
                )
            seen[record.skeleton_id] = n
        return cls(records, str(path))

    def to_jsonl(self, path: str | Path) -> None:
        """Write the file that `from_jsonl` reads."""
        lines = (json.dumps(asdict(record), ensure_ascii=False) for record in self.records)
        artefacts.write_text(Path(path), "\n".join(lines) + "\n")

    @property
    def items(self) -> list[Item]:
        """Every scenario with every event: ``3 * len(self)`` items."""
        return [Item(record, valence, self.wording) for record in self.records for valence in VALENCES]

    def worded(self, wording: Wording) -> SEV:
        """The same scenarios under instructions in other words, e.g. ``Wording.load("de")`` or a label set's."""
        return replace(self, wording=wording)

    def prompts(self, emotion: str | None = None, style: Style = "named") -> list[Prompt]:
        """The chats of all items under one instruction; uninstructed by default."""
        return [item.prompt(emotion, style) for item in self.items]

    @property
    def themes(self) -> list[str]:
        """The themes, in order of appearance."""
        return list(dict.fromkeys(record.theme for record in self.records))

    def limit(self, n: int | None) -> SEV:
        """``n`` scenarios, taken from the themes in turn; all of them when ``n`` is None."""
        if n is None or n >= len(self.records):
            return self
        by_theme = {t: [r for r in self.records if r.theme == t] for t in self.themes}
        rounds = max(len(records) for records in by_theme.values())
        order = [records[i] for i in range(rounds) for records in by_theme.values() if i < len(records)]
        return replace(self, records=tuple(order[:n]), name=f"{self.name}[:{n}]")

    def split(self, *shares: float) -> tuple[SEV, ...]:
        """Disjoint parts with these shares of every theme, in the order of the file.

        Args:
            shares: positive numbers; ``split(0.5, 0.2, 0.3)`` gives train, validation and test.
        """
        total, parts = sum(shares), [[] for _ in shares]
        for theme in self.themes:
            records = [r for r in self.records if r.theme == theme]
            start, reached = 0, 0.0
            for part, share in zip(parts, shares, strict=True):
                reached += share
                stop = round(len(records) * reached / total)
                part.extend(records[start:stop])
                start = stop
        return tuple(replace(self, records=tuple(part), name=f"{self.name}[{i}]") for i, part in enumerate(parts))

    @property
    def sha256(self) -> str:
        """Hash of the content, whatever the file's layout was."""
        canonical = json.dumps([asdict(r) for r in self.records], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __repr__(self) -> str:
        return f"SEV({self.name}: {len(self)} scenarios, {len(self.items)} items, {len(self.themes)} themes)"


def load_sev(name: str = "demo") -> tuple[SEV, SEV, SEV]:
    """A data set that ships with the package, as disjoint train, validation and test parts.

    Args:
        name: ``"demo"`` for the demo model's set, ``"own"`` for the full one (its test file is the test part; a
            fifth of its training file is the validation part).
    """
    folder = Path(__file__).parent
    if name == "demo":
        parts = [SEV.from_jsonl(folder / "demo" / f"{part}.jsonl") for part in ("train", "validation", "test")]
        return parts[0], parts[1], parts[2]
    if name == "own":
        train, validation = SEV.from_jsonl(folder / "own" / "train.jsonl").split(4, 1)
        return train, validation, SEV.from_jsonl(folder / "own" / "test.jsonl")
    raise DataError(f"no data set {name!r} ships with the package; use 'demo' or 'own', or SEV.from_jsonl(path)")


def _record(line: str, place: str) -> Record:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON ({error.msg} at column {error.colno}); is the file cut off?") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, nesting without end
        raise DataError(f"{place}: cannot be read ({error})") from error
    if not isinstance(fields, dict):
        raise DataError(f"{place}: expected a JSON object, got {type(fields).__name__}")
    for name in _TEXT_FIELDS:
        _expect_text(fields.get(name), name, place)
    event = fields.get("event")
    if not isinstance(event, dict):
        raise DataError(f"{place}, field 'event': expected an object with {_quoted(VALENCES)}, got {event!r}")
    for valence in VALENCES:
        _expect_text(event.get(valence), f"event.{valence}", place)
    texts = {name: fields[name] for name in _TEXT_FIELDS}
    return Record(**texts, event={valence: event[valence] for valence in VALENCES})


def _expect_text(value: object, field: str, place: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}, field '{field}': expected a non-empty string, got {value!r:.80}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{place}, field '{field}': holds half a character (a lone surrogate), which no file can keep")


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
