"""Does what an intervention holds fit the model? Asked before anything runs, by `check` of an intervention.

Activations, recorded samples and directions are indexed by layer and unit inside the forward pass. One of another
shape would act on the wrong layer or unit there, or fail with a message about tensors; so their shapes are compared
with the model's exactly, and the numbers of the layers in use looked at once per set of hooks, not once per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from emotion_circuits.activations import Activations
from emotion_circuits.errors import NodeError, PatchError
from emotion_circuits.types import ModelDims, Site

FIELD: dict[str, str] = {"neuron": "neurons", "head": "heads"}
"""Where `Activations` hold a site, if not under its own name."""

UNIT_TOLERANCE = 0.01
"""How far a direction's length may be from 1; the rounding of bfloat16 is a third of it."""


@runtime_checkable
class Checked(Protocol):
    """An intervention that can say beforehand whether it fits a model; `Intervention` does not ask for it."""

    def check(self, dims: ModelDims, site: Site, layers: Sequence[int]) -> None:
        """Raise a `PatchError` unless what is held fits the model.

        Args:
            dims: the model's sizes.
            site: where it will act.
            layers: in which layers.
        """
        ...


def check_fit(intervention: Any, dims: ModelDims, site: Site, layers: Sequence[int]) -> None:
    """Ask the intervention, if it can be asked.

    Raises:
        PatchError: it does not fit the model.
        NodeError: it holds nothing at this site.
    """
    if isinstance(intervention, Checked) and len(layers):
        intervention.check(dims, site, layers)


def check_activations(name: str, held: Activations, dims: ModelDims, site: Site, layers: Sequence[int]) -> None:
    """Whether ``held`` has finite numbers for every unit of the site."""
    values = getattr(held, FIELD.get(site, site), None)
    if values is None:
        raise NodeError(f"these activations hold nothing at site {site!r}; measure that site first")
    expected = (dims.n_layers, *dims.unit_shape(site))
    if tuple(values.shape) != expected:
        raise PatchError(
            f"{name} holds {site} activations of shape {tuple(values.shape)}, but this model has {expected}, the "
            "layers first; measure them on this model, in all of its layers"
        )
    _check_finite(name, values, layers)


def check_samples(name: str, held: Tensor | None, dims: ModelDims, site: Site) -> None:
    """Whether recorded samples have every unit of the site; they are many, so their numbers are not looked at."""
    if held is None:
        raise PatchError(f"no {site} activations were recorded to exchange; record that site as well")
    expected = (dims.n_layers, *dims.unit_shape(site))
    if held.ndim != len(expected) + 1 or (held.shape[0], *held.shape[2:]) != expected:
        units = ", ".join(map(str, expected[1:]))
        raise PatchError(
            f"{name} holds {site} samples of shape {tuple(held.shape)}, but this model needs ({expected[0]}, n, "
            f"{units}); record all of its layers: model.record(prompts, {site!r})"
        )


def check_directions(name: str, vectors: Tensor, dims: ModelDims, layers: Sequence[int]) -> None:
    """Whether there is a unit vector for every layer in use."""
    expected = (dims.n_layers, dims.d_model)
    if tuple(vectors.shape) != expected:
        raise PatchError(
            f"{name} holds vectors of shape {tuple(vectors.shape)}, but this model has (layers, d_model) = {expected}; "
            "give one vector for each of its layers, e.g. directions.of(emotion), or vector.expand(n_layers, -1)"
        )
    _check_finite(name, vectors, layers)
    lengths = vectors[list(layers)].float().norm(dim=-1)
    wrong = ((lengths - 1).abs() > UNIT_TOLERANCE).nonzero().flatten().tolist()
    if wrong:
        length = float(lengths[wrong[0]])
        advice = "scale it with torch.nn.functional.normalize(vectors, dim=-1), or add it as it is with Enhancement"
        if not length:
            advice = "it points nowhere, like the directions of a single emotion; fit several emotions"
        raise PatchError(
            f"{name} needs unit vectors, but that of layer {layers[wrong[0]]} has length {length:.4g}; {advice}"
        )


def _check_finite(name: str, values: Tensor, layers: Sequence[int]) -> None:
    used = values[torch.as_tensor(list(layers), device=values.device)]
    finite = torch.isfinite(used).flatten(1).all(dim=1)
    if not bool(finite.all()):
        layer = layers[int((~finite).nonzero()[0])]
        raise PatchError(
            f"{name} holds numbers that are not finite (NaN or infinite) in layer {layer}; measure them anew, in a "
            "dtype with a wider range if the model overflows (bfloat16 or float32 for float16)"
        )
