"""The reference study's released files, read into this package's results (method.md, stages 2, 4 and 6).

`load_directions`    ``emo_directions_{attention,mlp}.pt`` -> `EmotionDirections`
`load_sigma`         ``sigma_summary.json`` -> rms of the residual
`load_head_ranking`  a head ranking (CSV) -> `Attribution` of heads
`load_influence`     a circuit table (CSV) -> `Influence`
`load_circuit`       the same table -> `Circuit` of the heads that it names
`load_differences`   difference vectors (``.npy``, ``.npz``) -> `Contrast`

The ``.pt`` files are pickles that hold NumPy arrays. They are read with a list of the four functions and the types
that such arrays need, and nothing else: a file that names any other function is refused before it is called.
Released ``global_circuit/*.json`` files: `emotion_circuits.interop.global_circuit`.
"""

from __future__ import annotations

import codecs
import csv
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.activations import Activations, Contrast
from emotion_circuits.attribution.influence import Influence
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.data.prompts import check_emotions
from emotion_circuits.directions.result import EmotionDirections
from emotion_circuits.errors import ArtefactError, NodeError
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.types import ModelDims

LLAMA_3_2_3B = ModelDims(28, 24, 8, 3072, 128, 8192, 128256)
"""Sizes of the reference's model."""

_SOURCE = "Wang et al., arXiv 2510.11328, released files"
_SMALL = 1 << 20


def load_directions(attention: str | Path, mlp: str | Path, sigma: str | Path | None = None) -> EmotionDirections:
    """The reference's unit directions.

    Args:
        attention: ``emo_directions_attention.pt``.
        mlp: ``emo_directions_mlp.pt``.
        sigma: ``sigma_summary.json``; without it ``sigma`` is NaN.

    Returns:
        Directions whose figures that the files do not hold (norms, split halves, variances) are NaN, with 0 groups.

    Raises:
        ArtefactError: a file is damaged, would run code, or does not hold directions.
    """
    held = [_direction_file(path) for path in (attention, mlp)]
    emotions = tuple(held[0])
    shapes = {array.shape for directions in held for array in directions.values()}
    if emotions != tuple(held[1]) or len(shapes) != 1:
        raise ArtefactError(
            f"{attention} and {mlp} do not belong together: emotions {', '.join(held[0])} and {', '.join(held[1])}, "
            f"shapes {sorted(shapes)}; give the two files of one release"
        )
    vectors = torch.stack([torch.stack([torch.from_numpy(d[e]) for e in emotions], dim=1) for d in held])
    layers = vectors.shape[1]
    unknown, unknown_each = torch.full((2, layers), torch.nan), torch.full((2, layers, len(emotions)), torch.nan)
    return EmotionDirections(
        emotions=emotions,
        vectors=vectors,
        norms=unknown_each,
        sigma=unknown if sigma is None else load_sigma(sigma, layers),
        n_groups=0,
        split_half=unknown_each,
        variance_group=unknown,
        variance_emotion=unknown,
        provenance={"source": _SOURCE, "files": [Path(attention).name, Path(mlp).name]},
    )


def load_sigma(path: str | Path, n_layers: int = LLAMA_3_2_3B.n_layers) -> Float[Tensor, "2 layer"]:
    """Mean rms of the residual after every attention (row 0) and MLP (row 1), from ``sigma_summary.json``.

    Raises:
        ArtefactError: the file is not JSON, or a sublayer is missing in it.
    """
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = [[float(held[f"{sublayer}_{l}"]) for l in range(n_layers)] for sublayer in ("attention", "mlp")]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtefactError(
            f"{path} cannot be read as an rms table ({error!r}); expected a JSON object with a number for each of "
            f"attention_0 to attention_{n_layers - 1} and mlp_0 to mlp_{n_layers - 1}"
        ) from error
    return torch.tensor(rows)


def load_head_ranking(path: str | Path, emotion: str, dims: ModelDims = LLAMA_3_2_3B) -> Attribution:
    """Head importance from a CSV of ``layer, head, mean_importance, std_importance, samples``.

    Args:
        path: the file.
        emotion: whose ranking it is.
        dims: sizes of the model.

    Raises:
        ArtefactError: a column, a head or a number is missing or wrong.
    """
    mean, std = torch.full((2, dims.n_layers, dims.n_heads), torch.nan)
    n_samples = 0
    for number, row in _rows(path, ("layer", "head", "mean_importance")):
        try:
            place = _index(row["layer"], dims.n_layers), _index(row["head"], dims.n_heads)
            mean[place], std[place] = float(row["mean_importance"]), float(row.get("std_importance") or "nan")
            n_samples = int(row.get("samples") or 0)
        except (ValueError, TypeError) as error:
            raise ArtefactError(f"{path}, line {number}: {error}; expected layer, head and their importance") from error
    if mean.isnan().any():
        missing = int(mean.isnan().sum())
        raise ArtefactError(f"{path} lacks {missing} of {mean.numel()} heads; is it complete, and of this model?")
    no_neurons = torch.zeros(dims.n_layers, dims.d_mlp)
    return Attribution(
        values=NodeValues(no_neurons, mean),
        method="head importance (reference study)",
        emotion=emotion,
        n_samples=n_samples,
        dims=dims,
        kinds=("head",),
        std=NodeValues(no_neurons, std),
        provenance={"source": _SOURCE, "file": Path(path).name},
    )


def load_influence(path: str | Path, emotion: str) -> Influence:
    """Sublayer influence from a circuit table, a CSV of ``layer, importance_attention, importance_mlp``.

    Raises:
        ArtefactError: a column, a layer or a number is missing or wrong.
    """
    rows = _rows(path, ("layer", "importance_attention", "importance_mlp"))
    try:
        by_layer = {int(r["layer"]): [float(r[f"importance_{s}"]) for s in ("attention", "mlp")] for _, r in rows}
    except (ValueError, TypeError) as error:
        raise ArtefactError(f"{path}: {error}; expected a layer and two numbers in every line") from error
    if sorted(by_layer) != list(range(len(by_layer))):
        raise ArtefactError(f"{path} has layers {sorted(by_layer)}; expected every layer from 0 once")
    values = torch.tensor([by_layer[layer] for layer in sorted(by_layer)]).T[..., None]
    return Influence(
        emotions=(emotion,), values=values, std=torch.full_like(values, torch.nan), by_strength=values[None],
        strengths=(float("nan"),), n_samples=0, provenance={"source": _SOURCE, "file": Path(path).name},
    )  # fmt: skip


def load_circuit(
    path: str | Path, emotion: str, ranking: str | Path | None = None, dims: ModelDims = LLAMA_3_2_3B
) -> Circuit:
    """The circuit of a circuit table: its heads; of its neurons the table gives only how many each layer has.

    Args:
        path: CSV of ``layer, importance_attention, importance_mlp, k_attention, k_mlp, heads`` (heads by spaces).
        emotion: whose circuit it is.
        ranking: the head ranking, for the scores; NaN without it.
        dims: sizes of the model.

    Returns:
        A circuit of heads; ``provenance["quota"]`` holds the neurons and heads per layer of the whole circuit.

    Raises:
        ArtefactError: the table is damaged, or of another model.
    """
    influence = load_influence(path, emotion)
    if influence.values.shape[1] != dims.n_layers:
        raise ArtefactError(f"{path} has {influence.values.shape[1]} layers, the model {dims.n_layers}")
    names, quota = [], {"neuron": [0] * dims.n_layers, "head": [0] * dims.n_layers}
    for number, row in _rows(path, ("layer", "k_attention", "k_mlp", "heads")):
        try:
            layer, heads = int(row["layer"]), [int(h) for h in row["heads"].split()]
            quota["head"][layer], quota["neuron"][layer] = int(row["k_attention"]), int(row["k_mlp"])
        except (ValueError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{path}, line {number}: {error}; expected counts and head numbers") from error
        if len(set(heads)) != quota["head"][layer]:
            raise ArtefactError(
                f"{path}, line {number}: names {len(set(heads))} heads, its quota is {row['k_attention']}"
            )
        names += [f"L{layer}H{head}" for head in heads]
    try:
        nodes = NodeSet.of(dims, *names)
    except NodeError as error:
        raise ArtefactError(f"{path}: {error}; it is a circuit of another model") from error
    unknown = NodeValues(
        torch.full((dims.n_layers, dims.d_mlp), torch.nan), torch.full((dims.n_layers, dims.n_heads), torch.nan)
    )
    scores = unknown if ranking is None else load_head_ranking(ranking, emotion, dims).values
    provenance = {"source": _SOURCE, "file": Path(path).name, "quota": quota}
    return Circuit(emotion, nodes, dims, scores, influence.of(emotion), None, provenance)


def load_differences(
    emotion: str, neurons: str | Path | None = None, heads: str | Path | None = None, dims: ModelDims = LLAMA_3_2_3B
) -> Contrast:
    """Difference vectors as the contrast that `Enhancement` adds (method.md, stage 5).

    Args:
        emotion: the emotion; in an ``.npz`` the array of this name is taken (or the only one).
        neurons: ``.npy`` or ``.npz``, ``[layer, d_mlp]``.
        heads: ``.npy`` or ``.npz``, ``[layer, head, d_head]`` or with the last two axes as one.
        dims: sizes of the model.

    Raises:
        ArtefactError: a file is damaged, holds pickled objects, or has another shape.
    """
    wanted = [(neurons, (dims.n_layers, dims.d_mlp)), (heads, (dims.n_layers, dims.n_heads, dims.d_head))]
    parts = [None if path is None else _array(path, emotion, shape) for path, shape in wanted]
    return Contrast(emotion, "emotions", Activations(*parts))


def _array(path: str | Path, emotion: str, shape: tuple[int, ...]) -> Tensor:
    _refuse_bombs(path)
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.lib.npyio.NpzFile):
            with held:
                name = held.files[0] if len(held.files) == 1 else emotion
                check_emotions([name], held.files, str(path))
                held = held[name]
        return torch.from_numpy(np.ascontiguousarray(held, dtype=np.float32)).reshape(shape)
    except Exception as error:  # NumPy's own, zipfile's, OSError, a shape that does not fit: the file is not usable
        raise ArtefactError(f"{path} cannot be read as difference vectors of shape {shape}: {error}") from error


def _direction_file(path: str | Path) -> dict[str, np.ndarray]:
    """``dirs`` of one file: a ``[layer, d_model]`` array for each emotion."""
    _refuse_bombs(path)
    try:
        with torch.serialization.safe_globals(_array_globals()):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile pickle provokes; none of it has been executed
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ArtefactError(
            f"{path} cannot be read as saved arrays: {reason}. Only NumPy arrays and plain containers are accepted, "
            "and no code in the file is run; is it complete, and what it is taken for?"
        ) from error
    directions = held.get("dirs") if isinstance(held, Mapping) else None
    if not isinstance(directions, Mapping) or not directions:
        raise ArtefactError(f"{path} holds no entry 'dirs' with an array for each emotion; is it a direction file?")
    for emotion, array in directions.items():
        if not (
            isinstance(emotion, str) and isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype.kind == "f"
        ):
            raise ArtefactError(f"{path}: the directions of {emotion!r} are no [layer, d_model] array of numbers")
    return {emotion: np.ascontiguousarray(array, dtype=np.float32) for emotion, array in directions.items()}


def _refuse_bombs(path: str | Path) -> None:
    """Refuse a packed file that is a hundred times its size: real numbers do not pack like that."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # zipfile's errors on damaged files are of many kinds
        raise ArtefactError(f"{path} cannot be read as a packed file ({error}); is it complete?") from error
    if unpacked > 100 * Path(path).stat().st_size + _SMALL:
        raise ArtefactError(f"{path} unpacks to {unpacked:,} bytes, a hundred times its size; it is not read")


def _array_globals() -> list[Any]:
    """What the pickle of a NumPy array of floating-point numbers may name; old NumPy called its module otherwise."""
    rebuild: Any = np.zeros(0).__reduce__()[0]
    names = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
    types = [type(np.dtype(name)) for name in ("f2", "f4", "f8")]
    return [*((rebuild, name) for name in names), np.ndarray, np.dtype, *types, codecs.encode]


def _rows(path: str | Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Line number and fields of every row of a CSV that has at least ``columns``."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            present = reader.fieldnames or ()
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArtefactError(f"{path} cannot be read as a CSV table ({error})") from error
    missing = [name for name in columns if name not in present]
    if missing or not rows:
        raise ArtefactError(
            f"{path} has no column {missing[0]!r}" if missing else f"{path} has no rows; is it complete?"
        )
    return rows


def _index(text: str, size: int) -> int:
    if not 0 <= int(text) < size:
        raise ValueError(f"{text} is outside 0 to {size - 1}")
    return int(text)
