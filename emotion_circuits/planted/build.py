"""`planted`: a model whose emotion circuit is known, since its weights were written by hand.

1. Draw features, and a vocabulary's embeddings from them.
2. Write heads and neurons, the circuit's and the distractors.
3. Add noise, and put all of it into a Qwen2.
4. See to it that noise and norms leave the truth true (`calibrate`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from emotion_circuits.data.prompts import Prompt
from emotion_circuits.data.sev import SEV
from emotion_circuits.evaluation.judges import LexiconJudge
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import Node, NodeSet
from emotion_circuits.planted import language
from emotion_circuits.planted.calibrate import calibrate
from emotion_circuits.planted.config import PlantedConfig
from emotion_circuits.planted.features import D_MODEL, Features
from emotion_circuits.planted.heads import D_HEAD, EMOTION_SIZE, N_HEADS, Attention, places_of_carriers, write_heads
from emotion_circuits.planted.neurons import (
    CONSTANT,
    FELT,
    TRUE_ROLES,
    Layers,
    plant_circuit,
    plant_distractors,
    relative_noise,
)
from emotion_circuits.types import EKMAN

Edge = tuple[Node, Node]


@dataclass(frozen=True, eq=False)
class PlantedModel:
    """A model, its language, and the truth about it.

    Attributes:
        model: the model.
        data: scenarios in its language.
        config: what was asked for.
        truth: true nodes of all emotions.
        truth_of: true nodes of each emotion; heads are shared.
        edges: pairs of true nodes of which the second reads what the first writes.
        roles: of every planted neuron and distractor its kind, and its emotion.
        lexicon: each emotion's words.
    """

    model: HookedModel
    data: SEV
    config: PlantedConfig
    truth: NodeSet
    truth_of: Mapping[str, NodeSet]
    edges: tuple[Edge, ...]
    roles: Mapping[Node, tuple[str, str]]
    lexicon: Mapping[str, tuple[str, ...]]

    @property
    def judge(self) -> LexiconJudge:
        """A judge that knows the language's words."""
        return LexiconJudge(self.lexicon, min_known=0.0)

    def prompts(self) -> list[Prompt]:
        """Every item under every emotion's instruction."""
        return [item.prompt(emotion) for item in self.data.items for emotion in EKMAN]

    def edges_of(self, emotion: str) -> list[Edge]:
        """Those edges that end in one of the emotion's neurons."""
        return [(source, end) for source, end in self.edges if end in self.truth_of[emotion]]

    def nodes(self, *roles: str, emotion: str | None = None) -> NodeSet:
        """The neurons of some roles: ``direct relay relayed elsewhere dormant scenario``."""
        chosen = [n for n, (role, e) in self.roles.items() if role in roles and emotion in (None, e)]
        return NodeSet.of(self.model, *chosen)


def planted(config: PlantedConfig | None = None) -> PlantedModel:
    """Build a planted model.

    Args:
        config: sizes and difficulties; the defaults of `PlantedConfig` otherwise.

    Raises:
        ModelError: the neurons asked for do not fit into ``d_mlp``.
    """
    config = config or PlantedConfig()
    generator, rng = torch.Generator().manual_seed(config.seed), random.Random(config.seed)
    features = Features.draw(config.superposition, generator)
    layers, attention = Layers.background(config, features), [Attention.zeros() for _ in range(config.layers)]
    if config.circuit:
        plant_circuit(layers, config, rng)
    plant_distractors(layers, config, rng)
    carriers = places_of_carriers(config.planted_heads) if config.circuit else []
    write_heads(attention, features, carriers, config.scenario_strength, config.circuit)
    hf = _qwen(config, _embeddings(features), _unembedding(features), attention, layers)
    model = HookedModel.from_hf(hf, language.tokenizer(), name=f"planted-{config.seed}")
    data = language.scenarios(config.n_scenarios, config.seed)
    if config.circuit:
        calibrate(model, data, layers)
    return _truth(model, data, config, layers, [Node(layer, "head", head) for layer, head in carriers])


def _truth(model: HookedModel, data: SEV, config: PlantedConfig, layers: Layers, heads: list[Node]) -> PlantedModel:
    truth_of, edges = {}, []
    for e, emotion in enumerate(EKMAN):
        truth_of[emotion] = NodeSet.of(model, *heads, *layers.of(*TRUE_ROLES, emotion=e))
        hearing = layers.of("direct", "relay", emotion=e)
        edges += [(head, n) for head in heads for n in hearing if head.layer <= n.layer]
        edges += [(a, b) for a in layers.of("relay", emotion=e) for b in layers.of("relayed", emotion=e)]
    truth = NodeSet.of(model, *heads, *layers.of(*TRUE_ROLES))
    roles = {node: (role, EKMAN[e]) for node, (role, e) in layers.roles.items()}
    return PlantedModel(model, data, config, truth, truth_of, tuple(edges), roles, language.LEXICON)


def _embeddings(features: Features) -> Float[Tensor, "token d_model"]:
    """Each word: the constant, what its kind means, and something of its own."""
    words = language.vocabulary()
    own = torch.stack([features.elsewhere() for _ in words])
    table = dict(zip(words, CONSTANT * features.constant + own, strict=True))
    for e, emotion in enumerate(EKMAN):
        table[emotion] += EMOTION_SIZE * (features.asked + features.of("name", e))
    table["system"] += EMOTION_SIZE * features.sink
    replies = [("assistant",) * 7]
    replies += [(*(language.LEXICON[e][s] for e in EKMAN), language.NEUTRAL_WORDS[s]) for s in range(language.STEPS)]
    for step, row in enumerate(replies):
        for word in set(row):
            table[word] += EMOTION_SIZE * (features.replying + features.steps[step])
    for topic, row in zip(features.topics, language.topic_words(), strict=True):
        for word in row:
            table[word] += EMOTION_SIZE * (features.content + topic)
    return torch.stack([table[word] for word in words])


def _unembedding(features: Features) -> Float[Tensor, "token d_model"]:
    """A word is said when its step has come, and its emotion is felt more than the neutral reply's share."""
    words, neutral = language.vocabulary(), FELT / 2 / CONSTANT
    table = {word: torch.zeros(D_MODEL) for word in words}
    for step in range(language.STEPS):
        for e, emotion in enumerate(EKMAN):
            table[language.LEXICON[emotion][step]] = 3 * features.of("felt", e) + 8 * features.steps[step]
        table[language.NEUTRAL_WORDS[step]] = 3 * neutral * features.constant + 8 * features.steps[step]
    table["<|im_end|>"] = 16 * features.steps[-1]
    return torch.stack([table[word] for word in words])


def _qwen(
    config: PlantedConfig, embed: Tensor, unembed: Tensor, attention: list[Attention], layers: Layers
) -> Qwen2ForCausalLM:
    hf = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(embed), hidden_size=D_MODEL, intermediate_size=config.d_mlp,
            num_hidden_layers=config.layers, num_attention_heads=N_HEADS, num_key_value_heads=N_HEADS,
            max_position_embeddings=512, rope_parameters={"rope_type": "default", "rope_theta": 1e10},
            tie_word_embeddings=False, eos_token_id=2, bos_token_id=None, pad_token_id=0,
        )
    )  # fmt: skip
    g = layers.features.generator

    def put(parameter: Tensor, value: Tensor) -> None:
        parameter.copy_(relative_noise(value, config.noise, g))

    with torch.no_grad():
        put(hf.model.embed_tokens.weight, embed)
        hf.lm_head.weight.copy_(unembed)
        blocks: Any = hf.model.layers
        for layer, (block, heads) in enumerate(zip(blocks, attention, strict=True)):
            for name in ("q", "k", "v"):
                put(getattr(block.self_attn, f"{name}_proj").weight, getattr(heads, name))
                getattr(block.self_attn, f"{name}_proj").bias.zero_()
            put(block.self_attn.o_proj.weight.T, heads.o.T)
            put(block.mlp.gate_proj.weight, layers.gate[layer])
            put(block.mlp.up_proj.weight, layers.up[layer])
            put(block.mlp.down_proj.weight.T, layers.down[layer])
    assert hf.config.hidden_size == N_HEADS * D_HEAD
    return hf
