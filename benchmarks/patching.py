"""Activation patching of every head at the last position, against TransformerLens's own loop over hooks.

Own: `ActivationPatching` with a `CounterfactualPatch`. Rival: ``transformer_lens.patching.generic_activation_patch``
on the same weights (``model.tl``), one full forward pass per head, as that module does it; the setter patches the
last position alone.
"""

from __future__ import annotations

import pandas as pd
import torch

from benchmarks import models
from benchmarks.timing import Comparison, median_ratio, paired, relative, spread
from emotion_circuits.attribution import ActivationPatching, attribute
from emotion_circuits.interventions import CounterfactualPatch, Samples
from emotion_circuits.targets import LogitDifference

EVERY = 48  # of the 672 heads every 48th is run by the rival
TOKENS, AGAINST = (5, 9), (7, 11)


def run(n_pairs: int):
    """8 prompts of 80 tokens, each with a counterfactual of the same length."""
    from transformer_lens import patching

    model = models.random_model()
    prompts, others = models.prompts(8, 80), models.prompts(16, 80)[8:]
    (batch,), (other,) = model.batches(prompts, 8, sort=False), model.batches(others, 8, sort=False)
    _, cache = model.tl.run_with_cache(other.ids, names_filter=lambda name: name.endswith("attn.hook_z"))
    source = Samples(heads=model.record(others, "head"))
    cells = [(i // model.dims.n_heads, i % model.dims.n_heads) for i in range(0, 672, EVERY)]
    table = pd.DataFrame(cells, columns=["layer", "head"])

    def metric(logits: torch.Tensor) -> torch.Tensor:
        last = logits[:, -1]
        return (last[:, list(TOKENS)].mean(-1) - last[:, list(AGAINST)].mean(-1)).mean()

    def setter(activation, index, clean):
        layer_head = index[1]
        activation[:, -1, layer_head] = clean[:, -1, layer_head]
        return activation

    with torch.no_grad():
        before = metric(model.tl(batch.ids))

    def rival() -> torch.Tensor:
        with torch.no_grad():
            patched = patching.generic_activation_patch(model.tl, batch.ids, cache, metric, setter, "z", index_df=table)
        return before - patched

    def own():
        method = ActivationPatching(CounterfactualPatch(source))
        return attribute(model, prompts, LogitDifference(TOKENS, AGAINST), method, batch_size=8)

    mine, theirs, scores, slow = paired(own, rival, n_pairs)
    fast = torch.stack([scores.values.heads[l, h] for l, h in cells])
    (ratio, ratios), error = median_ratio([t * EVERY for t in theirs], mine), relative(fast, slow.flatten())
    yield Comparison(
        "patching", ratio, "rival / own", ">= 30", ratio >= 30 and error <= 1e-4, error,
        {
            "ratios": ratios, "model": repr(model), "prompts": "8 of 80 tokens",
            "own, all 672 heads": spread(mine), f"TransformerLens, {len(cells)} of 672 heads": spread(theirs),
            "TransformerLens, all heads": f"{len(cells)} evenly spaced heads timed, times {EVERY}",
        },
    )  # fmt: skip
