r"""Final direct attribution: what each node writes straight into what is read at the end (method.md, stage 4).

The last residual r is the sum of the embedding and of everything that heads, neurons and biases write. With the final
norm's scale :math:`s = 1/\mathrm{rms}(r)` frozen at what it is for the sample, the target is linear in r:
:math:`t = s\,(g \odot r) \cdot u`, with g the norm's weight and u the reference vector (a projection) or the
unembedding's difference (a logit difference). So, in closed form, from one pass, for every node and target:

neurons  :math:`c_{l,n} = s\,a_{l,n}\,(W^{down}_{l,n} \cdot (g \odot u))`
heads    :math:`c_{l,h} = s\,(z_{l,h} W^O_{l,h}) \cdot (g \odot u)`

Embedding + biases + all heads + all neurons = the target (its linear part). Where an architecture norms what a
sublayer writes (Gemma), that norm's scale is frozen too. What a node does through later layers is not in c; that is
`ActivationPatching`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from emotion_circuits.attribution.edits import WRITE_ORDER
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.attribution.sums import SampleSet, ScoreSums, put_together
from emotion_circuits.errors import ModelError
from emotion_circuits.model import HookedModel
from emotion_circuits.model.writes import unit_writes, write_scale
from emotion_circuits.nodes import NodeSet
from emotion_circuits.progress import progress
from emotion_circuits.provenance import provenance
from emotion_circuits.targets import DirectionTarget, LogitDifference, Projection, SaidTarget, Target
from emotion_circuits.types import NodeKind, as_layer


@dataclass(frozen=True)
class FinalDirectAttribution:
    """Each node's own write into the final projection or logit difference, all norms' scales frozen per sample."""

    name: str = "final direct attribution"

    def __call__(
        self, model: HookedModel, prompts: object, targets: Mapping[str, Target], batch_size: int | None = None
    ) -> dict[str, Attribution]:
        """Scores of every target from one pass over the prompts.

        Raises:
            ModelError: a target is not linear in the last residual's direction.
        """
        samples = SampleSet(prompts, targets)
        writes = {name: _Writes(model, *final_direction(model, target)) for name, target in targets.items()}
        sums = {name: ScoreSums(model.dims) for name in targets}
        used = [samples.prompts[i] for i in samples.used.tolist()]
        with progress("direct", len(used), shared=True) as advance, torch.no_grad():
            sites = ("head", "neuron", "resid_post")
            for part, values in model.stream(used, sites, batch_size=batch_size, shared=True):
                batch = samples.among_all(part)
                for name, along in writes.items():
                    rows = samples.rows(name, batch)
                    along.add(sums[name], values["resid_post"][-1, rows], values["head"], values["neuron"], rows)
                advance(len(batch))
        put_together(sums)
        source, every = provenance(model, samples.prompts, method=self.name), NodeSet.all(model)
        return {
            name: sums[name].attribution(self.name, target, every, source, ("neuron", "head"))
            for name, target in targets.items()
        }


class _Writes:
    """What one unit of each node's activation writes along a direction of the last residual, norms' weights included.

    Args:
        model: the model.
        vector: the direction.
        normed: whether the final norm's scale multiplies the residual.
    """

    def __init__(self, model: HookedModel, vector: Float[Tensor, " d_model"], normed: bool) -> None:
        self.model, self.normed = model, normed
        self.along: dict[tuple[NodeKind, int], Float[Tensor, " unit"]] = {}
        for kind in WRITE_ORDER:
            for layer in range(model.dims.n_layers):
                weight = unit_writes(model, kind, layer).float()
                self.along[kind, layer] = weight @ vector.float().to(weight.device)

    def add(
        self,
        sums: ScoreSums,
        resid: Float[Tensor, "row d_model"],
        z: Float[Tensor, "layer batch head d_head"],
        a: Float[Tensor, "layer batch neuron"],
        rows: Int[Tensor, " row"],
    ) -> None:
        """Add the scores of some rows of one batch."""
        final = frozen_scale(self.model, self.model.final_norm, resid) if self.normed else torch.ones(len(rows))
        for (kind, layer), along in self.along.items():
            held = (z.flatten(-2) if kind == "head" else a)[layer, rows]
            score, inner = (
                held.float() * along * final.to(held.device)[:, None],
                write_scale(self.model, kind, layer, held),
            )
            score = score if inner is None else score * inner[:, None]
            score = score.unflatten(1, (z.shape[2], -1)).sum(dim=-1) if kind == "head" else score
            sums.add(kind, layer, torch.arange(score.shape[1]), score)
        sums.count(len(rows))


def frozen_scale(model: HookedModel, norm: nn.Module, x: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
    """The factor s of a norm's output ``s * weight * x`` (its bias apart), which depends on x as a whole."""
    weight, bias = model.norm_weight(norm).float(), getattr(norm, "bias", None)
    out, held = norm(x).float(), x.float()
    out = out if bias is None else out - bias.float()
    held = weight * (held - held.mean(dim=-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else held)
    return (out * held).sum(-1) / held.square().sum(-1)


def final_direction(model: HookedModel, target: Target) -> tuple[Float[Tensor, " d_model"], bool]:
    """The direction of the last residual that a target reads, and whether the final norm's scale divides it.

    Raises:
        ModelError: there is no such direction.
    """
    n_layers = model.dims.n_layers
    if as_layer(target.readout[1], n_layers) == n_layers - 1 and target.readout[0] == "resid_post":
        vector = None
        if isinstance(target, DirectionTarget):
            weight = model.norm_weight(model.final_norm)
            vector = weight.float() * target.reference.to(weight.device)
        if isinstance(target, LogitDifference | SaidTarget):
            vector = target.local(model, "resid_post", -1).float()
        if vector is not None:
            # A LayerNorm also takes the mean out.
            return vector - vector.mean() if isinstance(model.final_norm, nn.LayerNorm) else vector, True
        if isinstance(target, Projection):
            return target.vector.float(), False
    raise ModelError(
        f"{type(target).__name__} at {target.readout[0]} of layer {target.readout[1]} is no projection or logit "
        "difference of the last residual; use DirectAttribution, ActivationPatching or AttributionPatching"
    )
