"""A model's sizes, as far as its cost depends on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from emotion_circuits.errors import ModelError
from emotion_circuits.types import ModelDims

LARGEST = 10**9
"""No size of a model comes near it, and products of such sizes are still numbers that can be computed with."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a dense decoder.

    Attributes:
        name: of the model.
        dims: its sizes.
        tied: whether embedding and unembedding are one matrix.
        gated: whether its MLPs have a gate, and so three matrices.
    """

    name: str
    dims: ModelDims
    tied: bool = False
    gated: bool = True

    @property
    def layer(self) -> int:
        """Parameters of one layer's matrices, which every token is multiplied with."""
        d = self.dims
        attention = 2 * d.d_model * d.d_head * (d.n_heads + d.n_key_value_heads)
        return attention + (3 if self.gated else 2) * d.d_model * d.d_mlp

    @property
    def body(self) -> int:
        """Parameters of all layers' matrices."""
        return self.dims.n_layers * self.layer

    @property
    def unembedding(self) -> int:
        """Parameters of the unembedding."""
        return self.dims.d_vocab * self.dims.d_model

    @property
    def parameters(self) -> int:
        """Parameters, apart from biases and norms."""
        return self.body + (1 if self.tied else 2) * self.unembedding

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> ModelShape:
        """From the entries of a ``config.json``.

        Raises:
            ModelError: sizes are missing or none, or the MLPs are mixtures of experts.
        """
        text = config if config.get("text_config") is None else config["text_config"]
        if not isinstance(text, Mapping):
            raise ModelError(
                f"the configuration of {name} has a {type(text).__name__} as its text_config instead of the "
                "text model's sizes; is it a model's config.json?"
            )
        if any(text.get(field) for field in ("num_experts", "num_local_experts", "n_routed_experts")):
            raise ModelError(f"{name} has mixtures of experts, for which there is no cost model; plan a dense model")
        heads, d_model = _size(name, text, "num_attention_heads"), _size(name, text, "hidden_size")
        dims = ModelDims(
            _size(name, text, "num_hidden_layers"), heads, _size(name, text, "num_key_value_heads", heads), d_model,
            _size(name, text, "head_dim", d_model // heads), _size(name, text, "intermediate_size"),
            _size(name, text, "vocab_size"),
        )  # fmt: skip
        gated = text.get("model_type") not in ("gpt_neox", "opt", "phi", "starcoder2")
        return cls(name, dims, bool(text.get("tie_word_embeddings", False)), gated)


def shape_of(model: str | Path) -> ModelShape:
    """The shape of a model by name: the demo model, a folder or ``config.json``, a known name, or one on the hub.

    Raises:
        ModelError: no configuration can be had.
    """
    path, name = Path(model), str(model)
    if name == "demo":
        from emotion_circuits.demo import MODEL_FOLDER

        path = Path(MODEL_FOLDER)
    path = path / "config.json" if path.is_dir() else path
    if path.is_file():
        return ModelShape.from_config(name, _read(path))
    known, base = _known(), name.removesuffix("-Instruct")
    if base in known:
        return replace(known[base], name=name)
    return ModelShape.from_config(name, _from_hub(name, list(known)))


def _known() -> dict[str, ModelShape]:
    import yaml

    table = yaml.safe_load(files("emotion_circuits.planning").joinpath("shapes.yaml").read_text(encoding="utf-8"))
    return {name: ModelShape(name, ModelDims(*sizes), tied) for name, (*sizes, tied) in table.items()}


def _size(name: str, text: Mapping[str, Any], field: str, default: int | None = None) -> int:
    """One of the sizes; ``default`` stands in where the configuration leaves it open."""
    size = text.get(field)
    size = default if size is None else size
    if size is None:
        raise ModelError(f"the configuration of {name} lacks a size that the cost depends on ({field!r})")
    if type(size) is not int or not 0 < size <= LARGEST:
        raise ModelError(
            f"the configuration of {name} has {str(size)[:40]!r} as its {field}, which is no size: expected a whole "
            f"number from 1 to {LARGEST:,}"
        )
    return size


def _read(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as a configuration ({error})") from error
    if not isinstance(held, dict):
        raise ModelError(f"{path} holds a {type(held).__name__} instead of a model's configuration")
    return held


def _from_hub(name: str, known: list[str]) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        # Without the argument transformers asks at a terminal whether the repository's code may run.
        return AutoConfig.from_pretrained(name, trust_remote_code=False).to_dict()
    except Exception as error:  # transformers and huggingface_hub each raise their own
        raise ModelError(
            f"no configuration of {name!r} is at hand, and the hub gives none; give a folder or a config.json, or one "
            f"of {', '.join(known)}"
        ) from error
