"""Random models of the shapes that benchmarks need, and prompts of an exact length."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from emotion_circuits.data.prompts import Prompt
from emotion_circuits.directions import EmotionDirections
from emotion_circuits.model import HookedModel
from emotion_circuits.types import EKMAN


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Every word ``w<i>`` is token i, so that a prompt of n words has n tokens."""
    words = {f"w{i}": i for i in range(vocabulary)}
    inner = Tokenizer(WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="w0", eos_token="w0")


def random_model(
    *, layers: int = 28, heads: int = 24, key_value_heads: int = 8, d_head: int = 16, d_model: int = 384,
    d_mlp: int = 1024, vocabulary: int = 1000, seed: int = 0, implementation: str = "sdpa",
) -> HookedModel:  # fmt: skip
    """A Qwen2 model in float32 with weights large enough for effects to stand out from rounding."""
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=d_model, intermediate_size=d_mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_value_heads, head_dim=d_head,
        max_position_embeddings=4096, tie_word_embeddings=False, attn_implementation=implementation,
    )  # fmt: skip
    torch.manual_seed(seed)
    return HookedModel.from_hf(Qwen2ForCausalLM(config).eval(), tokenizer(vocabulary), name="benchmark")


def prompts(n: int, length: int, vocabulary: int = 1000, emotions: tuple[str, ...] = EKMAN) -> list[Prompt]:
    """``n`` prompts of ``length`` tokens, the emotions in turn."""
    generator = torch.Generator().manual_seed(n * 10_007 + length)
    ids = torch.randint(1, vocabulary, (n, length), generator=generator)
    return [
        Prompt(text=" ".join(f"w{i}" for i in row.tolist()), emotion=emotions[k % len(emotions)] if emotions else None)
        for k, row in enumerate(ids)
    ]


def random_directions(model: HookedModel, emotions: tuple[str, ...] = EKMAN, seed: int = 1) -> EmotionDirections:
    """Unit directions that lean to one common vector per emotion, as fitted ones do."""
    d, generator = model.dims, torch.Generator().manual_seed(seed)
    common = torch.randn(len(emotions), d.d_model, generator=generator)
    own = torch.randn(2, d.n_layers, len(emotions), d.d_model, generator=generator)
    vectors = torch.nn.functional.normalize(common + 0.2 * own, dim=-1)
    shape = (2, d.n_layers, len(emotions))
    return EmotionDirections(
        emotions=emotions, vectors=vectors, norms=torch.ones(shape), sigma=torch.rand(2, d.n_layers) + 0.5, n_groups=1,
        split_half=torch.ones(shape), variance_group=torch.zeros(shape[:2]), variance_emotion=torch.zeros(shape[:2]),
    )  # fmt: skip
