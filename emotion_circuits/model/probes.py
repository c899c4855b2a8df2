"""Probes: what `check` tests, one function each.

A probe yields a figure and where it was seen, for everything that it looks at; the largest counts. Figures are
differences relative to the largest value of the same token, so that one token with huge activations hides nothing.

The twin runs Hugging Face's eager attention, the model itself usually a fused one; the twin is therefore held against
the model run eagerly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from transformers import GenerationConfig

from emotion_circuits.errors import ModelError
from emotion_circuits.interventions import Patch, Scale
from emotion_circuits.model.sites import HOOK_NAME
from emotion_circuits.model.suffix import Edit, SuffixRun
from emotion_circuits.model.trial import Place, Trial, largest, relative, wide
from emotion_circuits.model.writes import SUBLAYER_OF, norm_weight, unit_writes, write_scale
from emotion_circuits.nodes import NodeSet, Residual
from emotion_circuits.types import NodeKind, Site

Figures = Iterator[tuple[float, str]]
Probe = Callable[[Trial], Figures]

NEW_TOKENS = 6


def twin_logits(trial: Trial) -> Figures:
    """The TransformerLens twin's logits."""
    for i, sequence in enumerate(trial.sequences):
        yield relative(trial.model.tl(trial.ids(sequence))[0], trial.eager_logits[i]), f"prompt {i}"


def twin_sites(trial: Trial) -> Figures:
    """The twin's activations at every site."""
    names: dict[str, Place] = {f"blocks.{l}.{HOOK_NAME[s]}": (s, l) for s in trial.sites for l in trial.layers}
    for i, sequence in enumerate(trial.sequences):
        _, cache = trial.model.tl.run_with_cache(trial.ids(sequence), names_filter=lambda name: name in names)
        with trial.eagerly():
            ours = trial.activations(sequence)
        for name, place in names.items():
            if name not in cache:
                raise ModelError(f"the twin's hook {name} was never called")
            theirs = cache[name][0].flatten(1)
            yield relative(theirs, _at(trial, ours, place).flatten(1)), f"{_where(*place)}, prompt {i}"


def hooked_logits(trial: Trial) -> Figures:
    """Logits with a hook on every site that changes nothing; exact."""
    with _idle_hooks(trial):
        for i, sequence in enumerate(trial.sequences):
            yield largest(trial.bare_logits(sequence) - trial.logits[i]), f"prompt {i}"


def residual_sums(trial: Trial) -> Figures:
    """Residual after a sublayer = residual before + what it wrote."""
    for i, seen in enumerate(trial.seen):
        for l in trial.layers:
            before, attention = (_at(trial, seen, ("resid_pre", l)), _at(trial, seen, ("attn_out", l)))
            mlp, after = (_at(trial, seen, ("mlp_out", l)), _at(trial, seen, ("resid_post", l)))
            if ("resid_mid", l) in seen:
                yield _sum_error(seen["resid_mid", l], before, attention), f"{_where('resid_mid', l)}, prompt {i}"
                yield _sum_error(after, seen["resid_mid", l], mlp), f"{_where('resid_post', l)}, prompt {i}"
            else:
                yield _sum_error(after, before, attention, mlp), f"{_where('resid_post', l)}, prompt {i}"


def head_sums(trial: Trial) -> Figures:
    """Sum of what the heads write = output of the attention."""
    return _node_sums(trial, "head", "attn_out")


def neuron_sums(trial: Trial) -> Figures:
    """Sum of what the neurons write = output of the MLP, so ``mlp.hook_post`` is what ``down_proj`` reads."""
    return _node_sums(trial, "neuron", "mlp_out")


def widths(trial: Trial) -> Figures:
    """Width of every hook, and the rows of the projections that read nodes; exact."""
    dims = trial.model.dims
    for (site, l), activation in trial.seen[0].items():
        expected = torch.Size(dims.unit_shape(site)).numel()
        yield float(activation.shape[-1] != expected), f"{_where(site, l)}: {activation.shape[-1]} for {expected}"
        if site in ("neuron", "head"):
            rows = trial.model.writes(site, l).flatten(0, -2).shape[0]
            yield float(rows != expected), f"{_where(site, l)}: {rows} rows for {expected}"


def padded(trial: Trial) -> Figures:
    """Logits in a left-padded batch = alone."""
    logits = trial.model.run(trial.batch).logits[:, -1]
    for i, alone in enumerate(trial.logits):
        yield relative(logits[i], alone[-1]), f"prompt {i}"


def cached(trial: Trial) -> Figures:
    """Logits token by token, from the key-value cache of a left-padded batch = all tokens at once."""
    steps = min(3, min(map(len, trial.sequences)) - 1)
    inputs, width, cache = trial.batch.inputs(), trial.batch.ids.shape[1], None
    for stop in range(width - steps, width + 1):
        start = 0 if cache is None else stop - 1
        out = trial.model.hf(
            input_ids=inputs["input_ids"][:, start:stop], position_ids=inputs["position_ids"][:, start:stop],
            attention_mask=inputs["attention_mask"][:, :stop], past_key_values=cache, use_cache=True,
        )  # fmt: skip
        cache = out.past_key_values
        for i, alone in enumerate(trial.logits):
            yield relative(out.logits[i, -1], alone[stop - width - 1]), f"prompt {i}, token {stop - width - 1}"


def greedy(trial: Trial) -> Figures:
    """Greedy tokens of a hooked, left-padded batch = Hugging Face's for a prompt alone; ties may break either way."""
    with _idle_hooks(trial):
        ours = _greedy(trial, trial.batch.ids, trial.batch.mask)
    for i, sequence in enumerate(trial.sequences):
        theirs = _greedy(trial, trial.ids(sequence), torch.ones(1, len(sequence), device=trial.model.device))[0]
        same = next((k for k, (a, b) in enumerate(zip(ours[i], theirs, strict=False)) if a != b), None)
        if same is None:
            yield 0.0, f"prompt {i}"
            continue
        logits = trial.bare_logits([*sequence, *theirs[:same]])[-1].double()
        gap = (logits[theirs[same]] - logits[ours[i][same]]).abs() / logits.abs().max()
        yield float(gap), f"prompt {i}, token {same}: {ours[i][same]} for {theirs[same]}"


def patches_on_both(trial: Trial) -> Figures:
    """A patch has the same effect on the Hugging Face model and on the twin."""
    model, ids = trial.model, trial.ids(trial.sequences[-1])
    nodes = NodeSet.empty(model)
    nodes.heads[:, 0], nodes.neurons[:, : model.dims.d_mlp // 2] = True, True
    with trial.eagerly(), model.patched(Patch(nodes, Scale(0.5), "all")):
        yield relative(model.tl(ids)[0], trial.bare_logits(trial.sequences[-1])), "half of the neurons and a head"


def suffix_passes(trial: Trial) -> Figures:
    """A suffix pass = the same change made by a hook."""
    model, layer = trial.model, trial.model.dims.n_layers // 2
    run = SuffixRun(model, trial.batch)
    changed = run.run([Edit("resid_pre", layer, 1, lambda resid, variants: resid * 0.5)])[:, 0]
    with model.patched(Patch(Residual.of(model, layer, site="resid_pre"), Scale(0.5), "last_prompt")):
        hooked = model.read(trial.batch, "resid_post", -1)
    for i in range(len(hooked)):
        yield relative(run.final()[i], trial.seen[i]["resid_post", trial.layers[-1]][-1]), f"prompt {i}, unchanged"
        yield relative(changed[i], hooked[i]), f"prompt {i}, changed before layer {layer}"


def shared_weights(trial: Trial) -> Figures:
    """Every weight of the twin lies in the memory of one of the Hugging Face model's; exact."""
    ours = {parameter.untyped_storage().data_ptr() for parameter in trial.model.hf.parameters()}
    for name, parameter in trial.model.tl.original_model.named_parameters():
        yield float(parameter.untyped_storage().data_ptr() not in ours), name


def hooks_removed(trial: Trial) -> Figures:
    """After all this: the same logits to the last bit, and no hook left; exact."""
    for i, sequence in enumerate(trial.sequences):
        yield largest(trial.bare_logits(sequence) - trial.logits[i]), f"prompt {i}"
    yield float(abs(trial.n_hooks() - trial.hooks_before)), "hooks left on modules"


def _sum_error(total: Tensor, *parts: Tensor) -> float:
    total, parts = wide(total), tuple(wide(part.to(total.device)) for part in parts)
    scale = torch.stack([total, *parts]).abs().amax(dim=0).amax(dim=-1, keepdim=True).clamp(min=1e-30)
    return largest((total - torch.stack(parts).sum(dim=0)) / scale)


def _node_sums(trial: Trial, kind: NodeKind, out: Site) -> Figures:
    for l in trial.layers if kind in trial.sites else ():
        projection, weight = trial.model.sites.port(kind, l).module, wide(unit_writes(trial.model, kind, l))
        norm, bias = trial.model.sites.write_norm(SUBLAYER_OF[kind], l), getattr(projection, "bias", None)
        for i, seen in enumerate(trial.seen):
            activation = _at(trial, seen, (kind, l)).flatten(1)
            written = activation.to(weight) @ weight
            if bias is not None:
                written = written + wide(bias if norm is None else bias * norm_weight(norm))
            scale = write_scale(trial.model, kind, l, activation)
            written = written if scale is None else written * scale[:, None]
            yield relative(written, _at(trial, seen, (out, l))), f"{_where(out, l)}, prompt {i}"


def _at(trial: Trial, seen: dict[Place, Tensor], place: Place) -> Tensor:
    if place not in seen:
        trial.model.sites.port(*place)  # says why the architecture has no such site
        raise ModelError(f"the hook of {_where(*place)} was never called")
    return seen[place]


def _where(site: Site, layer: int) -> str:
    return f"layer {layer} {site}"


@contextmanager
def _idle_hooks(trial: Trial) -> Iterator[None]:
    with ExitStack() as stack:
        for site in trial.sites:
            for layer in trial.layers:
                stack.callback(trial.model.sites.port(site, layer).attach(lambda activation: activation.clone()).remove)
        yield


def _greedy(trial: Trial, ids: Tensor, mask: Tensor) -> list[list[int]]:
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, repetition_penalty=1.0,
        no_repeat_ngram_size=0, pad_token_id=0,
    )  # fmt: skip
    out = trial.model.hf.generate(input_ids=ids, attention_mask=mask.long(), generation_config=settings)
    return out[:, ids.shape[1] :].tolist()
