"""Qwen2.5-7B-Instruct's real shape with random weights: check, directions, attribution; time and peak memory.

``python -m benchmarks.real_shape`` needs a GPU with 24 GB or more and no download; ``--small`` tries the script itself
on a model of two narrow layers.
"""

from __future__ import annotations

import argparse
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import emotion_circuits as ec
from benchmarks.models import tokenizer
from emotion_circuits.data.prompts import Prompt

LARGE = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768,
}  # fmt: skip
SMALL = LARGE | {
    "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip


def model(config: dict, device: str) -> ec.HookedModel:
    """A random model in bfloat16, made on the device itself."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            hf = Qwen2ForCausalLM(Qwen2Config(**config)).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    return ec.HookedModel.from_hf(hf, tokenizer(1000), name="Qwen2.5-7B-Instruct, random weights")


def prompts(n_items: int, length: int) -> list[Prompt]:
    """Every item under each of the six emotions."""
    draws = torch.randint(1, 1000, (n_items, len(ec.EKMAN), length), generator=torch.Generator().manual_seed(1))
    return [
        Prompt(
            text=" ".join(f"w{i}" for i in draws[item, e].tolist()), emotion=emotion, item=str(item), valence="neutral"
        )
        for item in range(n_items)
        for e, emotion in enumerate(ec.EKMAN)
    ]


def timed(name: str, device: str, work):
    """Run ``work`` and print how long it took, and the most memory that it had."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    result = work()
    if cuda:
        torch.cuda.synchronize()
    peak = f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if cuda else ""
    print(f"{name}: {time.perf_counter() - start:.1f} s{peak}", flush=True)
    return result


def main() -> None:
    """Print each stage's prediction, its time and its peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="two narrow layers instead of the 7B model")
    parser.add_argument("--items", type=int, default=480, help="scenarios, each run under six emotions")
    parser.add_argument("--tokens", type=int, default=100, help="tokens of a prompt")
    asked = parser.parse_args()
    wrapped = timed("load", asked.device, lambda: model(SMALL if asked.small else LARGE, asked.device))
    print(timed("check", asked.device, wrapped.check))
    given, plain = prompts(asked.items, asked.tokens), prompts(max(1, asked.items // 6), asked.tokens)
    for stage in ("directions", "attribute"):
        print(wrapped.estimate(stage, len(given), asked.tokens))
    directions = timed("directions", asked.device, lambda: ec.fit_directions(wrapped, given))
    timed("attribute", asked.device, lambda: ec.attribute_each(wrapped, given, directions.targets()))
    print(wrapped.estimate("influence", len(plain), asked.tokens))
    timed("influence", asked.device, lambda: ec.sublayer_influence(wrapped, plain, directions))


if __name__ == "__main__":
    main()
