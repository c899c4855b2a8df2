"""Recording the last position of every residual, neuron and head: time and memory.

Time against a plain Hugging Face forward pass; memory against TransformerLens's ``run_with_cache`` without a filter.
"""

from __future__ import annotations

import torch

from benchmarks import models
from benchmarks.timing import Comparison, median_ratio, paired, spread

SITES = ("resid_mid", "resid_post", "neuron", "head")


def run(n_pairs: int):
    """24 prompts of 80 tokens in one batch."""
    model = models.random_model()
    prompts = models.prompts(24, 80)
    batches = list(model.batches(prompts, 24))

    def plain() -> None:
        with torch.no_grad():
            for batch in batches:
                model.hf(**batch.inputs(), use_cache=False, logits_to_keep=1)

    def own() -> int:
        kept = [values for _, values in model.stream(prompts, SITES, batch_size=24)]
        return sum(tensor.nbytes for values in kept for tensor in values.values())

    mine, theirs, held, _ = paired(own, plain, 3 * n_pairs)
    ratio, ratios = median_ratio(mine, theirs)
    yield Comparison(
        "recording_time", ratio, "own / plain forward", "<= 1.15", ratio <= 1.15, None,
        {
            "ratios": ratios, "model": repr(model), "prompts": "24 of 80 tokens", "sites": ", ".join(SITES),
            "own": spread(mine),
            "plain forward, logits of the last token only": spread(theirs),
        },
    )  # fmt: skip
    with torch.no_grad():
        _, cache = model.tl.run_with_cache(batches[0].ids)
    everything = len(batches) * storage(cache.values())
    share = held / everything
    yield Comparison(
        "recording_memory", share, "own / run_with_cache", "< 0.05", share < 0.05, None,
        {
            "own": f"{held / 2**20:.1f} MiB", "run_with_cache": f"{everything / 2**20:.1f} MiB",
            "counted as": "each storage once, however many tensors view it",
        },
    )  # fmt: skip


def storage(tensors) -> int:
    """Bytes of the storages behind some tensors."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
