"""Head importance of every head for six emotions, against one hooked pass per head (method.md, stage 4).

Own: `HeadImportance`, the closed form. Rival: for each head a forward pass of the batch in which the head's output is
zero, which stops at nothing and reads the normed residual that enters the layer's MLP; one pass serves all emotions.
"""

from __future__ import annotations

import torch

from benchmarks import models
from benchmarks.timing import Comparison, median_ratio, paired, relative, spread
from emotion_circuits.attribution import HeadImportance, attribute_each
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.targets import stacked_local

EVERY = 56  # of the 672 heads every 56th is run by the rival


def normed(model: HookedModel, batch: TokenBatch, layer: int, head: int | None) -> torch.Tensor:
    """``ln2(r_mid)`` of one layer at the last token, with a head zeroed or not."""
    kept, attention, norm = [], model.hf.model.layers[layer].self_attn, model.hf.model.layers[layer]
    d_head = model.dims.d_head

    def zero(module, args):
        z = args[0].clone()
        if head is not None:
            z[..., head * d_head : (head + 1) * d_head] = 0
        return (z,)

    handles = [
        attention.o_proj.register_forward_pre_hook(zero),
        norm.post_attention_layernorm.register_forward_hook(lambda module, args, out: kept.append(out[:, -1].clone())),
    ]
    with torch.no_grad():
        model.hf.model(**batch.inputs(), use_cache=False)
    for handle in handles:
        handle.remove()
    return kept[0]


def run(n_pairs: int):
    """28 layers of 24 heads, 80-token prompts, two prompts of each emotion."""
    model = models.random_model()
    prompts, directions = models.prompts(12, 80), models.random_directions(model)
    (batch,) = model.batches(prompts, 12, sort=False)
    targets = directions.targets()
    vectors = torch.stack([stacked_local(model, t, "resid_mid") for t in targets.values()])
    member = torch.tensor([[p.emotion == e for p in prompts] for e in targets]).float()
    heads = [(i // model.dims.n_heads, i % model.dims.n_heads) for i in range(0, 672, EVERY)]

    # Every head of a layer shares its clean pass, so these are not timed.
    clean = {layer: normed(model, batch, layer, None) @ vectors[:, layer].T for layer, _ in heads}

    def rival() -> torch.Tensor:
        columns = []
        for layer, head in heads:
            drop = clean[layer] - normed(model, batch, layer, head) @ vectors[:, layer].T  # batch emotion
            columns.append((member * drop.T).sum(1) / member.sum(1))
        return torch.stack(columns, dim=1)

    def own() -> dict:
        return attribute_each(model, prompts, targets, HeadImportance(), batch_size=12)

    mine, theirs, scores, slow = paired(own, rival, n_pairs)
    fast = torch.stack([torch.stack([scores[e].values.heads[l, h] for l, h in heads]) for e in targets])
    (ratio, ratios), error = median_ratio([t * EVERY for t in theirs], mine), relative(fast, slow)
    yield Comparison(
        "head_table", ratio, "rival / own", ">= 100, equal to 1e-4", ratio >= 100 and error <= 1e-4, error,
        {
            "ratios": ratios, "model": repr(model), "prompts": "12 of 80 tokens, 6 emotions",
            "own, all 672 heads": spread(mine), f"rival, {len(heads)} of 672 heads": spread(theirs),
            "rival, all heads": f"{len(heads)} evenly spaced heads timed, times {EVERY}; clean passes not counted",
        },
    )  # fmt: skip
