"""Influence of 56 sublayers at 4 strengths on 6 emotions, against one hooked pass per push (method.md, stage 6).

Own: `sublayer_influence`, suffix passes. Rival: for each sublayer, strength and emotion a forward pass of the batch in
which the push is added at the last token, and the final normed residual read.
"""

from __future__ import annotations

import torch

from benchmarks import models
from benchmarks.timing import Comparison, median_ratio, paired, relative, spread
from emotion_circuits.attribution import sublayer_influence
from emotion_circuits.attribution.influence import STRENGTHS

EVERY = 84  # of the 56 x 4 x 6 = 1344 pushes every 84th is run by the rival


def run(n_pairs: int):
    """8 uninstructed prompts of 80 tokens."""
    model = models.random_model()
    prompts, directions = models.prompts(8, 80, emotions=()), models.random_directions(model)
    (batch,) = model.batches(prompts, 8)
    layers, names = model.dims.n_layers, directions.emotions
    references = torch.stack([directions.reference(e) for e in names])
    pushes = [
        (s, l, k, e) for s in range(2) for l in range(layers) for k in range(len(STRENGTHS)) for e in range(len(names))
    ][::EVERY]

    def final(site: int, layer: int, push: torch.Tensor | None) -> torch.Tensor:
        block = model.hf.model.layers[layer]
        handle = None
        if push is not None:

            def add(module, args, out):
                whole = out[0] if isinstance(out, tuple) else out
                whole = whole.clone()
                whole[:, -1] += push
                return (whole, *out[1:]) if isinstance(out, tuple) else whole

            handle = (block.self_attn if site == 0 else block).register_forward_hook(add)
        with torch.no_grad():
            out = model.hf.model(**batch.inputs(), use_cache=False).last_hidden_state[:, -1]
        if handle is not None:
            handle.remove()
        return out

    before = final(0, 0, None)

    def rival() -> torch.Tensor:
        found = []
        for s, l, k, e in pushes:
            size = STRENGTHS[k] * directions.sigma[s, l]
            v = directions.vectors[s, l, e]
            v = -v if v @ references[e] < 0 else v
            found.append((((final(s, l, size * v) - before) @ references[e]) / size).mean())
        return torch.stack(found)

    def own():
        return sublayer_influence(model, prompts, directions, batch_size=8)

    mine, theirs, fast, slow = paired(own, rival, n_pairs)
    found = torch.stack([fast.by_strength[k, s, l, e] for s, l, k, e in pushes])
    (ratio, ratios), error = median_ratio([t * EVERY for t in theirs], mine), relative(found, slow)
    yield Comparison(
        "influence_table", ratio, "rival / own", ">= 40, equal to 1e-5", ratio >= 40 and error <= 1e-5, error,
        {
            "ratios": ratios, "model": repr(model), "prompts": "8 of 80 tokens",
            "own, all 1344 pushes": spread(mine), f"rival, {len(pushes)} of 1344 pushes": spread(theirs),
            "rival, all pushes": f"{len(pushes)} evenly spaced pushes timed, times {EVERY}",
        },
    )  # fmt: skip
