"""What it means to intervene: an `Intervention` says WHAT, a `Patch` adds WHERE.

1. A patch names nodes (or residual sites), positions and, in a batch, rows.
2. The model calls the intervention with the activations of exactly those nodes at every token of the call, and a
   `Where` that tells which site, layer, units, tokens and samples they are.
3. What the intervention returns takes their place at the tokens that the patch names.

A new intervention is a frozen dataclass with ``acts_on`` and ``__call__``, in a file of its own. One that holds
tensors also has ``check``, which is asked before anything runs whether they fit the model (see `fit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emotion_circuits.activations import Activations
from emotion_circuits.errors import PatchError
from emotion_circuits.nodes import NodeSet, Residual
from emotion_circuits.types import Position, Site, as_position

Place = Literal["nodes", "residual"]


@dataclass
class Where:
    """Which activations an intervention is looking at.

    Attributes:
        site: the site.
        layer: the layer.
        units: indices of the selected neurons or heads within the layer; None for a residual.
        generated: for each token whether it was generated; a plain bool when all tokens agree.
        samples: for each row of the batch, its index in the list of prompts that the caller gave.
        step: for each token which token of the reply it makes: 0 at the last prompt token (and before it), 1 at the
            first generated token, and so on; a plain int when all tokens agree.
    """

    site: Site
    layer: int
    units: Int[Tensor, " node"] | None
    generated: bool | Bool[Tensor, "batch pos"] = False
    samples: Int[Tensor, " batch"] | None = None
    step: int | Int[Tensor, "batch pos"] = 0
    _cache: dict = field(default_factory=dict, repr=False)

    def take(self, activations: Activations, like: Tensor) -> Float[Tensor, "..."]:
        """The selected units' part of ``activations`` at this place, on ``like``'s device and dtype."""
        key = (id(activations), like.device, like.dtype)
        if key not in self._cache:
            self._cache[key] = (activations, self.select(activations.at(self.site, self.layer), like))
        return self._cache[key][1]

    def select(self, values: Tensor, like: Tensor) -> Tensor:
        """The selected units of one layer's values (units first), on ``like``'s device and dtype."""
        values = values if self.units is None else values[self.units.to(values.device)]
        return values.to(device=like.device, dtype=like.dtype)

    def by_phase(self, prompt: Tensor, reply: Tensor) -> Tensor:
        """``reply`` at generated tokens and ``prompt`` at all others, broadcastable to the activations."""
        if isinstance(self.generated, bool):
            return reply if self.generated else prompt
        generated = self.generated.view(*self.generated.shape, *[1] * prompt.ndim).to(prompt.device)
        return torch.where(generated, reply, prompt)


@runtime_checkable
class Intervention(Protocol):
    """What to do with activations; see the module's docstring."""

    acts_on: ClassVar[tuple[Place, ...]]

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        """The activations that take the place of ``activation``.

        Args:
            activation: ``[batch, pos, node]`` for neurons, ``[batch, pos, node, d_head]`` for heads and
                ``[batch, pos, d_model]`` for a residual. Must not be changed in place.
            where: which ones these are.
        """
        ...


@dataclass(frozen=True, eq=False)
class Patch:
    """An intervention at a place.

    Attributes:
        nodes: the neurons and heads, or the residual sites, that are changed.
        intervention: what is done to them.
        positions: at which tokens: a `Position`, or a mask (true = act) with one row per sample, whose last column
            is the prompt's last token, as in a left-padded batch. The meaning does not depend on whether keys and
            values are cached.
        rows: act on these samples only, by their index in the list of prompts; all of them by default. Give
            several patches to act differently on different samples.
    """

    nodes: NodeSet | Residual
    intervention: Intervention
    positions: Position | Bool[Tensor, "sample pos"] = "last"
    rows: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.positions, Tensor):
            as_position(self.positions)
        place: Place = "residual" if isinstance(self.nodes, Residual) else "nodes"
        if place not in self.intervention.acts_on:
            raise PatchError(
                f"{type(self.intervention).__name__} acts on {' and '.join(self.intervention.acts_on)}, "
                f"but was given {type(self.nodes).__name__}; "
                + ("use Residual.of(model, ...)" if place == "nodes" else "use NodeSet.of(model, ...)")
            )

    def on(self, rows: Sequence[int]) -> Patch:
        """The same patch, acting on these samples only."""
        return replace(self, rows=tuple(rows))

    def among(self, start: int, n: int) -> Patch:
        """The same patch for ``n`` prompts that stand at place ``start`` of a longer list."""
        return self.on([start + row for row in (range(n) if self.rows is None else self.rows)])
