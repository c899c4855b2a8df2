"""Hostile files: valid ones with something changed, which reaches further into a reader than random bytes do.

`mutate` knows bytes (flips, cuts, doubled and removed pieces, lengths overwritten), JSON (entries removed, renamed,
swapped for another type, huge, NaN, nested without end) and safetensors (the header as JSON, and its length).
`CORPUS` holds files that are bad on their own: bombs, loops, pickles that would run code.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 3, 2**31, 2**63, -(2**70), 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "anger",
    "\ud800", "\x00", "../../etc/passwd", "a" * 5000, [], {}, [[]], {"": ""}, [1, "a", None], [1e400], {"a": {"b": 1}},
)  # fmt: skip
NUMBERS = (0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
Kind = str
"""``bytes``, ``json``, ``jsonl``, ``safetensors`` or ``text``."""


def mutate(data: bytes, kind: Kind, rng: random.Random) -> bytes:
    """``data`` with one to three things changed."""
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(_WAYS[kind])(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    held = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 8)) if held else 0):
        held[rng.randrange(len(held))] ^= 1 << rng.randrange(8)
    return bytes(held)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 4, 8, 64)) :]


def _double(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    stop = start + rng.choice((1, 8, 100))
    return data[:stop] + data[start:]


def _number(data: bytes, rng: random.Random) -> bytes:
    """Overwrite four or eight bytes, as lengths and counts are held, near the start more often."""
    width, order = rng.choice((4, 8)), rng.choice("<>")
    end = min(len(data), 64) if rng.random() < 0.5 else len(data)
    start = rng.randrange(end + 1)
    number = rng.choice(NUMBERS) % (1 << 8 * width)
    return data[:start] + struct.pack(f"{order}{'I' if width == 4 else 'Q'}", number) + data[start + width :]


def _token(data: bytes, rng: random.Random) -> bytes:
    """Swap one word, number or mark of a text."""
    words = data.split(b" ") if b" " in data else data.split(b",")
    words[rng.randrange(len(words))] = rng.choice(
        (b"", b"nan", b"-1", b"1e999", b"9" * 5000, b"\xff\xfe", b'"', b"\n", b"&a *a", b"!!python/object:os.system x",
         b"[" * 2000, b"{" * 2000, b"\x00", b": :", b"- -", b"0x", b"1_0", "\u2028".encode())
    )  # fmt: skip
    return (b" " if b" " in data else b",").join(words)


def _json(data: bytes, rng: random.Random) -> bytes:
    try:
        held = json.loads(data)
    except (ValueError, RecursionError):
        return _flip(data, rng)
    changed = json.dumps(_changed(held, rng), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.03:
        changed = changed.replace(b'""', b"[" * 100_000, 1)
    return changed


def _changed(held: Any, rng: random.Random) -> Any:
    """The same with one entry changed, at any depth."""
    deeper = isinstance(held, dict | list) and held and rng.random() < 0.8
    if not deeper:
        return rng.choice(VALUES)
    if isinstance(held, list):
        i = rng.randrange(len(held))
        way = rng.random()
        if way < 0.1:
            return held[:i] + held[i + 1 :]
        return [*held[:i], _changed(held[i], rng), *held[i + 1 :]] if way < 0.9 else [*held, held[i]]
    key = rng.choice(list(held))
    way = rng.random()
    if way < 0.15:
        return {k: v for k, v in held.items() if k != key}
    if way < 0.25:
        return {(rng.choice(("", "x", "\ud800")) if k == key else k): v for k, v in held.items()}
    if way < 0.3:
        return {**held, "unexpected": rng.choice(VALUES)}
    return {**held, key: _changed(held[key], rng)}


def _line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    way = rng.random()
    if way < 0.1:
        lines.insert(i, lines[i])
    elif way < 0.2:
        del lines[i]
    else:
        record = lines[i]
        if b', "check": "' in record and rng.random() < 0.8:  # a record that its checksum does not protect
            record = record.rpartition(b', "check": "')[0] + b"}"
        lines[i] = _json(record, rng)
    return b"\n".join(lines)


def _header(data: bytes, rng: random.Random) -> bytes:
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        inner = json.loads(header["__metadata__"]["emotion_circuits"])
    except (ValueError, KeyError, TypeError):
        return _number(data, rng)
    if rng.random() < 0.7:
        header["__metadata__"]["emotion_circuits"] = json.dumps(_changed(inner, rng))
    else:
        header = _changed(header, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


_RAW: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _cut, _remove, _double, _number)
_WAYS: dict[Kind, tuple[Callable[[bytes, random.Random], bytes], ...]] = {
    "bytes": _RAW,
    "text": (*_RAW, _token, _token, _token),
    "json": (_flip, _cut, _json, _json, _json, _json),
    "jsonl": (_flip, _cut, _line, _line, _line, _line),
    "safetensors": (*_RAW, _header, _header, _header, _header, _header),
}


class Runs:
    """Unpickling this runs code."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code of a file was run')",)


def _zipped(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def _array(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, **options)
    return file.getvalue()


def _bomb() -> bytes:
    """An array of 400 MB in 400 kB."""
    return _zipped("anger.npy", _array(np.zeros((100_000_000,), dtype="f4")))


CORPUS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "zeros": lambda: bytes(4096),
    "ones": lambda: b"\xff" * 4096,
    "line breaks": lambda: b"\n" * 1000,
    "byte order mark": lambda: "\ufeff{}".encode(),
    "utf-16": lambda: '{"a": 1}\n'.encode("utf-16"),
    "half a surrogate": lambda: b'{"a": "\\ud800"}\n',
    "deep list": lambda: b"[" * 200_000,
    "deep object": lambda: b'{"a":' * 100_000,
    "deep yaml": lambda: b"- " * 20_000,
    "yaml laughs": lambda: b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n".encode() for i in range(12)
    ),
    "yaml loop": lambda: b"labels: &a [*a, *a]\n",
    "yaml code": lambda: b"labels: !!python/object/apply:os.system ['true']\n",
    "huge number": lambda: b'{"a": ' + b"9" * 10_000 + b"}\n",
    "huge header": lambda: (2**62).to_bytes(8, "little") + b"{}",
    "pickle": lambda: pickle.dumps(Runs()),
    "pickle in a zip": lambda: _zipped("archive/data.pkl", pickle.dumps(Runs())),
    "pickled array": lambda: _array(np.array([Runs()], dtype=object), allow_pickle=True),
    "zip bomb": _bomb,
    "wide csv": lambda: b"layer,head,mean_importance" + b",x" * 100_000 + b"\n0,0,1\n",
    "long field": lambda: b"layer,head,mean_importance\n0,0," + b"1" * 200_000 + b"\n",
    "null in csv": lambda: b"layer,head,mean_importance\n0,\x00,1\n",
}  # fmt: skip
