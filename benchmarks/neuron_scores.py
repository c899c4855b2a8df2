"""Scores of all neurons (and heads) for six emotions, against a plain Hugging Face forward pass of the same prompts."""

from __future__ import annotations

import torch

from benchmarks import models
from benchmarks.timing import Comparison, median_ratio, paired, spread
from emotion_circuits.attribution import DirectAttribution, attribute_each


def run(n_pairs: int):
    """24 prompts of 80 tokens in one batch."""
    model = models.random_model()
    prompts, targets = models.prompts(24, 80), models.random_directions(model).targets()
    batches = list(model.batches(prompts, 24))

    def plain() -> None:
        with torch.no_grad():
            for batch in batches:
                model.hf(**batch.inputs(), use_cache=False, logits_to_keep=1)

    def own() -> dict:
        return attribute_each(model, prompts, targets, DirectAttribution(), batch_size=24)

    mine, theirs, _, _ = paired(own, plain, 3 * n_pairs)
    ratio, ratios = median_ratio(mine, theirs)
    yield Comparison(
        "neuron_scores", ratio, "own / plain forward", "<= 1.15", ratio <= 1.15, None,
        {
            "ratios": ratios, "model": repr(model), "prompts": "24 of 80 tokens, 6 emotions", "own": spread(mine),
            "plain forward, logits of the last token only": spread(theirs),
        },
    )  # fmt: skip
