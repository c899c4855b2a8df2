r"""Writing MLP neurons: the circuit's, and those that only look like it.

With f the feature that a neuron waits for, and c the constant,

.. math:: a = \text{silu}(k\,(x \cdot f - \theta\,x \cdot c))\,(x \cdot c),

and it writes a vector of its own. Kinds:

direct      waits for ``heard``, writes ``felt``
relay       waits for ``heard``, writes ``relay``           (first half of the indirect path)
relayed     waits for ``relay``, writes ``felt``            (second half)
elsewhere   waits for ``heard`` or the constant, twice as active as the circuit, writes outside
dormant     waits for ``absent``, which no token has, and would write ``felt`` three times as strongly
scenario    waits for a topic, writes along ``felt``; a twin of it writes the opposite, so behaviour stays the same
background  random reads, random writes of the noise's size
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.errors import ModelError
from emotion_circuits.nodes import Node
from emotion_circuits.planted.config import PlantedConfig
from emotion_circuits.planted.features import D_MODEL, Features
from emotion_circuits.planted.heads import RMS
from emotion_circuits.types import EKMAN

TRUE_ROLES = ("direct", "relay", "relayed")
CONSTANT, STEEP, THRESHOLD = 4.0, 4.0, 0.25
FELT, RELAY = 3.0, 2.0  # what the circuit adds to the residual in all
AWAKE = 2.0 / CONSTANT  # of the constant: as much as a token that hears an emotion has of it
ON = STEEP * (2.0 - THRESHOLD * CONSTANT) / RMS  # activation of a neuron that hears its emotion


@dataclass(eq=False)
class Layers:
    """The MLP weights of all layers, and who is where.

    Attributes:
        gate: ``gate_proj``.
        up: ``up_proj``.
        down: ``down_proj``, one row per neuron.
        roles: kind and emotion of every planted neuron and distractor.
    """

    gate: Float[Tensor, "layer neuron d_model"]
    up: Float[Tensor, "layer neuron d_model"]
    down: Float[Tensor, "layer neuron d_model"]
    features: Features
    free: list[Iterator[int]]
    roles: dict[Node, tuple[str, int]] = field(default_factory=dict)

    @classmethod
    def background(cls, config: PlantedConfig, features: Features) -> Layers:
        """Every neuron random; places are given out in random order."""
        shape, rng = (config.layers, config.d_mlp, D_MODEL), random.Random(config.seed)
        g = features.generator
        gate, up, down = (torch.randn(shape, generator=g) / math.sqrt(D_MODEL) for _ in range(3))
        size = 4 * config.noise * FELT / ON / config.neurons_per_emotion
        free = [iter(rng.sample(range(config.d_mlp), config.d_mlp)) for _ in range(config.layers)]
        return cls(gate, up, size * down, features, free)

    def write(
        self, layer: int, role: str, emotion: int, waits: Float[Tensor, " d_model"], writes: Float[Tensor, " d_model"],
        threshold: float = THRESHOLD, gain: float = 1.0,
    ) -> None:  # fmt: skip
        """Plant one neuron at the layer's next free place."""
        index = next(self.free[layer], None)
        if index is None:
            raise ModelError(f"layer {layer} has no room for more neurons; give a larger d_mlp or fewer neurons")
        constant = self.features.constant
        self.gate[layer, index] = gain * STEEP * (waits - threshold * constant)
        self.up[layer, index] = constant * RMS / CONSTANT
        self.down[layer, index] = writes
        self.roles[Node(layer, "neuron", index)] = (role, emotion)

    def of(self, *roles: str, emotion: int | None = None) -> list[Node]:
        """The neurons of some roles."""
        return [n for n, (role, e) in self.roles.items() if role in roles and emotion in (None, e)]


def plant_circuit(layers: Layers, config: PlantedConfig, rng: random.Random) -> None:
    """The true neurons: of uneven strength, in layers of their own."""
    relays = max(1, config.neurons_per_emotion // 4)
    plan = [("relay", relays), ("relayed", relays), ("direct", config.neurons_per_emotion - 2 * relays)]
    writers, last = config.neurons_per_emotion - relays, config.layers - 1
    for emotion in range(len(EKMAN)):
        for role, count in plan:
            for _ in range(count):
                share = rng.uniform(0.6, 1.4) / config.redundancy / ON
                for _ in range(config.redundancy):
                    layer = rng.randint(*{"relay": (1, 1), "relayed": (2, last), "direct": (1, last)}[role])
                    waits = layers.features.of("relay" if role == "relayed" else "heard", emotion)
                    writes = layers.features.of("relay" if role == "relay" else "felt", emotion)
                    total = RELAY / relays if role == "relay" else FELT / writers
                    layers.write(layer, role, emotion, waits, total * share * writes)


def plant_distractors(layers: Layers, config: PlantedConfig, rng: random.Random) -> None:
    """Those that only look like the circuit, in every layer."""
    features, unit = layers.features, FELT / ON / config.neurons_per_emotion
    for layer in range(config.layers):
        for emotion in [e for e in range(len(EKMAN)) for _ in range(config.distractors)]:
            felt = features.of("felt", emotion)
            for waits, size in ((features.of("heard", emotion), config.side_effects), (AWAKE * features.constant, 1.0)):
                layers.write(layer, "elsewhere", emotion, waits, size * unit / 2 * features.elsewhere(), gain=2.0)
            layers.write(layer, "dormant", emotion, features.absent, 3 * unit * felt)
            topic = features.topics[rng.randrange(len(features.topics))]
            for sign in (1.0, -1.0):
                writes = sign * config.scenario_strength * unit * felt
                layers.write(layer, "scenario", emotion, 2 * topic, writes, threshold=0.0)


def relative_noise(
    weights: Float[Tensor, "*batch d_model"], size: float, generator: torch.Generator
) -> Float[Tensor, "*batch d_model"]:
    """Every row with a random error of ``size`` times its own length."""
    error = torch.randn(weights.shape, generator=generator) / math.sqrt(weights.shape[-1])
    return weights + size * weights.norm(dim=-1, keepdim=True) * error
