r"""Calibrating a planted model: noise and norms may not make its truth untrue.

What a neuron reads is disturbed by noise, by other features and by the norms between layers, so as written it may
stay silent; a silent neuron is no part of any circuit. Two rules mend that. Neither knows an attribution method.

1. `tune_reads`, from the lowest layer up: a true neuron's gate :math:`g` becomes :math:`s\,g + b\,c`, with c the
   constant feature, such that its mean pre-activation is :math:`+T` where its emotion is asked for and :math:`-T` over
   all other instructions, the neutral one included. The direction of its error stays as it was drawn.
2. `tune_writes`: an emotion's ``felt`` writes are scaled until they add up to `FELT` where it is asked for.

Both change what lies above, so they are repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.data.prompts import Prompt
from emotion_circuits.data.sev import SEV
from emotion_circuits.model import HookedModel
from emotion_circuits.planted.neurons import CONSTANT, FELT, RMS, STEEP, TRUE_ROLES, Layers
from emotion_circuits.types import EKMAN

ROUNDS = 3
TURNED_ON = STEEP / RMS  # pre-activation of a neuron that hears its emotion, as written
STEEPER = (0.25, 4.0)  # bounds of s


@torch.no_grad()
def calibrate(model: HookedModel, data: SEV, layers: Layers) -> None:
    """Apply both rules, in turn."""
    prompts = [item.prompt(emotion) for item in data.items for emotion in (*EKMAN, None)]
    for _ in range(ROUNDS):
        tune_reads(model, prompts, layers)
        tune_writes(model, prompts, layers)


def tune_reads(model: HookedModel, prompts: Sequence[Prompt], layers: Layers) -> None:
    """Rule 1; one layer after the other, since each changes what those above it read."""
    for layer in range(model.dims.n_layers):
        true = ((node, e) for e in range(len(EKMAN)) for node in layers.of(*TRUE_ROLES, emotion=e))
        here = [(node, e) for node, e in true if node.layer == layer]
        if not here:
            continue
        norm = model.sites.module(f"blocks.{layer}.ln2")
        reads = norm(model.record(prompts, "resid_mid", [layer])[0])
        gate = model.hf.model.layers[layer].mlp.gate_proj.weight
        for node, e in here:
            own = asking(prompts, e)
            gate[node.index] = tuned(gate[node.index], layers.features.constant, reads[own], reads[~own])


def tuned(
    gate: Float[Tensor, " d_model"], constant: Float[Tensor, " d_model"],
    own: Float[Tensor, "asking d_model"], other: Float[Tensor, "other d_model"],
) -> Float[Tensor, " d_model"]:  # fmt: skip
    """The gate whose mean pre-activations are ``+T`` and ``-T``; as near as the bounds of s allow."""
    means = torch.stack([own.mean(dim=0), other.mean(dim=0)])
    from_gate, from_constant = means @ gate, means @ constant
    goal = torch.tensor([TURNED_ON, -TURNED_ON])
    steeper, _ = torch.linalg.solve(torch.stack([from_gate, from_constant], dim=1), goal).tolist()
    steeper = min(max(steeper, STEEPER[0]), STEEPER[1]) if steeper > 0 else STEEPER[1]
    return steeper * gate + (TURNED_ON - steeper * from_gate[0]) / from_constant[0] * constant


def tune_writes(model: HookedModel, prompts: Sequence[Prompt], layers: Layers) -> None:
    """Rule 2."""
    features = layers.features
    resid = model.record(prompts, "resid_post")[-1]  # prompt d_model
    relative = resid / (resid @ features.constant / CONSTANT)[:, None]
    for e in range(len(EKMAN)):
        felt = float(relative[asking(prompts, e)].mean(dim=0) @ features.of("felt", e))
        for node in layers.of("direct", "relayed", emotion=e):
            weight = model.hf.model.layers[node.layer].mlp.down_proj.weight
            weight[:, node.index] *= min(max(FELT / max(felt, 0.1), 0.5), 2.0)


def asking(prompts: Sequence[Prompt], emotion: int) -> Tensor:
    """Which prompts ask for an emotion."""
    return torch.tensor([prompt.emotion == EKMAN[emotion] for prompt in prompts])
