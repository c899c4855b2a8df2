"""`Attribution`: what a method found, one number per node, and how it spreads over nodes and samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import artefacts
from emotion_circuits.activations import Activations, Contrast
from emotion_circuits.checked import build, parts
from emotion_circuits.directions.quality import flag_note
from emotion_circuits.errors import EmotionError, NodeError
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.types import KINDS, ModelDims, NodeKind

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores of one target.

    Attributes:
        values: the score that ranks nodes; mean over samples.
        method: the method's name.
        emotion: the target's emotion.
        n_samples: samples averaged over.
        dims: sizes of the model.
        kinds: kinds of node that were scored; the others' values are zero.
        std: standard deviation over samples.
        positive: mean of the positive part.
        negative: mean of the negative part; ``positive + negative = mean``.
        beta: what a unit of activation writes along the target, for neurons (``W_down . v``).
        centred: the score with group-centred activations (the emotion's mean minus the mean over emotions).
        means: mean activations over all prompts given, to ablate with.
        contrast: the emotion's activations at the last prompt token minus the mean over emotions.
        scored: the nodes that were scored, where it is not all of ``kinds``.
        provenance: model, data and settings.
        flags: why the target's direction is not to be trusted, if it failed a test of its own reliability.
    """

    values: NodeValues
    method: str
    emotion: str | None
    n_samples: int
    dims: ModelDims
    kinds: tuple[NodeKind, ...] = KINDS
    std: NodeValues | None = None
    positive: NodeValues | None = None
    negative: NodeValues | None = None
    beta: Float[Tensor, "layer neuron"] | None = None
    centred: NodeValues | None = None
    means: Activations | None = None
    contrast: Contrast | None = None
    scored: NodeSet | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    def top(self, n: int, kind: NodeKind | None = None) -> NodeSet:
        """The ``n`` nodes with the highest score; of one kind, or of all that were scored."""
        if kind is None and len(self.kinds) == 1:
            kind = self.kinds[0]
        return (self.values if self.scored is None else self.ranking).top(n, kind)

    @property
    def ranking(self) -> NodeValues:
        """The scores, minus infinity where a node was not scored: its zero would beat every negative score."""
        nodes = self.nodes
        return NodeValues(*(self.values.values(kind).masked_fill(~nodes.mask(kind), -torch.inf) for kind in KINDS))

    @property
    def nodes(self) -> NodeSet:
        """The nodes that were scored."""
        every = NodeSet.all(self.dims) if self.scored is None else self.scored
        return every if len(self.kinds) == len(KINDS) else every.only(self.kinds[0])

    def to_frame(self, *, top: int | None = None) -> pd.DataFrame:
        """One row per node, highest first: ``node, kind, layer, index, value``, and ``std`` where it is known."""
        import pandas as pd

        table = self.values.to_frame(top=top if self.scored is None else None)
        table = table.query("kind in @kinds", local_dict={"kinds": self.kinds}).reset_index(drop=True)
        if self.scored is not None:
            pick = [
                bool(self.scored.mask(k)[l, i])
                for k, l, i in zip(table["kind"], table["layer"], table["index"], strict=True)
            ]
            table = table.loc[pick]
            table = table.loc[table.groupby("kind").cumcount() < (len(table) if top is None else top)]
            table = table.reset_index(drop=True)
        if self.std is not None:
            std = self.std
            pick = [
                float(std.values(k)[l, i])
                for k, l, i in zip(table["kind"], table["layer"], table["index"], strict=True)
            ]
            table["std"] = pd.Series(pick, dtype=float)
        return table

    def concentration(self, kind: NodeKind = "neuron") -> Concentration:
        """How few of the scored nodes hold how much of the positive score (method.md, stage 4).

        Raises:
            NodeError: nodes of this kind were not scored.
        """
        inside = self.nodes.mask(kind)
        if not bool(inside.any()):
            raise NodeError(f"{self.method} scored no {kind}s; ask for the concentration of {self.kinds[0]}s")
        return Concentration.of(self.values.values(kind)[inside])

    def with_heads(self, other: Attribution) -> Attribution:
        """These neurons' scores with ``other``'s head scores, e.g. `HeadImportance` beside `DirectAttribution`.

        Raises:
            EmotionError: the two are of different emotions.
            NodeError: ``other`` scored no heads, or a model of another shape.
        """
        self._check_joins(other)

        def mixed(mine: NodeValues | None, theirs: NodeValues | None) -> NodeValues | None:
            return None if mine is None or theirs is None else NodeValues(mine.neurons, theirs.heads)

        return replace(
            self,
            values=NodeValues(self.values.neurons, other.values.heads),
            method=f"{self.method} + {other.method}",
            kinds=tuple(kind for kind in KINDS if kind == "head" or kind in self.kinds),
            std=mixed(self.std, other.std),
            positive=mixed(self.positive, other.positive),
            negative=mixed(self.negative, other.negative),
            centred=None,
            scored=self._scored_with_heads(other),
            flags=tuple(dict.fromkeys((*self.flags, *other.flags))),
        )

    def _check_joins(self, other: Attribution) -> None:
        if other.emotion != self.emotion:
            raise EmotionError(
                f"scores for {self.emotion} were joined with head scores for {other.emotion}; attribute the same "
                "target by both methods"
            )
        if other.dims != self.dims:
            raise NodeError(f"scores of a model with {self.dims} were joined with those of one with {other.dims}")
        if "head" not in other.kinds:
            raise NodeError(f"{other.method} scored no heads; join scores of heads, e.g. those of HeadImportance()")

    def _scored_with_heads(self, other: Attribution) -> NodeSet | None:
        if self.scored is None and other.scored is None:
            return None
        return self.nodes.only("neuron") | other.nodes.only("head")

    def save(self, path: str | Path) -> None:
        """Write one file, tensors and provenance."""
        tensors: dict[str, Tensor | None] = {"beta": self.beta}
        if self.scored is not None:
            tensors |= {f"scored.{kind}": self.scored.mask(kind) for kind in KINDS}
        for name in _VALUES:
            held: NodeValues | None = getattr(self, name)
            tensors |= {f"{name}.{kind}": None if held is None else held.values(kind) for kind in KINDS}
        tensors |= _flat("means", self.means)
        if self.contrast is not None:
            tensors |= _flat("contrast", self.contrast.prompt)
        meta = {
            "method": self.method, "emotion": self.emotion, "n_samples": self.n_samples, "kinds": self.kinds,
            "dims": vars(self.dims), "provenance": dict(self.provenance), "flags": self.flags,
        }  # fmt: skip
        artefacts.save(path, "attribution", tensors, meta)

    @classmethod
    def load(cls, path: str | Path) -> Attribution:
        """Read what `save` wrote.

        Raises:
            ArtefactError: the file is damaged or something else.
        """
        tensors, meta = artefacts.load(path, "attribution")
        kept = {k: artefacts.field(meta, k, path) for k in ("method", "emotion", "n_samples", "kinds", "provenance")}
        dims = build(ModelDims, path, artefacts.field(meta, "dims", path))
        sizes = {"layer": dims.n_layers, "neuron": dims.d_mlp, "head": dims.n_heads}

        def made(kind: type, name: str) -> Any:
            held = parts(name, tensors)
            plural = {"neuron": "neurons", "head": "heads"}
            return build(kind, path, {plural.get(n, n): value for n, value in held.items()}, **sizes) if held else None

        values = {name: made(NodeValues, name) for name in _VALUES}
        contrast, emotion = made(Activations, "contrast"), kept["emotion"] or ""
        held = {
            "dims": dims, "beta": tensors.get("beta"), "means": made(Activations, "means"),
            "scored": made(NodeSet, "scored"), "flags": meta.get("flags", ()),  # files of earlier versions have none
            "contrast": contrast and build(
                Contrast, path, {"emotion": emotion, "baseline": "emotions", "prompt": contrast}
            ),
        }  # fmt: skip
        return build(cls, path, {**kept, **values, **held}, **sizes)

    def __repr__(self) -> str:
        best = ", ".join(f"{node}" for node in list(self.top(3)))
        what = f"{self.method} for {self.emotion}: {self.n_samples} samples, among the top {best}"
        return f"Attribution({what}{flag_note(self.flags)})"


_VALUES = ("values", "std", "positive", "negative", "centred")


def _flat(name: str, held: Activations | None) -> dict[str, Tensor | None]:
    return {} if held is None else {f"{name}.neurons": held.neurons, f"{name}.heads": held.heads}


@dataclass(frozen=True, eq=False)
class Concentration:
    """How unevenly positive scores are spread.

    Attributes:
        top_1_percent: share of the positive total held by the top 1 % of nodes.
        gini: Gini coefficient of the positive scores; 0 is even, 1 is one node alone.
        n_for: number of nodes that hold 50, 80 and 95 % of the positive total.
        curve: cumulative share, nodes sorted by score.
    """

    top_1_percent: float
    gini: float
    n_for: dict[int, int]
    curve: Float[Tensor, " node"]

    @classmethod
    def of(cls, values: Float[Tensor, "..."]) -> Concentration:
        """The concentration of some scores; negative ones count as zero."""
        held = values.flatten().double().clamp(min=0).sort(descending=True).values
        total = held.sum().clamp(min=1e-30)
        curve = held.cumsum(0) / total
        n = len(held)
        ascending = held.flip(0)
        ranks = torch.arange(1, n + 1, dtype=torch.float64)
        gini = float((2 * ranks - n - 1) @ ascending / (n * total))
        n_for = {share: min(n, int((curve < share / 100 - 1e-12).sum()) + 1) for share in (50, 80, 95)}
        return cls(float(curve[max(1, round(n / 100)) - 1]), gini, n_for, curve.float())
