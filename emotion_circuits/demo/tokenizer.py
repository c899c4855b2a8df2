"""The demo model's tokenizer: byte-level BPE trained on the demo corpus, with a chat template in the Qwen format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from emotion_circuits.demo.corpus import Example

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
"""Jinja; unlike Qwen's own it adds no system message where there is none."""

# The pre-tokenizer of the Qwen family, which Transformers restores when it meets the model type "qwen2".
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(corpus: Iterable[Example], vocab_size: int = 2304) -> PreTrainedTokenizerFast:
    """Train the tokenizer.

    Args:
        corpus: examples whose messages and replies give the merges.
        vocab_size: tokens in all, special ones and the 256 bytes included.

    Returns:
        A tokenizer with left padding; ``<|im_end|>`` ends a reply, ``<|endoftext|>`` pads.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, IM_START, IM_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((text for item in corpus for text in _texts(item)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def _texts(item: Example) -> list[str]:
    turns = [f"{message['role']}\n{message['content']}\n" for message in item.messages]
    return [*turns, f"assistant\n{item.reply}"]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load a saved tokenizer without the network."""
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def encode(tokenizer: PreTrainedTokenizerFast, corpus: Iterable[Example]) -> list[tuple[list[int], list[int]]]:
    """Encode examples as (prompt ids, reply ids); the reply ends with the end-of-turn token."""
    prompts, replies = [], []
    for item in corpus:
        turns = "".join(f"{IM_START}{turn['role']}\n{turn['content']}{IM_END}\n" for turn in item.messages)
        prompts.append(f"{turns}{IM_START}assistant\n")
        replies.append(item.reply + IM_END)
    core = tokenizer.backend_tokenizer
    encoded_prompts = core.encode_batch(prompts, add_special_tokens=False)
    encoded_replies = core.encode_batch(replies, add_special_tokens=False)
    return [(one.ids, two.ids) for one, two in zip(encoded_prompts, encoded_replies, strict=True)]
