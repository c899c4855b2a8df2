"""Nodes: the neurons and heads of a model, sets of them, and values on them.

`Node`         one neuron (``"L21N10234"``) or head (``"L18H7"``).
`NodeSet`      any set of nodes, as one boolean mask per kind; ``| & - ~`` and iteration.
`NodeValues`   one number per node, e.g. an attribution score.
`Residual`     the residual stream at a site of some layers: where steering acts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emotion_circuits.errors import NodeError
from emotion_circuits.types import ModelDims, NodeKind, Site, as_site

if TYPE_CHECKING:
    import pandas as pd

_NAME = re.compile(r"L([0-9]+)([NH])([0-9]+)")
_LETTER: dict[NodeKind, str] = {"neuron": "N", "head": "H"}
_KIND: dict[str, NodeKind] = {"N": "neuron", "H": "head"}


@runtime_checkable
class HasDims(Protocol):
    """Anything with the sizes of a model: a `HookedModel`, a `Circuit`, ..."""

    @property
    def dims(self) -> ModelDims: ...


def dims_of(model: HasDims | ModelDims) -> ModelDims:
    """The sizes of ``model``, or ``model`` itself when it already is a `ModelDims`."""
    return model if isinstance(model, ModelDims) else model.dims


@dataclass(frozen=True, order=True)
class Node:
    """One neuron or head. Sorts by layer, then kind, then index; prints as ``L3N10`` or ``L2H1``."""

    layer: int
    kind: NodeKind
    index: int

    @classmethod
    def parse(cls, name: str) -> Node:
        """The node called ``name``.

        Raises:
            NodeError: ``name`` is not ``L<layer>N<neuron>`` or ``L<layer>H<head>``.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise NodeError(f"{name!r} is no node; write a neuron as 'L21N10234' and a head as 'L18H7'")
        return cls(int(match[1]), _KIND[match[2]], int(match[3]))

    def __str__(self) -> str:
        return f"L{self.layer}{_LETTER[self.kind]}{self.index}"


@dataclass(frozen=True, eq=False)
class NodeSet:
    """A set of a model's nodes.

    Attributes:
        neurons: true where the neuron is in the set.
        heads: true where the head is in the set.
    """

    neurons: Bool[Tensor, "layer neuron"]
    heads: Bool[Tensor, "layer head"]

    @classmethod
    def empty(cls, model: HasDims | ModelDims) -> NodeSet:
        """No node of ``model``."""
        dims = dims_of(model)
        return cls(
            torch.zeros(dims.n_layers, dims.d_mlp, dtype=torch.bool),
            torch.zeros(dims.n_layers, dims.n_heads, dtype=torch.bool),
        )

    @classmethod
    def all(cls, model: HasDims | ModelDims) -> NodeSet:
        """Every node of ``model``."""
        return ~cls.empty(model)

    @classmethod
    def of(cls, model: HasDims | ModelDims, *nodes: str | Node) -> NodeSet:
        """The named nodes, e.g. ``NodeSet.of(model, "L3N10", "L2H1")``.

        Raises:
            NodeError: a name is malformed, or lies outside the model.
        """
        dims, result = dims_of(model), cls.empty(model)
        for node in nodes:
            node = Node.parse(node) if isinstance(node, str) else node
            width = dims.d_mlp if node.kind == "neuron" else dims.n_heads
            if not (0 <= node.layer < dims.n_layers and 0 <= node.index < width):
                raise NodeError(
                    f"{node} is outside the model: it has layers 0 to {dims.n_layers - 1}, neurons 0 to "
                    f"{dims.d_mlp - 1} and heads 0 to {dims.n_heads - 1} in each"
                )
            (result.neurons if node.kind == "neuron" else result.heads)[node.layer, node.index] = True
        return result

    @property
    def n_neurons(self) -> int:
        """Neurons in the set."""
        return int(self.neurons.sum())

    @property
    def n_heads(self) -> int:
        """Heads in the set."""
        return int(self.heads.sum())

    def random_like(self, seed: int = 0, *, within: NodeSet | None = None, match_layers: bool = True) -> NodeSet:
        """A uniformly random set with as many neurons and heads in every layer as this one.

        Matching layer by layer is the strict control: where in the model the nodes sit is not what differs.

        Args:
            seed: draws with the same seed are the same set.
            within: draw from these nodes only; all by default.
            match_layers: without it only the totals are matched.

        Raises:
            NodeError: ``within`` has too few nodes, in a layer or in all.
        """
        generator = torch.Generator().manual_seed(seed)

        def draw(mask: Tensor, pool: Tensor) -> Tensor:
            if not match_layers:
                return draw_rows(mask.reshape(1, -1), pool.reshape(1, -1)).view_as(mask)
            return draw_rows(mask, pool)

        def draw_rows(mask: Tensor, pool: Tensor) -> Tensor:
            short = (mask.sum(dim=1) > pool.sum(dim=1)).nonzero().flatten().tolist()
            if short:
                raise NodeError(
                    f"cannot draw {int(mask[short[0]].sum())} nodes in layer {short[0]}: there are only "
                    f"{int(pool[short[0]].sum())} to draw from; give a larger within="
                )
            keys = torch.rand(mask.shape, generator=generator).masked_fill(~pool, -1.0)
            ranks = keys.argsort(dim=1, descending=True).argsort(dim=1)
            return (ranks < mask.sum(dim=1, keepdim=True)) & pool

        pool = self | ~self if within is None else within
        self._check(pool)
        return NodeSet(draw(self.neurons, pool.neurons), draw(self.heads, pool.heads))

    def only(self, kind: NodeKind) -> NodeSet:
        """The nodes of one kind."""
        keep = kind == "neuron"
        return NodeSet(
            self.neurons if keep else torch.zeros_like(self.neurons),
            torch.zeros_like(self.heads) if keep else self.heads,
        )

    def in_layers(self, layers: Iterable[int]) -> NodeSet:
        """The nodes that lie in ``layers``."""
        keep = torch.zeros(len(self.neurons), 1, dtype=torch.bool)
        keep[list(layers)] = True
        return NodeSet(self.neurons & keep, self.heads & keep)

    def mask(self, kind: NodeKind) -> Bool[Tensor, "layer unit"]:
        """The mask of one kind."""
        return self.neurons if kind == "neuron" else self.heads

    def names(self) -> list[str]:
        """The nodes' names, sorted by layer, heads before neurons."""
        return [str(node) for node in self]

    def _check(self, other: NodeSet) -> None:
        if self.neurons.shape != other.neurons.shape or self.heads.shape != other.heads.shape:
            raise NodeError(
                f"the two node sets are of different models: {_shape(self)} and {_shape(other)}; "
                "build both with the same model"
            )

    def __or__(self, other: NodeSet) -> NodeSet:
        self._check(other)
        return NodeSet(self.neurons | other.neurons, self.heads | other.heads)

    def __and__(self, other: NodeSet) -> NodeSet:
        self._check(other)
        return NodeSet(self.neurons & other.neurons, self.heads & other.heads)

    def __sub__(self, other: NodeSet) -> NodeSet:
        self._check(other)
        return NodeSet(self.neurons & ~other.neurons, self.heads & ~other.heads)

    def __invert__(self) -> NodeSet:
        return NodeSet(~self.neurons, ~self.heads)

    def __len__(self) -> int:
        return self.n_neurons + self.n_heads

    def __iter__(self) -> Iterator[Node]:
        pairs = [("head", self.heads), ("neuron", self.neurons)]
        return iter(sorted(Node(int(l), k, int(i)) for k, mask in pairs for l, i in mask.nonzero()))  # type: ignore[arg-type]

    def __contains__(self, node: object) -> bool:
        node = Node.parse(node) if isinstance(node, str) else node
        if not isinstance(node, Node):
            return False
        mask = self.mask(node.kind)
        inside = 0 <= node.layer < mask.shape[0] and 0 <= node.index < mask.shape[1]
        return inside and bool(mask[node.layer, node.index])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, NodeSet)
            and torch.equal(self.neurons, other.neurons)
            and torch.equal(self.heads, other.heads)
        )

    def __hash__(self) -> int:
        return hash((self.n_neurons, self.n_heads, self.neurons.shape))

    def __repr__(self) -> str:
        names = self.names() if len(self) <= 6 else [*self.names()[:5], "..."]
        return f"NodeSet({self.n_neurons} neurons, {self.n_heads} heads: {' '.join(names)})"


def _shape(nodes: NodeSet) -> str:
    (layers, neurons), heads = nodes.neurons.shape, nodes.heads.shape[1]
    return f"{layers} layers x ({neurons} neurons, {heads} heads)"


@dataclass(frozen=True, eq=False)
class NodeValues:
    """One number per node.

    Attributes:
        neurons: value of every neuron.
        heads: value of every head.
    """

    neurons: Float[Tensor, "layer neuron"]
    heads: Float[Tensor, "layer head"]

    def values(self, kind: NodeKind) -> Float[Tensor, "layer unit"]:
        """The values of one kind."""
        return self.neurons if kind == "neuron" else self.heads

    def top(self, n: int, kind: NodeKind | None = None, *, magnitude: bool = False) -> NodeSet:
        """The ``n`` nodes with the largest value.

        Args:
            n: how many; more than there are gives all.
            kind: rank only neurons or only heads; both together by default, which is meaningful when their values
                share a unit.
            magnitude: rank by absolute value.
        """
        neurons = self.neurons.abs() if magnitude else self.neurons
        heads = self.heads.abs() if magnitude else self.heads
        flat = torch.cat([neurons.flatten(), heads.flatten()]).double()
        if kind is not None:
            hidden = slice(neurons.numel(), None) if kind == "neuron" else slice(0, neurons.numel())
            flat[hidden] = -torch.inf
        n = min(n, int((flat > -torch.inf).sum()))
        # A stable sort makes ties fall to the lower layer and index on every machine.
        chosen = flat.argsort(descending=True, stable=True)[:n]
        mask = torch.zeros(len(flat), dtype=torch.bool)
        mask[chosen] = True
        return NodeSet(mask[: neurons.numel()].view_as(neurons), mask[neurons.numel() :].view_as(heads))

    def to_frame(self, *, top: int | None = None) -> pd.DataFrame:
        """One row per node: ``node, kind, layer, index, value``, largest first; ``top`` keeps that many per kind."""
        import pandas as pd

        frames = []
        for kind in ("head", "neuron"):
            values = self.values(kind).float()  # type: ignore[arg-type]
            n = values.numel() if top is None else min(top, values.numel())
            order = values.flatten().argsort(descending=True, stable=True)[:n]
            layer, index = order // values.shape[1], order % values.shape[1]
            names = [f"L{l}{_LETTER[kind]}{i}" for l, i in zip(layer.tolist(), index.tolist(), strict=True)]  # type: ignore[index]
            columns = {
                "node": names, "kind": kind, "layer": layer.tolist(), "index": index.tolist(),
                "value": values.flatten()[order].tolist(),
            }  # fmt: skip
            frames.append(pd.DataFrame(columns))
        # A kind of which the model has none would turn whole numbers into floating ones.
        table = pd.concat(frames, ignore_index=True).astype({"layer": int, "index": int, "value": float})
        return table.sort_values("value", ascending=False, kind="stable", ignore_index=True)


@dataclass(frozen=True)
class Residual:
    """The residual stream after some layers' sublayers: where `Steering` and `ProjectOut` act.

    Attributes:
        layers: the layers.
        site: ``"resid_post"`` (after the MLP) or ``"resid_mid"`` (after attention).
    """

    layers: tuple[int, ...]
    site: Site = "resid_post"

    @classmethod
    def of(cls, model: HasDims | ModelDims, *layers: int, site: str = "resid_post") -> Residual:
        """The residual at ``layers`` of ``model``; negative layers count from the end; none given means all.

        Raises:
            NodeError: the model has no such layer, or the site is not in the residual stream.
        """
        if as_site(site) in ("neuron", "head"):
            raise NodeError(f"site {site!r} is not in the residual stream; name its nodes with NodeSet.of(model, ...)")
        n_layers = dims_of(model).n_layers
        for layer in layers:
            if not -n_layers <= layer < n_layers:
                raise NodeError(f"layer {layer} is outside the model, which has layers 0 to {n_layers - 1}")
        chosen = tuple(sorted({layer % n_layers for layer in layers})) if layers else tuple(range(n_layers))
        return cls(chosen, as_site(site))
