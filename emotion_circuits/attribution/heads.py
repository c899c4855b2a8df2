r"""Head importance: how much a head matters to what the MLP reads (method.md, stage 4).

.. math:: I_{l,h} = \ln_2(r^{mid}_l) \cdot v_l - \ln_2(r^{mid}_l - z_{l,h} W^O_{l,h}) \cdot v_l

The reference zeroes one head per forward pass. Zeroing head h changes ``r_mid`` only by its own write, so the norm
of the changed residual is at hand after a single pass, for every head, layer and emotion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import distributed
from emotion_circuits.attribution.edits import below
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.attribution.sums import some_prompts
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.recording import record_batch
from emotion_circuits.model.writes import precisely
from emotion_circuits.nodes import NodeValues
from emotion_circuits.progress import progress
from emotion_circuits.provenance import provenance
from emotion_circuits.targets import Target, samples_of, stacked_local


@dataclass(frozen=True)
class HeadImportance:
    """Drop of the normed residual's projection when a head is removed; scores heads only."""

    name: str = "head importance"

    @torch.no_grad()
    def __call__(
        self, model: HookedModel, prompts: object, targets: Mapping[str, Target], batch_size: int | None = None
    ) -> dict[str, Attribution]:
        """Scores of every target from one pass over the prompts; heads above a target's readout are not scored.

        Raises:
            DataError: there are no prompts.
        """
        asked = some_prompts(prompts)
        names = list(targets)
        vectors = torch.stack([stacked_local(model, targets[name], "resid_mid") for name in names])
        member = torch.zeros(len(names), len(asked), dtype=torch.float64)
        for slot, name in enumerate(names):
            member[slot, samples_of(targets[name], asked)] = 1.0
        sums = torch.zeros(3, len(names), model.dims.n_layers, model.dims.n_heads, dtype=torch.float64)

        def drops(batch: TokenBatch) -> Tensor:
            values = record_batch(model, batch, ("resid_mid", "head"))
            return importance(model, values["resid_mid"], values["head"], vectors)

        with progress("heads", len(asked), shared=True) as advance:
            for batch, drop in model.run_batches(asked, drops, batch_size, stage="heads", shared=True):
                weight = member[:, batch.samples.cpu()]
                for slot, part in enumerate((drop, drop.relu(), drop.square())):
                    sums[slot] += einsum(
                        part.double().cpu(), weight, "target layer batch head, target batch -> target layer head"
                    )
                advance(len(batch))
        distributed.add(sums)
        source = provenance(model, asked, method=self.name)
        counts = member.sum(dim=1)
        return {
            name: self._result(model, targets[name], sums[:, slot] / counts[slot], int(counts[slot]), source)
            for slot, name in enumerate(names)
        }

    def _result(self, model: HookedModel, target: Target, means: Tensor, n: int, source: dict) -> Attribution:
        reached = below(model, target.readout)
        mean, positive, squares = means * reached.heads
        none = torch.zeros(model.dims.n_layers, model.dims.d_mlp)
        std = (squares - mean.square()).clamp(min=0).sqrt()
        heads = (NodeValues(none, part.float()) for part in (mean, std, positive, mean - positive))
        values, deviation, up, down = heads
        return Attribution(
            values, self.name, target.emotion, n, model.dims, kinds=("head",), std=deviation,
            positive=up, negative=down, scored=None if bool(reached.heads.all()) else reached.only("head"),
            provenance=source,
        )  # fmt: skip


def importance(
    model: HookedModel,
    resid_mid: Float[Tensor, "layer batch d_model"],
    z: Float[Tensor, "layer batch head d_head"],
    vectors: Float[Tensor, "target layer d_model"],
) -> Float[Tensor, "target layer batch head"]:
    """The drop of every head, for single-token activations."""
    drops = []
    for layer in range(model.dims.n_layers):
        norm = model.sites.module(f"blocks.{layer}.ln2")
        r = resid_mid[layer].to(next(norm.parameters()).device)
        without = model.without_heads(layer, r, z[layer])
        v = vectors[:, layer].to(device=r.device, dtype=torch.float32)
        before = einsum(precisely(norm, r).float(), v, "batch d_model, target d_model -> target batch")
        after = einsum(precisely(norm, without).float(), v, "batch head d_model, target d_model -> target batch head")
        drops.append((before[..., None] - after).to(resid_mid.device))
    return torch.stack(drops, dim=1)
