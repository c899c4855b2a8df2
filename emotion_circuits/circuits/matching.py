"""Matching: may a circuit be attached to a model?

A circuit names neurons and heads by number; in another model the same numbers are other nodes, and nothing would fail.
So a model must have the circuit's sizes, and, as far as the circuit's provenance knows, be the model that it was found
in: the same weights (`emotion_circuits.model.fingerprint`), or where no fingerprint was kept the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from emotion_circuits.errors import ArtefactError
from emotion_circuits.model import HookedModel
from emotion_circuits.types import ModelDims

IDENTITY = ("model", "revision", "weights")
"""Entries of a provenance that say which model it was."""


def check_match(
    dims: ModelDims, provenance: Mapping[str, Any], model: HookedModel, what: str, *, allow_mismatch: bool = False
) -> None:
    """Raise an `ArtefactError` unless a circuit belongs to ``model``.

    Args:
        dims: the circuit's sizes.
        provenance: the circuit's.
        model: the model.
        what: what the message calls the circuit.
        allow_mismatch: accept other weights and another name; sizes must still be equal.
    """
    held = provenance.get("model", "another model")
    if model.dims != dims:
        raise ArtefactError(f"{what} is a circuit of {held} ({dims}), which does not fit this model ({model.dims})")
    reason = None if allow_mismatch else _difference(provenance, model)
    if reason:
        raise ArtefactError(
            f"{what} is a circuit of {_named(held, provenance.get('revision'))}, and this model is "
            f"{_named(model.name, model.revision)}: {reason}. Load the model that it was found in, or pass "
            "allow_mismatch=True if you know that its nodes mean the same"
        )


def _difference(provenance: Mapping[str, Any], model: HookedModel) -> str | None:
    known, mine = provenance.get("weights"), model.fingerprint()
    if known is not None and mine is not None:
        return None if known == mine else f"the sizes are equal, the weights are not (fingerprints {known}, {mine})"
    name = provenance.get("model")
    if name is not None and PurePath(name).name.lower() != PurePath(model.name).name.lower():
        return "the sizes are equal, the names are not, and there is no fingerprint of the weights to go by"
    return None


def _named(model: Any, revision: Any) -> str:
    return f"{model} at {revision}" if revision else str(model)
