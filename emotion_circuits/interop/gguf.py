r"""GGUF control vectors: an emotion's directions for llama.cpp (method.md, stage 3).

llama.cpp adds the vector called ``direction.{l}`` to the residual after layer l, at every token, times the scale given
on its command line. Written here is

.. math:: d_l = \text{strength} \cdot \sqrt{d_\text{model}}\; \sigma_l \; v_l

(:math:`v_l` the unit direction of ``resid_post``, :math:`\sigma_l` its mean rms), so that scale 1 adds ``strength``
of the residual's mean norm. There is no ``direction.0``: llama.cpp refuses one, so layer 0 cannot be steered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import artefacts
from emotion_circuits.directions.result import EmotionDirections
from emotion_circuits.errors import ArtefactError, NodeError

_ARCHITECTURE = "controlvector"


def write_control_vector(
    directions: EmotionDirections,
    emotion: str,
    path: str | Path,
    *,
    architecture: str,
    strength: float = 0.14,
    layers: Sequence[int] | None = None,
) -> list[int]:
    """Write one emotion's directions as a control vector.

    Args:
        directions: of the model; ``sigma`` must be known.
        emotion: which.
        path: the ``.gguf`` file.
        architecture: llama.cpp's name of the model's architecture, e.g. ``"qwen2"`` or ``"llama"``.
        strength: share of the residual's mean norm that scale 1 adds in each layer.
        layers: which; about 40 to 70 % of the depth by default, as in the reference. Layer 0 cannot be held.

    Returns:
        The layers written.

    Raises:
        ArtefactError: the package ``gguf`` is missing, the file cannot be written, or sigma is unknown.
        NodeError: a layer is not in the model, or is 0.
    """
    gguf = _package()
    n = directions.n_layers
    chosen = sorted(set(range(max(1, round(0.4 * n)), round(0.7 * n) + 1) if layers is None else layers))
    wrong = [layer for layer in chosen if not 1 <= layer < n]
    if wrong or not chosen:
        raise NodeError(f"cannot write layers {wrong or chosen}: a control vector holds layers 1 to {n - 1}")
    vectors = directions.of(emotion)
    norms = directions.sigma[1] * math.sqrt(vectors.shape[-1])
    if not bool(norms[chosen].isfinite().all()):
        raise ArtefactError(
            "these directions do not say how large the residual is (sigma is NaN); load them with sigma=, or fit them"
        )
    with artefacts.replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", architecture)
        writer.add_int32(f"{_ARCHITECTURE}.layer_count", len(chosen))
        writer.add_string("general.description", f"{emotion}, {strength} of the residual's mean norm at scale 1")
        for layer in chosen:
            writer.add_tensor(f"direction.{layer}", (strength * norms[layer] * vectors[layer]).float().cpu().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return chosen


def read_control_vector(path: str | Path) -> dict[int, Float[Tensor, " d_model"]]:
    """A control vector's vectors by layer.

    Raises:
        ArtefactError: the package ``gguf`` is missing, or the file is damaged or something else.
    """
    gguf = _package()
    try:
        reader = gguf.GGUFReader(path)
        field = reader.get_field("general.architecture")
        if field is None or field.contents() != _ARCHITECTURE:
            raise ArtefactError(f"{path} is a GGUF file of {field and field.contents()!r}, not a control vector")
        return {
            int(tensor.name.removeprefix("direction.")): torch.tensor(tensor.data).float()
            for tensor in reader.tensors
            if tensor.name.startswith("direction.")
        }
    except ArtefactError:
        raise
    except Exception as error:  # the reader's own errors on cut files are of many kinds
        raise ArtefactError(f"{path} cannot be read as a control vector ({error}); is it complete?") from error


def _package():
    try:
        import gguf
    except ImportError as error:
        raise ArtefactError("control vectors need the package gguf; install it with: pip install gguf") from error
    return gguf
