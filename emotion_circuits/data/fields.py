"""Reading YAML that people write: every error names the file, the line and the key.

`read_yaml` gives `Fields`: a mapping that remembers the line of each key and checks the type of what is taken from
it. Keys that stand twice are refused, since YAML would silently keep the last, and so are keys that nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from emotion_circuits.errors import DataError


class Fields(Mapping[str, Any]):
    """A mapping out of a file.

    Args:
        held: values by key; mappings among them are `Fields` too.
        place: the file.
        path: keys that lead here.
        lines: line of each key, where the mapping was read from a text.
    """

    def __init__(
        self, held: Mapping[str, Any], place: str, path: Sequence[str] = (), lines: Mapping[str, int] | None = None
    ) -> None:
        self.place, self._path, self._lines = place, tuple(path), dict(lines or {})
        self._held = {
            key: Fields(value, place, (*path, key)) if isinstance(value, Mapping) and not isinstance(value, Fields)
            else value for key, value in held.items()
        }  # fmt: skip

    def __getitem__(self, key: str) -> Any:
        return self._held[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def wrong(self, key: str, expected: str) -> NoReturn:
        """Raise a `DataError` about one key."""
        line = f", line {self._lines[key]}" if key in self._lines else ""
        got = "nothing" if self._held.get(key) is None else repr(self._plain(key))
        raise DataError(f"{self.place}{line}, key '{'.'.join((*self._path, key))}': expected {expected}, got {got}")

    def only(self, *keys: str) -> Fields:
        """These fields, once none but ``keys`` is among them."""
        for key in self:
            if key not in keys:
                self.wrong(key, f"one of the keys {', '.join(keys)}")
        return self

    def child(self, key: str) -> Fields:
        """The mapping under a key; an empty one where the key is missing."""
        value = self._held.get(key)
        if value is None:
            return Fields({}, self.place, (*self._path, key))
        return value if isinstance(value, Fields) else self.wrong(key, "a mapping")

    def text(self, key: str) -> str:
        """A string that is not empty."""
        value = self._held.get(key)
        return value if isinstance(value, str) and value.strip() else self.wrong(key, "a text (quote it if need be)")

    def optional_text(self, key: str) -> str | None:
        """The same, or None where the key is missing."""
        return self.text(key) if key in self else None

    def texts(self, key: str) -> dict[str, str]:
        """A mapping of texts."""
        held = self.child(key)
        return {name: held.text(name) for name in held}

    def number(self, key: str, low: float, high: float) -> float | None:
        """A number between ``low`` and ``high``, or None where the key is missing."""
        if key not in self:
            return None
        value = self._held[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.wrong(key, f"a number between {low:g} and {high:g}")
        return float(value)

    def _plain(self, key: str) -> Any:
        value = self._held[key]
        return dict(value) if isinstance(value, Fields) else value


def read_yaml(path: str | Path) -> Fields:
    """The mapping that a YAML file holds.

    Raises:
        DataError: the file cannot be read, is no YAML, or is no mapping with texts for keys.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a UTF-8 text file ({error})") from error
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
            raise DataError(f"{path}: refers to another part of itself (*name); write it out")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise DataError(f"{path}: expected a YAML mapping of keys and values")
        return _fields(node, str(path), ())
    except DataError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise DataError(f"{path}{line}: not YAML ({getattr(error, 'problem', None) or error})") from error
    except (ValueError, RecursionError) as error:  # a date that is none, nesting without end
        raise DataError(f"{path}: a value cannot be read ({error}); quote it if it is meant as text") from error


def _fields(node: yaml.MappingNode, place: str, path: tuple[str, ...]) -> Fields:
    held: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = _plain(key_node), key_node.start_mark.line + 1
        where = f"{place}, line {line}, key '{'.'.join((*path, str(key)))}'"
        if not isinstance(key, str):
            raise DataError(f"{where}: expected a text, got {key!r}; quote the key")
        if key in held:
            raise DataError(f"{where}: it is already on line {lines[key]}; a key may stand once")
        nested = isinstance(value_node, yaml.MappingNode)
        held[key] = _fields(value_node, place, (*path, key)) if nested else _plain(value_node)
        lines[key] = line
    return Fields(held, place, path, lines)


def _plain(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    return loader.construct_object(node, deep=True)
