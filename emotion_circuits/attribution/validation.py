r"""Validation curves: do the best nodes carry the target, and how few of them (method.md, stage 4).

1. In every layer and kind take the k best nodes of an attribution, the k worst, and ``n_random`` draws of k nodes of
   the same layer and kind, for k = 0, 1, 2, 4, 8, ... (``scope="sublayer"``); or the k best and worst of the whole
   model, and draws with as many nodes of each kind in every layer as the best have (``scope="global"``).
2. Give each of these sets to the intervention at the last prompt token, all of them as variants of one suffix pass.
3. Effect = the changed value minus the unchanged one, mean over samples: of the projection on the target's direction
   at the node's own sublayer (``resid_mid`` for heads, ``resid_post`` for neurons), and of the target itself.

An ablation of nodes that carry the target has a negative effect, an enhancement a positive one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emotion_circuits.attribution.edits import WRITE_ORDER, Place, check_nodes, mask_edit
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.attribution.sums import SampleSet
from emotion_circuits.errors import ModelError
from emotion_circuits.intervals import clustered
from emotion_circuits.interventions import Intervention
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.batching import by_sample
from emotion_circuits.model.suffix import Readout, SuffixRun
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.progress import progress
from emotion_circuits.targets import Target
from emotion_circuits.types import NodeKind, as_choice, as_layer

if TYPE_CHECKING:
    import pandas as pd

Scope = Literal["sublayer", "global"]
KS = (0, 1, 2, 4, 8, 16, 32, 64)

_LOCAL_SITE: dict[NodeKind, Literal["resid_mid", "resid_post"]] = {"head": "resid_mid", "neuron": "resid_post"}
_SUBLAYER = {"head": "attention", "neuron": "mlp"}


def validation_curves(
    model: HookedModel,
    prompts: object,
    target: Target,
    attribution: Attribution,
    *,
    intervention: Intervention,
    ks: Sequence[int] = KS,
    n_random: int = 30,
    layers: Iterable[int] | None = None,
    scope: Scope = "sublayer",
    seed: int = 0,
    batch_size: int | None = None,
    chunk: int | None = None,
) -> pd.DataFrame:
    """Effect of the best, the worst and random nodes, in growing numbers.

    Args:
        model: the model.
        prompts: the target's samples among them are used.
        target: what the effect is measured on.
        attribution: ranks the nodes; only nodes that it scored are used.
        intervention: what is done to the nodes, e.g. ``MeanAblation(attribution.means)`` or ``Enhancement(...)``.
        ks: sizes; those above the number of nodes there are left out.
        n_random: random draws of each size.
        layers: all by default.
        scope: one curve per layer and kind, or one for the whole model.
        seed: of the draws.
        batch_size: rows in a batch.
        chunk: variants x prompts in one layer call; chosen from the free memory by default.

    Returns:
        One row per curve and size: ``layer, sublayer, kind, selection, k, effect_local, low_local, high_local,
        effect_end, low, high``. Intervals are 95 %: for ``top`` and ``bottom`` over scenarios (bootstrap), for
        ``random`` the quantiles of the draws' effects. ``effect_local`` is missing where the target has no direction,
        and for ``scope="global"``, whose ``layer`` is missing too. Effects are in the target's unit; local ones in the
        residual's.

    Raises:
        NodeError: the model does not have one of the layers.
        DataError: there is no such scope.
    """
    import pandas as pd

    as_choice(scope, Scope, "scope")
    samples = SampleSet(prompts, {"target": target})
    n_layers = model.dims.n_layers
    chosen = sorted({as_layer(layer, n_layers) for layer in (range(n_layers) if layers is None else layers)})
    check_nodes(intervention, model, attribution.nodes.in_layers(chosen))
    curves = _SCOPES[scope](attribution, tuple(ks), n_random, chosen, seed)
    with progress("validate", len(samples), shared=True) as advance, torch.no_grad():
        work = _Work(model, target, intervention, curves, chunk)
        effects = torch.stack(by_sample(samples.run(model, work, batch_size, shared=True), advance))
    used = samples.used.tolist()
    clusters = [i if (item := samples.prompts[i].item) is None else item for i in used]
    by_curve = effects.split([len(curve.labels) for curve in curves], dim=2)
    return pd.DataFrame(
        [row for curve, held in zip(curves, by_curve, strict=True) for row in curve.rows(held, clusters)]
    )


@dataclass
class _Curve:
    """The node sets of one layer and kind, or of the whole model.

    Attributes:
        layer: the layer; None for the whole model.
        kind: the kind of node; None for both.
        labels: selection and size of each set.
        masks: the sets' members in each place.
    """

    layer: int | None
    kind: NodeKind | None
    labels: list[tuple[str, int]]
    masks: dict[Place, Bool[Tensor, "set unit"]]

    def rows(self, effects: Float[Tensor, "sample 2 set"], clusters: list) -> list[dict]:
        """The data frame's rows, from each sample's effects at the sublayer and at the end."""
        local, end = effects.unbind(dim=1)
        sublayer = "all" if self.kind is None else _SUBLAYER[self.kind]
        rows = []
        for selection, k in dict.fromkeys(self.labels):
            columns = [i for i, label in enumerate(self.labels) if label == (selection, k)]
            here, low_here, high_here = _summary(local[:, columns], selection, clusters)
            there, low, high = _summary(end[:, columns], selection, clusters)
            rows.append(
                {
                    "layer": self.layer, "sublayer": sublayer, "kind": self.kind or "all", "selection": selection,
                    "k": k, "effect_local": here, "low_local": low_here, "high_local": high_here,
                    "effect_end": there, "low": low, "high": high,
                }
            )  # fmt: skip
        return rows


def _summary(effects: Float[Tensor, "sample draw"], selection: str, clusters: list) -> tuple[float, float, float]:
    mean = float(effects.mean())
    if bool(effects.isnan().any()):
        return float("nan"), float("nan"), float("nan")
    if selection == "random":
        low, high = effects.mean(dim=0).quantile(torch.tensor([0.025, 0.975], dtype=effects.dtype)).tolist()
        return mean, low, high
    low, high = clustered(effects[:, 0].tolist(), clusters)
    return mean, low, high


def _sublayer_curves(
    attribution: Attribution, ks: tuple[int, ...], n_random: int, layers: list[int], seed: int
) -> list[_Curve]:
    pool = attribution.nodes
    curves = []
    every: list[Place] = [(kind, layer) for layer in layers for kind in WRITE_ORDER if kind in attribution.kinds]
    for kind, layer in every:
        inside, values = pool.mask(kind)[layer], attribution.values.values(kind)[layer]
        units = inside.nonzero().flatten()
        best = units[values[units].argsort(descending=True, stable=True)]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + 2 * layer + WRITE_ORDER.index(kind))
        labels, sets = [], []
        for k in (k for k in ks if k <= len(units)):
            draws = n_random if 0 < k < len(units) else 1
            drawn = [units[torch.randperm(len(units), generator=generator)[:k]] for _ in range(draws)]
            labels += [("top", k), ("bottom", k), *[("random", k)] * draws]
            sets += [best[:k], best[len(best) - k :], *drawn]
        masks = torch.stack([torch.zeros_like(inside).index_fill(0, chosen, True) for chosen in sets])
        curves.append(_Curve(layer, kind, labels, {(kind, layer): masks}))
    return curves


def _global_curves(
    attribution: Attribution, ks: tuple[int, ...], n_random: int, layers: list[int], seed: int
) -> list[_Curve]:
    pool = attribution.nodes.in_layers(layers)
    labels, sets = [], []
    for k in (k for k in ks if k <= len(pool)):
        top, draws = _best(attribution, pool, k, 1), n_random if k else 1
        labels += [("top", k), ("bottom", k), *[("random", k)] * draws]
        sets += [top, _best(attribution, pool, k, -1)]
        sets += [top.random_like(seed * 1_000_003 + draw, within=pool) for draw in range(draws)]
    masks: dict[Place, Tensor] = {
        (kind, layer): torch.stack([held.mask(kind)[layer] for held in sets])
        for kind in attribution.kinds for layer in layers
    }  # fmt: skip
    return [_Curve(None, None, labels, masks)]


_SCOPES: dict[Scope, Callable[..., list[_Curve]]] = {"sublayer": _sublayer_curves, "global": _global_curves}


def _best(attribution: Attribution, pool: NodeSet, k: int, sign: int) -> NodeSet:
    kinds: tuple[NodeKind, ...] = ("neuron", "head")
    held = ((sign * attribution.values.values(kind)).masked_fill(~pool.mask(kind), -torch.inf) for kind in kinds)
    return NodeValues(*held).top(k)


class _Work:
    """What is done with one batch: all sets of all curves, one curve after the other, as variants."""

    def __init__(
        self, model: HookedModel, target: Target, intervention: Intervention, curves: list[_Curve], chunk: int | None
    ) -> None:
        self.model, self.target, self.intervention, self.curves, self.chunk = model, target, intervention, curves, chunk
        self.local = [self._local_of(curve) for curve in curves]

    def _local_of(self, curve: _Curve) -> tuple[Readout, Tensor] | None:
        if curve.layer is None or curve.kind is None:
            return None
        site = _LOCAL_SITE[curve.kind]
        try:
            return (site, curve.layer), self.target.local(self.model, site, curve.layer)
        except ModelError:
            return None  # the target has no direction

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch 2 set"]:
        run = SuffixRun(self.model, batch)
        found = [self._effects(run, curve, local) for curve, local in zip(self.curves, self.local, strict=True)]
        return torch.cat(found, dim=2).transpose(0, 1)

    def _effects(
        self, run: SuffixRun, curve: _Curve, local: tuple[Readout, Tensor] | None
    ) -> Float[Tensor, "2 batch set"]:
        edit = mask_edit(curve.masks, self.intervention, run.batch.samples)
        result = torch.zeros(2, len(run.batch), len(curve.labels), dtype=torch.float64)
        if local is None:
            result[0] = torch.nan
        end = self.target.readout
        before = self.target(self.model, run.base(end))[:, None]
        readouts = [end] if local is None else [end, local[0]]
        for variants, read in run.read([] if edit is None else [edit], readouts, self.chunk):
            result[1][:, variants.cpu()] = (self.target(self.model, read[end]) - before).double().cpu()
            if local is not None:
                moved = (read[local[0]] - run.base(local[0])[:, None]).float()
                result[0][:, variants.cpu()] = (moved @ local[1].float().to(moved.device)).double().cpu()
        return result
