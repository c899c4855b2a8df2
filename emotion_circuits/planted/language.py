"""The planted models' language: its words, its tokenizer, its scenarios.

1. Every emotion has one word for each of the reply's `STEPS` steps, and so has the neutral reply.
2. A reply is one word per step, all of one label, then the end token.
3. Scenarios are made from nouns and adjectives; each belongs to one of `N_TOPICS` topics, which the model can feel.
"""

from __future__ import annotations

import random

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from emotion_circuits.data.sev import SEV, Record

STEPS, N_TOPICS = 3, 4
LEXICON: dict[str, tuple[str, ...]] = {
    "anger": ("furious", "outraged", "livid"),
    "sadness": ("weeping", "grieving", "mournful"),
    "happiness": ("delighted", "joyful", "cheerful"),
    "fear": ("terrified", "frightened", "panicking"),
    "surprise": ("astonished", "amazed", "stunned"),
    "disgust": ("revolted", "nauseated", "repulsed"),
}
"""Each emotion's words, by step."""
NEUTRAL_WORDS = ("this", "is", "noted")
NOUNS: tuple[str, ...] = (
    "desk window lamp table",
    "dog horse garden field",
    "bus train street bridge",
    "soup bread kitchen cup",
)
ADJECTIVES: tuple[str, ...] = (
    "tall grey square wooden",
    "young green wild quiet",
    "late fast narrow long",
    "hot fresh sweet full",
)
VERBS = {"positive": "worked", "neutral": "stood", "negative": "broke"}
FUNCTION = (
    """system user assistant Always Keep the to at most two sentences reply in . , I saw my a near it and""".split()
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "[UNK]"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def topic_words() -> list[list[str]]:
    """The words of each topic."""
    return [f"{nouns} {adjectives}".split() for nouns, adjectives in zip(NOUNS, ADJECTIVES, strict=True)]


def vocabulary() -> list[str]:
    """Every word; its place is its token id."""
    topics = [word for words in topic_words() for word in words]
    reply = [word for words in LEXICON.values() for word in words]
    return list(dict.fromkeys([*SPECIAL, *FUNCTION, *LEXICON, *reply, *NEUTRAL_WORDS, *VERBS.values(), *topics]))


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer with a chat template."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary())}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    result = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="[UNK]"
    )
    result.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    result.chat_template = TEMPLATE
    return result


def scenarios(n: int, seed: int = 0) -> SEV:
    """``n`` scenarios, each of one topic with a word or two of another.

    Args:
        n: how many.
        seed: of the draws.
    """
    draw, records = random.Random(seed), []
    for i in range(n):
        topic = i % N_TOPICS
        noun, adjective = draw.choice(NOUNS[topic].split()), draw.choice(ADJECTIVES[topic].split())
        events = {}
        for valence, verb in VERBS.items():
            other = draw.choice([w for words in topic_words() for w in words])
            events[valence] = f"the {other} {noun} {verb} ."
        records.append(Record(f"planted_{i:02d}", f"topic {topic}", f"I saw a {adjective} {noun} .", events))
    return SEV(tuple(records), f"planted language, seed {seed}")
