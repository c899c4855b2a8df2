"""Generation under a circuit: against plain Hugging Face ``generate``, and against one prompt at a time with hooks.

The second rival is the reference's way (method.md, stage 7): each prompt alone, hooks that add the circuit's
differences in every forward pass, Hugging Face's ``generate`` with a key-value cache. It is as lean as such hooks can
be: differences are scattered into full vectors beforehand, one addition a site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from benchmarks import models
from benchmarks.timing import Comparison, Time, median_ratio, paired, spread
from emotion_circuits.activations import Activations, Contrast
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.data.sev import load_sev
from emotion_circuits.generation import GenerationConfig, end_tokens, generate
from emotion_circuits.interventions import Enhancement, Patch
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import NodeSet

N_PROMPTS = 96
N_TOKENS = 40
"""Two sentences."""
STRIDE = 8
"""Of the one-at-a-time prompts, every eighth is timed."""


def run(n_pairs: int) -> Iterator[Comparison]:
    """Both comparisons on a model of 28 layers and on the demo model."""
    subjects = {
        "28_layers": (models.random_model(), models.prompts(N_PROMPTS, 60, emotions=())),
        "demo": (HookedModel.demo(), load_sev("demo")[2].prompts()[:N_PROMPTS]),
    }
    for name, (model, prompts) in subjects.items():
        yield against_plain(name, model, prompts, n_pairs)
        yield against_one_at_a_time(name, model, prompts, n_pairs)


def against_plain(name: str, model: HookedModel, prompts: list[Prompt], n_pairs: int) -> Comparison:
    """Ours under a circuit over theirs without one: the same batch, the same number of tokens."""
    patch = circuit_of(model)
    config = GenerationConfig(max_new_tokens=N_TOKENS, min_new_tokens=N_TOKENS)
    (batch,) = model.batches(prompts, len(prompts))

    def own() -> None:
        generate(model, prompts, patch, config, batch_size=len(prompts))

    def plain() -> None:
        model.tokens(prompts)
        out = model.hf.generate(
            batch.ids, attention_mask=batch.mask.long(), do_sample=False, max_new_tokens=N_TOKENS,
            min_new_tokens=N_TOKENS, pad_token_id=model.tokenizer.pad_token_id,
        )  # fmt: skip
        model.tokenizer.batch_decode(out[:, batch.ids.shape[1] :], skip_special_tokens=True)

    mine, theirs, _, _ = paired(own, plain, n_pairs)
    ratio, ratios = median_ratio(theirs, mine)
    return Comparison(
        f"generation_{name}", ratio, "throughput under a circuit / plain Hugging Face generate", ">= 0.95",
        ratio >= 0.95, None,
        {
            "ratios": ratios, "model": repr(model), "circuit": f"{len(patch.nodes)} nodes",
            "prompts": f"{len(prompts)} in one batch, {N_TOKENS} new tokens each", "own": spread(mine),
            "plain": spread(theirs), "own tokens a second": _rate(mine, len(prompts)),
        },
    )  # fmt: skip


def against_one_at_a_time(name: str, model: HookedModel, prompts: list[Prompt], n_pairs: int) -> Comparison:
    """The reference's way over ours: its decoding settings in both."""
    patch = circuit_of(model)
    config = GenerationConfig(
        max_new_tokens=N_TOKENS, min_new_tokens=N_TOKENS, repetition_penalty=1.1, no_repeat_ngram_size=3
    )
    few = prompts[::STRIDE]

    def own() -> list[list[int]]:
        replies = generate(model, prompts, patch, config, batch_size=len(prompts))
        return [list(reply.tokens) for reply in replies][::STRIDE]

    def one_at_a_time() -> list[list[int]]:
        with naive_hooks(model, patch):
            return [alone(model, prompt) for prompt in few]

    mine, theirs, found, expected = paired(own, one_at_a_time, n_pairs)
    ratio, ratios = median_ratio([t * STRIDE for t in theirs], mine)
    same = sum(a == b for a, b in zip(found, expected, strict=True))
    return Comparison(
        f"generation_batched_{name}", ratio, f"one at a time / own, {N_PROMPTS} prompts", ">= 8", ratio >= 8, None,
        {
            "ratios": ratios, "model": repr(model), "prompts": f"{len(prompts)}, {N_TOKENS} new tokens each",
            "own": spread(mine), f"one at a time, {len(few)} prompts (times {STRIDE} in the ratio)": spread(theirs),
            "the same tokens": f"{same} of {len(few)} replies",
        },
    )  # fmt: skip


def circuit_of(model: HookedModel, size: int = 560) -> Patch:
    """30 % heads and 70 % neurons, at most 5 % of the model, drawn at random, with a small random contrast."""
    draw, dims = torch.Generator().manual_seed(3), model.dims
    size = min(size, dims.n_nodes // 20)
    n_heads = min(round(0.3 * size), dims.n_layers * dims.n_heads // 4)
    heads = torch.zeros(dims.n_layers * dims.n_heads, dtype=torch.bool)
    neurons = torch.zeros(dims.n_neurons, dtype=torch.bool)
    heads[torch.randperm(len(heads), generator=draw)[:n_heads]] = True
    neurons[torch.randperm(len(neurons), generator=draw)[: size - n_heads]] = True
    nodes = NodeSet(neurons.view(dims.n_layers, -1), heads.view(dims.n_layers, -1))

    def random_delta() -> Activations:
        return Activations(
            0.05 * torch.randn(dims.n_layers, dims.d_mlp, generator=draw),
            0.05 * torch.randn(dims.n_layers, dims.n_heads, dims.d_head, generator=draw),
        )

    return Patch(nodes, Enhancement(Contrast("anger", "emotions", random_delta(), random_delta())))


@contextmanager
def naive_hooks(model: HookedModel, patch: Patch) -> Iterator[None]:
    """Plain hooks on the output projections that add the circuit's differences at the newest token."""
    assert isinstance(patch.intervention, Enhancement)
    assert isinstance(patch.nodes, NodeSet)
    contrast = patch.intervention.contrast
    assert isinstance(contrast, Contrast)
    with ExitStack() as stack:
        for layer, block in enumerate(model.hf.model.layers):
            for module, site, mask in (
                (block.mlp.down_proj, "neuron", patch.nodes.neurons[layer]),
                (block.self_attn.o_proj, "head", patch.nodes.heads[layer][:, None]),
            ):
                if mask.any():
                    deltas = [(held.at(site, layer) * mask).flatten() for held in (contrast.prompt, contrast.reply)]  # type: ignore[union-attr]
                    stack.callback(module.register_forward_pre_hook(_adding(*deltas)).remove)
        yield


def _adding(prompt: torch.Tensor, reply: torch.Tensor) -> Callable:
    def hook(module, args):
        activation = args[0].clone()
        activation[:, -1] += reply if activation.shape[1] == 1 else prompt
        return (activation,)

    return hook


def alone(model: HookedModel, prompt: Prompt) -> list[int]:
    """One prompt's reply by Hugging Face's ``generate``."""
    ids = torch.tensor(model.tokens([prompt]))
    out = model.hf.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=N_TOKENS, min_new_tokens=N_TOKENS,
        repetition_penalty=1.1, no_repeat_ngram_size=3, eos_token_id=end_tokens(model),
        pad_token_id=model.tokenizer.pad_token_id,
    )  # fmt: skip
    return out[0, ids.shape[1] :].tolist()


def _rate(times: list[Time], n_prompts: int) -> str:
    fastest = min(t.clock for t in times)
    return f"{n_prompts * N_TOKENS / fastest:.0f} at best"
