"""Random models small enough for tests, built from configurations, with a tokenizer made on the spot."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)  # fmt: skip

from emotion_circuits.model import HookedModel

TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
WORDS = """system user assistant always reply in anger sadness happiness fear surprise disgust keep the to at most two
    sentences . , I moved my desk window it was warm dark cold bright and a friend called work home rain fell bus
    late""".split()

ARCHITECTURES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "llama": (
        LlamaConfig, LlamaForCausalLM,
        {"rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        }},
    ),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 8}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "phi3": (Phi3Config, Phi3ForCausalLM, {"pad_token_id": 0}),
}  # fmt: skip


def tokenizer(chat_template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with the Qwen markers."""
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "[UNK]", *dict.fromkeys(WORDS)]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    result = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="[UNK]"
    )
    result.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    result.chat_template = chat_template
    return result


def hf_model(architecture: str = "qwen2", *, seed: int = 0, dtype: torch.dtype = torch.float32, **options):
    """A random Hugging Face model of 3 layers, 4 heads over 2 key-value heads, d_model 32, 48 neurons a layer."""
    config_class, model_class, own = ARCHITECTURES[architecture]
    config = config_class(
        **{
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
            "eos_token_id": 2, "bos_token_id": None, "pad_token_id": 0,
        } | own | options
    )  # fmt: skip
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than the usual initialisation, so that effects stand out from rounding.
            parameter.copy_(torch.randn_like(parameter) * (0.25 if parameter.ndim > 1 else 0.1))
            if parameter.ndim == 1 and "gemma" not in architecture:
                parameter.add_(1.0)
    return model.to(dtype)


def model(architecture: str = "qwen2", **options) -> HookedModel:
    """A wrapped random model."""
    return HookedModel.from_hf(hf_model(architecture, **options), tokenizer(), name=f"tiny-{architecture}")
