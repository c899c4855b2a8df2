r"""Direct attribution: what each node writes along a target, in closed form (method.md, stage 4).

One forward pass per sample gives every neuron and every head for every target:

neurons  :math:`c_{l,n} = a_{l,n}\,(W^{down}_{l,n} \cdot v_{l})` with v the direction after the MLP
heads    :math:`c_{l,h} = (z_{l,h} W^O_{l,h}) \cdot v_{l}`        with v the direction after attention

Since :math:`W \cdot v` is constant, mean, spread and positive part of c follow from those of the activations, so
running sums of a, relu(a) and a squared serve all targets at once.

Where the model norms what a sublayer writes (Gemma 2 and 3), a stands for :math:`a / \mathrm{rms}` of that write and
W for its product with the norm's weight (`emotion_circuits.model.writes`), so that the scores of all nodes still sum
to what was added; activations (``means``, ``contrast``) are kept as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import distributed
from emotion_circuits.activations import Activations, Contrast
from emotion_circuits.attribution.edits import below
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.attribution.sums import some_prompts
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.directions.statistics import complete_groups
from emotion_circuits.errors import DataError, EmotionCircuitsError
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.recording import record_batch
from emotion_circuits.model.writes import SUBLAYER_OF, unit_writes, write_scale
from emotion_circuits.nodes import NodeValues
from emotion_circuits.progress import progress
from emotion_circuits.provenance import provenance
from emotion_circuits.targets import Target, samples_of, stacked_local
from emotion_circuits.types import NodeKind

Label = tuple[str | None, bool]
"""A prompt's emotion, and whether its group has every emotion."""


@dataclass(frozen=True)
class DirectAttribution:
    """Each node's write along the target.

    Attributes:
        centred: rank by the group-centred score instead of the plain mean, which removes what a node writes under
            every emotion alike. Needs scenarios whose prompts ask for every emotion (complete groups).
    """

    centred: bool = False
    name: str = "direct attribution"

    @torch.no_grad()
    def __call__(
        self, model: HookedModel, prompts: object, targets: Mapping[str, Target], batch_size: int | None = None
    ) -> dict[str, Attribution]:
        """Scores of every target from one pass over the prompts; nodes above a target's readout are not scored.

        Raises:
            DataError: there are no prompts, or ``centred`` scores were asked for and no group is complete.
        """
        asked = some_prompts(prompts)
        labels = _labels(asked)
        for target in targets.values() if self.centred else ():
            _check_groups(target, labels)
        rows = {name: samples_of(target, asked) for name, target in targets.items()}
        sums = _Sums(model, targets)

        def reduce(batch: TokenBatch) -> dict[Label, _Sum]:
            values = record_batch(model, batch, ("neuron", "head"))
            return sums.of([labels[i] for i in batch.samples.tolist()], values["neuron"], values["head"])

        with progress("attribute", len(asked), shared=True) as advance:
            for batch, parts in model.run_batches(asked, reduce, batch_size, stage="attribute", shared=True):
                sums.add(parts)
                advance(len(batch))
        sums.put_together(labels)
        source = provenance(model, asked, method=self.name, centred=self.centred)
        mine = {name: dict.fromkeys(labels[i] for i in held) for name, held in rows.items()}
        return {name: self._result(sums, target, mine[name], source) for name, target in targets.items()}

    def _result(self, sums: _Sums, target: Target, chosen: Iterable[Label], source: dict) -> Attribution:
        mine = _total(sums.by_label[label] for label in chosen)
        beta = sums.beta[id(target)]
        a, positive_a, squares = mine.written / mine.n, mine.written_positive / mine.n, mine.written_squares / mine.n
        neurons = a * beta
        positive = torch.where(beta > 0, positive_a * beta, (a - positive_a) * beta)
        index = sums.targets.index(target)
        heads, head_positive = mine.head_value[index] / mine.n, mine.head_positive[index] / mine.n
        head_squares = mine.head_squares[index] / mine.n
        values = NodeValues(neurons.float(), heads.float())
        reached = below(sums.dims, target.readout)
        contrast = sums.contrast(target.emotion)
        centred = None
        if contrast is not None:
            centred_a = sums.centred(target.emotion, lambda held: held.written)
            heads_centred = sums.centred(target.emotion, lambda held: held.head_value[index])
            centred = NodeValues((centred_a * beta).float(), heads_centred.float())
        return Attribution(
            values=centred if self.centred and centred is not None else values,
            method=self.name + (", centred" if self.centred else ""),
            emotion=target.emotion,
            n_samples=mine.n,
            dims=sums.dims,
            std=NodeValues(_std(squares, a, beta.abs()), _std(head_squares, heads, 1.0)),
            positive=NodeValues(positive.float(), head_positive.float()),
            negative=NodeValues((neurons - positive).float(), (heads - head_positive).float()),
            beta=beta.float(),
            centred=centred,
            means=sums.means,
            contrast=contrast,
            scored=None if len(reached) == sums.dims.n_nodes else reached,
            provenance=source,
        )


@dataclass
class _Sum:
    """Running sums over the samples of one label."""

    n: int
    neuron: Float[Tensor, "layer neuron"]
    written: Float[Tensor, "layer neuron"]
    written_positive: Float[Tensor, "layer neuron"]
    written_squares: Float[Tensor, "layer neuron"]
    head: Float[Tensor, "layer head d_head"]
    head_value: Float[Tensor, "target layer head"]
    head_positive: Float[Tensor, "target layer head"]
    head_squares: Float[Tensor, "target layer head"]

    def __add__(self, other: _Sum) -> _Sum:
        return _Sum(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


class _Sums:
    """Running sums by label, and the constants of each target."""

    def __init__(self, model: HookedModel, targets: Mapping[str, Target]) -> None:
        self.model, self.targets, self.dims = model, list(targets.values()), model.dims
        self.beta: dict[int, Tensor] = {}
        self.along: dict[int, Tensor] = {}
        self.by_label: dict[Label, _Sum] = {}
        for target in self.targets:
            self.beta[id(target)], self.along[id(target)] = write_along(model, target)
        self._along = torch.stack([self.along[id(t)] for t in self.targets])

    def add(self, parts: Mapping[Label, _Sum]) -> None:
        """Add one batch's sums."""
        for label, new in parts.items():
            self.by_label[label] = self.by_label[label] + new if label in self.by_label else new

    def put_together(self, labels: Sequence[Label]) -> None:
        """Add up the sums of all processes, none of which need have seen every label."""
        for label in dict.fromkeys(labels) if distributed.size() > 1 else ():
            held = self.by_label.get(label) or self._nothing()
            n, *parts = vars(held).values()
            count = torch.tensor(n)
            distributed.add(count, *parts)
            self.by_label[label] = _Sum(int(count), *parts)

    def _nothing(self) -> _Sum:
        d, n = self.dims, len(self.targets)
        neurons, heads = (d.n_layers, d.d_mlp), (d.n_layers, d.n_heads)
        shapes = [*[neurons] * 4, (*heads, d.d_head), *[(n, *heads)] * 3]
        return _Sum(0, *(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    def of(
        self,
        labels: Sequence[Label],
        neuron: Float[Tensor, "layer batch neuron"],
        head: Float[Tensor, "layer batch head d_head"],
    ) -> dict[Label, _Sum]:
        """The sums of one batch."""
        sums = {}
        along = self._along.to(device=head.device, dtype=torch.float32)
        for label in dict.fromkeys(labels):
            rows = torch.tensor([i for i, held in enumerate(labels) if held == label], device=neuron.device)
            a, z = neuron.index_select(1, rows).float(), head.index_select(1, rows).float()
            c = einsum(z, along, "layer batch head d_head, target layer head d_head -> target layer batch head")
            written, c = _scaled(self.model, "neuron", a), _scaled(self.model, "head", z.flatten(-2), c)
            parts = (
                a.sum(1),
                written.sum(1),
                written.relu().sum(1),
                written.square().sum(1),
                z.sum(1),
                c.sum(2),
                c.relu().sum(2),
                c.square().sum(2),
            )
            sums[label] = _Sum(len(rows), *(part.double().cpu() for part in parts))
        return sums

    def contrast(self, emotion: str | None) -> Contrast | None:
        """The emotion's mean minus the mean over emotions, over complete groups; None where there is none."""
        means = {label: held for (label, complete), held in self.by_label.items() if complete and label is not None}
        if emotion not in means or len(means) < 2:
            return None
        neurons, heads = self.centred(emotion, lambda held: held.neuron), self.centred(emotion, lambda held: held.head)
        return Contrast(str(emotion), "emotions", Activations(neurons.float(), heads.float()))

    def centred(self, emotion: str | None, part: Callable[[_Sum], Tensor]) -> Float[Tensor, "..."]:
        """The emotion's mean of one sum minus the mean over emotions, over complete groups."""
        means = {e: part(held) / held.n for (e, complete), held in self.by_label.items() if complete and e is not None}
        return means[emotion] - torch.stack(list(means.values())).mean(dim=0)  # pyright: ignore[reportArgumentType]

    @cached_property
    def means(self) -> Activations:
        """Mean activations over all prompts; one object for all targets."""
        total = _total(self.by_label.values())
        return Activations((total.neuron / total.n).float(), (total.head / total.n).float())


def write_along(
    model: HookedModel, target: Target
) -> tuple[Float[Tensor, "layer neuron"], Float[Tensor, "layer head d_head"]]:
    """What one unit of each neuron's activation, and of each head's ``z``, writes along the target (beta).

    Nothing, for nodes above the target's readout: what they write is not read.
    """
    reached = below(model, target.readout)
    after_mlp, after_attention = (stacked_local(model, target, site) for site in ("resid_post", "resid_mid"))
    neurons, heads, shape = [], [], (model.dims.n_heads, model.dims.d_head)
    for layer in range(model.dims.n_layers):
        w_down, w_o = (unit_writes(model, kind, layer) for kind in ("neuron", "head"))
        dtype = torch.float64 if w_down.dtype == torch.float64 else torch.float32
        neurons.append(w_down.to(dtype) @ after_mlp[layer].to(device=w_down.device, dtype=dtype))
        heads.append((w_o.to(dtype) @ after_attention[layer].to(device=w_o.device, dtype=dtype)).unflatten(0, shape))
    of_neurons = torch.stack([n.double().cpu() for n in neurons])
    of_heads = torch.stack([h.double().cpu() for h in heads])
    return of_neurons * reached.neurons, of_heads * reached.heads[..., None]


def _scaled(
    model: HookedModel, kind: NodeKind, activation: Float[Tensor, "layer batch unit"], values: Tensor | None = None
) -> Float[Tensor, "..."]:
    """``values`` (the activations themselves by default) over the rms of the sublayer's write, where it is normed."""
    values = activation if values is None else values
    if model.sites.write_norm(SUBLAYER_OF[kind], 0) is None:
        return values
    scales = [write_scale(model, kind, layer, activation[layer]) for layer in range(model.dims.n_layers)]
    return values * torch.stack(scales).to(values)[..., None]  # pyright: ignore[reportArgumentType]


def _labels(prompts: Sequence[Prompt]) -> list[Label]:
    emotions = list(dict.fromkeys(p.emotion for p in prompts if p.emotion is not None))
    try:
        complete = set(complete_groups(prompts, emotions))
    except EmotionCircuitsError:
        complete = set()
    return [(prompt.emotion, i in complete) for i, prompt in enumerate(prompts)]


def _check_groups(target: Target, labels: Sequence[Label]) -> None:
    """Raise a `DataError` unless some complete group has the target's emotion and another one."""
    complete = {emotion for emotion, is_complete in labels if is_complete}
    if target.emotion not in complete or len(complete) < 2:
        known = ", ".join(sorted({emotion for emotion, _ in labels if emotion is not None})) or "no emotion"
        raise DataError(
            f"DirectAttribution(centred=True) for {target.emotion or 'a target without an emotion'} needs scenarios "
            "whose prompts ask for every emotion, that one and another among them; these prompts ask for "
            f"{known}{'' if complete else ', and no scenario has all of these'}. Give such prompts and a target with "
            "an emotion, or use DirectAttribution()"
        )


def _total(sums) -> _Sum:
    first, *rest = sums
    for held in rest:
        first = first + held
    return first


def _std(squares: Tensor, mean: Tensor, factor: Tensor | float) -> Tensor:
    return ((squares - mean.square()).clamp(min=0).sqrt() * factor).float()
