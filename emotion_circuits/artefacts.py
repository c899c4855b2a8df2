"""Artefacts: saved results as safetensors with a JSON header. Never pickle.

One file holds the tensors, and in its header the schema (what it is, and which version of it), and everything that
is not a tensor: settings, provenance. Files are written next to their place and moved there, so that a crash or a
full disk leaves the old file or none, never half of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import ArtefactError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

_VERSION = 1
_HEADER = "emotion_circuits"


@contextmanager
def replacing(path: str | Path):
    """A temporary path that takes the place of ``path`` when the block ends well, and is removed when it does not."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise ArtefactError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # the folder itself may be what is wrong
            temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Bring a file's content to the disk, so that its new name cannot get there first."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save(path: str | Path, kind: str, tensors: Mapping[str, Tensor | None], meta: Mapping[str, Any]) -> None:
    """Write one artefact.

    Args:
        path: the file.
        kind: what it is, e.g. ``"directions"``.
        tensors: named tensors; None is left out.
        meta: anything that JSON can hold.
    """
    from safetensors.torch import save_file

    held = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items() if tensor is not None}
    content = {"schema": f"emotion_circuits.{kind}/{_VERSION}", "meta": dict(meta)}
    # One entry only: safetensors writes several in random order, and equal results must be equal files.
    header = {_HEADER: json.dumps(content, ensure_ascii=False)}
    with replacing(path) as temporary:
        try:
            save_file(held, temporary, metadata=header)
        except Exception as error:  # safetensors reports a full disk as an error of its own
            raise ArtefactError(f"cannot write {path}: {error}") from error


def save_frame(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a table as Parquet, whole or not at all."""
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)


def load_frame(path: str | Path) -> pd.DataFrame:
    """Read a table.

    Raises:
        ArtefactError: the file is missing, damaged, or no Parquet.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow's own errors are of many kinds
        raise ArtefactError(f"{path} cannot be read as a Parquet table ({error}); is it complete?") from error


def load(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read one artefact: its tensors and the rest.

    Raises:
        ArtefactError: the file is missing, damaged, or something else than ``kind``.
    """
    from safetensors import safe_open

    wanted = f"emotion_circuits.{kind}/{_VERSION}"
    try:
        with safe_open(str(path), framework="pt") as file:
            content = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            if content.get("schema") != wanted:
                raise ArtefactError(f"{path} holds {content.get('schema', 'no known schema')!r}, expected {wanted!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if not isinstance(content["meta"], dict):
            raise ArtefactError(f"{path} is damaged: its header holds no JSON object")
        return tensors, content["meta"]
    except ArtefactError:
        raise
    except Exception as error:  # safetensors' own errors, OSError, JSON, KeyError: the file is not usable
        raise ArtefactError(f"{path} cannot be read as a saved {kind}: {error}; is it complete?") from error


def field(meta: Mapping[str, Any], name: str, path: str | Path) -> Any:
    """One entry of an artefact's header, or an `ArtefactError` that names it."""
    if name not in meta:
        raise ArtefactError(f"{path} lacks the entry {name!r}; it was written by another version or is damaged")
    return meta[name]
