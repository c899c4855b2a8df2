"""The reference study's released circuits, ``global_circuit/{emotion}.json`` (method.md, stage 6).

The layout, as released: an object with ``emotion`` and ``layers``, a list with one object per layer:

``layer``      its number
``mlp``        ``{"k": 4, "neurons": [5546, ...]}``, the best first
``attention``  ``{"k": 2, "heads": [12, ...]}``, the best first

Other entries (``K_total``, ``min_per_layer``, ``cap_ratio`` ...) are settings; they are kept in the provenance. The
files hold no scores: heads get those of the head ranking where that is given, all others are NaN.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from emotion_circuits.activations import Contrast
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.errors import ArtefactError
from emotion_circuits.interop.paper import LLAMA_3_2_3B, load_head_ranking, load_influence
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.types import ModelDims, NodeKind

MODEL = "meta-llama/Llama-3.2-3B-Instruct"
_PLACES: tuple[tuple[NodeKind, str, str], ...] = (("neuron", "mlp", "neurons"), ("head", "attention", "heads"))


def load_global_circuit(
    path: str | Path,
    ranking: str | Path | None = None,
    table: str | Path | None = None,
    contrast: Contrast | None = None,
    dims: ModelDims = LLAMA_3_2_3B,
) -> Circuit:
    """A released circuit: drawn, compared and run as any other.

    Args:
        path: ``global_circuit/{emotion}.json``.
        ranking: the head ranking (CSV), for the heads' scores.
        table: the circuit table (CSV), for the sublayers' influence.
        contrast: what `Enhancement` adds, see `emotion_circuits.interop.paper.load_differences`.
        dims: sizes of the model.

    Raises:
        ArtefactError: the file is damaged, of another layout, or of another model.
    """
    content = _content(path)
    emotion, nodes = str(content["emotion"]), NodeSet.empty(dims)
    for number, entry in enumerate(content["layers"]):
        _put(nodes, entry, f"{path}, layers[{number}]")
    if not len(nodes):
        raise ArtefactError(f"{path} has no nodes in its {len(content['layers'])} layers")
    unknown = NodeValues(
        torch.full((dims.n_layers, dims.d_mlp), torch.nan), torch.full((dims.n_layers, dims.n_heads), torch.nan)
    )
    scores = unknown
    if ranking is not None:
        scores = NodeValues(unknown.neurons, load_head_ranking(ranking, emotion, dims).values.heads)
    return Circuit(
        emotion, nodes, dims, scores, None if table is None else load_influence(table, emotion).of(emotion), contrast,
        {
            "source": "Wang et al., arXiv 2510.11328, released files", "file": Path(path).name, "model": MODEL,
            "settings": {name: value for name, value in content.items() if name not in ("emotion", "layers")},
        },
    )  # fmt: skip


def _content(path: str | Path) -> Mapping[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} cannot be read as JSON ({error}); is it complete?") from error
    if not isinstance(content, dict) or not isinstance(content.get("layers"), list) or "emotion" not in content:
        found = ", ".join(sorted(map(str, content))[:20]) if isinstance(content, dict) else type(content).__name__
        raise ArtefactError(
            f"{path} is no released circuit: expected an object with 'emotion' and a list 'layers', found {found}"
        )
    return content


def _put(nodes: NodeSet, entry: Any, where: str) -> None:
    """Add one layer's nodes."""
    try:
        layer = entry["layer"]
        for kind, sublayer, name in _PLACES:
            mask, units = nodes.mask(kind), entry[sublayer][name]
            wrong = [u for u in units if type(u) is not int or not 0 <= u < mask.shape[1]]
            if type(layer) is not int or not 0 <= layer < len(mask) or wrong:
                given = f"{name} {wrong[:3]}" if wrong else f"layer {layer!r}"
                raise ArtefactError(
                    f"{where}: {given} is not in the model, which has layers 0 to {len(mask) - 1} with "
                    f"{mask.shape[1]} {name} each; is it a circuit of another model?"
                )
            if len(set(units)) != entry[sublayer].get("k", len(units)):
                raise ArtefactError(f"{where}: {len(set(units))} {name}, but k is {entry[sublayer]['k']}")
            mask[layer, units] = True
    except (KeyError, TypeError, AttributeError) as error:
        found = ", ".join(sorted(map(str, entry))) if isinstance(entry, dict) else repr(entry)[:80]
        raise ArtefactError(
            f"{where}: expected layer, mlp with k and neurons, attention with k and heads; found {found}"
        ) from error
