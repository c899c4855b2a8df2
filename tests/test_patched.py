"""Patches: the right activations at the right tokens of the right rows, and nothing left behind."""

from __future__ import annotations

import pytest
import tiny
import torch
from helpers import hooks_left, ids_of, naive_run, prompts, unchecked

import emotion_circuits as ec
from emotion_circuits.errors import DataError, NodeError, PatchError, PromptError
from emotion_circuits.evaluation.text_quality import log_likelihoods
from emotion_circuits.model.suffix import Edit, SuffixRun
from emotion_circuits.types import POSITIONS

FEW = ("L0N3", "L1N7", "L1N40", "L2N1", "L0H2", "L1H0", "L1H3")


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def zero(model, *names: str, positions="all", rows=None) -> ec.Patch:
    return ec.Patch(ec.NodeSet.of(model, *(names or FEW)), ec.ZeroAblation(), positions, rows)


def random_activations(model, seed: int = 0) -> ec.Activations:
    draw, d = torch.Generator().manual_seed(seed), model.dims
    shapes = ((d.d_mlp,), (d.n_heads, d.d_head), (d.d_model,), (d.d_model,))
    drawn = [torch.randn(d.n_layers, *shape, generator=draw) for shape in shapes]
    drawn[3] = torch.nn.functional.normalize(drawn[3], dim=-1)  # also serves as directions
    return ec.Activations(*drawn)


def ids_batch(model, n: int = 3) -> ec.TokenBatch:
    (batch,) = model.batches(prompts(n), sort=False)
    return batch


# What a patch does


def test_zero_ablation_is_the_naive_one(any_model) -> None:
    asked, edits = prompts(3), {}
    for layer, site, units in (
        (0, "neuron", [3]),
        (1, "neuron", [7, 40]),
        (2, "neuron", [1]),
        (0, "head", [2]),
        (1, "head", [0, 3]),
    ):
        edits[site, layer] = lambda value, units=units: value.index_fill(1, torch.tensor(units), 0.0)
    naive = torch.stack([naive_run(any_model.hf, ids_of(any_model, p), edits)["logits"][-1] for p in asked])
    plain = any_model.logits(asked)
    assert (naive - plain).abs().max() > 0.01
    with any_model.patched(zero(any_model)):
        close(any_model.logits(asked), naive)


def test_hf_and_tl_are_patched_alike(any_model) -> None:
    ids = torch.tensor([ids_of(any_model, prompts(2)[1])])
    patches = [
        zero(any_model, positions="last"),
        ec.Patch(ec.Residual.of(any_model, 0), ec.Steering(random_activations(any_model).resid_post, 0.3), "all"),
        ec.Patch(ec.Residual.of(any_model, 1, site="resid_mid"), ec.Scale(0.5), "prompt"),
    ]
    clean = any_model.hf(ids).logits
    for some in ([patches[0]], [patches[1]], [patches[2]], patches):
        with any_model.patched(*some):
            hf, tl = any_model.hf(ids).logits, any_model.tl(ids)
        assert (hf - clean).abs().max() > 1e-3
        close(tl, hf, 1e-4)
    torch.testing.assert_close(any_model.tl(ids), any_model.tl(ids), atol=0, rtol=0)


@pytest.mark.parametrize("site", ["resid_mid", "resid_post"])
def test_residual_writes_are_the_naive_ones(any_model, site: str) -> None:
    vectors, asked = random_activations(any_model).resid_mid, prompts(2)
    edit = {(site, 1): lambda r: 0.3 * r + vectors[1]}
    naive = torch.stack([naive_run(any_model.hf, ids_of(any_model, p), edit)["logits"][-1] for p in asked])

    class Affine:
        acts_on = ("residual",)

        def __call__(self, activation, where):
            return 0.3 * activation + vectors[where.layer]

    with any_model.patched(ec.Patch(ec.Residual.of(any_model, 1, site=site), Affine(), "all")):
        close(any_model.logits(asked), naive)


def test_a_write_to_resid_mid_is_seen_by_the_mlp_and_by_the_skip(any_model) -> None:
    patch = ec.Patch(ec.Residual.of(any_model, 1, site="resid_mid"), ec.ZeroAblation(), "all")
    with any_model.patched(patch):
        mlp, post = any_model.record(prompts(2), "mlp_out"), any_model.record(prompts(2), "resid_post")
    close(post[1], mlp[1])


FORMULAS = {
    "zero": (lambda a: ec.ZeroAblation(), lambda x, m, v: torch.zeros_like(x)),
    "mean": (lambda a: ec.MeanAblation(a), lambda x, m, v: m.expand_as(x)),
    "enhancement": (lambda a: ec.Enhancement(a, -1.5), lambda x, m, v: x - 1.5 * m),
    "scale": (lambda a: ec.Scale(0.25), lambda x, m, v: 0.25 * x),
    "clamp": (lambda a: ec.Clamp(-0.2, 0.1), lambda x, m, v: x.clip(-0.2, 0.1)),
    "clamp one side": (lambda a: ec.Clamp(high=0.1), lambda x, m, v: x.clip(max=0.1)),
    "steering": (lambda a: ec.Steering(a.resid_post, 0.2), lambda x, m, v: x + 0.2 * x.norm(dim=-1, keepdim=True) * v),
    "alpha": (
        lambda a: ec.Steering.from_alpha(a.resid_post, 3.0),
        lambda x, m, v: x + 3.0 * x.square().mean(-1, keepdim=True).sqrt() * v,
    ),
    "project out": (lambda a: ec.ProjectOut(a.resid_post), lambda x, m, v: x - (x @ v)[:, None] * v),
    "reflect": (lambda a: ec.ProjectOut(a.resid_post, 2.0), lambda x, m, v: x - 2 * (x @ v)[:, None] * v),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("site", ["neuron", "head", "resid_post"])
def test_every_intervention_is_its_formula(qwen, name: str, site: str) -> None:
    make, formula = FORMULAS[name]
    held = random_activations(qwen)
    place = (
        ec.Residual.of(qwen, 1)
        if site == "resid_post"
        else ec.NodeSet.of(qwen, "L1N2", "L1N5", "L1H0", "L1H2").only(site)
    )
    intervention = make(held)
    if ("residual" if site == "resid_post" else "nodes") not in intervention.acts_on:
        with pytest.raises(
            PatchError, match=f"{type(intervention).__name__} acts on residual, but was given NodeSet; use Residual"
        ):
            ec.Patch(place, intervention)
        return
    units = {"neuron": [2, 5], "head": [0, 2], "resid_post": slice(None)}[site]
    clean = qwen.record(prompts(3), site)[1][:, units]
    with qwen.patched(ec.Patch(place, intervention)):
        after = qwen.record(prompts(3), site)[1]
    expected = formula(clean, held.at(site, 1)[units], held.resid_post[1])
    close(after[:, units], expected)
    others = [i for i in range(after.shape[1]) if site != "resid_post" and i not in units]
    close(after[:, others], qwen.record(prompts(3), site)[1][:, others])


def test_enhancement_by_phase(qwen) -> None:
    at_prompt, at_reply = random_activations(qwen, 1), random_activations(qwen, 2)
    contrast = ec.Contrast("anger", "emotions", at_prompt, at_reply)
    replies = ec.Replies(tuple(ec.Reply(p, "", (5, 6, 7)[: n + 1]) for n, p in enumerate(prompts(3))))
    for kind, nodes in (("neuron", "L2N5"), ("head", "L2H1")):
        unit = int(nodes[-1])
        patch = ec.Patch(ec.NodeSet.of(qwen, nodes), ec.Enhancement(contrast, 2.0), "last")
        for position, delta in (("last_prompt", at_prompt), ("generated", at_reply)):
            clean = qwen.record(replies, kind, positions=position)[2][:, unit]
            with qwen.patched(patch):
                changed = qwen.record(replies, kind, positions=position)[2][:, unit]
            close(changed - clean, 2 * delta.at(kind, 2)[unit].expand_as(clean))


def test_patches_at_one_place_act_in_order(qwen) -> None:
    nodes, held = ec.NodeSet.of(qwen, "L1N2"), random_activations(qwen)
    add, halve = ec.Patch(nodes, ec.Enhancement(held)), ec.Patch(nodes, ec.Scale(0.5))
    clean, delta = qwen.record(prompts(2), "neuron")[1, :, 2], held.neurons[1, 2]
    for patches, expected in (((add, halve), (clean + delta) / 2), ((halve, add), clean / 2 + delta)):
        with qwen.patched(*patches):
            close(qwen.record(prompts(2), "neuron")[1, :, 2], expected)
        with qwen.patched(patches[0]), qwen.patched(patches[1]):
            close(qwen.record(prompts(2), "neuron")[1, :, 2], expected)


def test_exchanges(qwen) -> None:
    asked = prompts(5)
    source = ec.Samples(qwen.record(list(reversed(asked)), "neuron"), qwen.record(list(reversed(asked)), "head"))
    nodes = ec.NodeSet.of(qwen, "L0N3", "L0N9", "L0H1")
    for batch_size in (2, None):
        with qwen.patched(ec.Patch(nodes, ec.CounterfactualPatch(source))):
            neurons, heads = (qwen.record(asked, site, batch_size=batch_size) for site in ("neuron", "head"))
        close(neurons[0][:, [3, 9]], source.neurons[0][:, [3, 9]])
        close(heads[0][:, 1], source.heads[0][:, 1])
    drawn = []
    for batch_size in (2, None):
        with qwen.patched(ec.Patch(nodes, ec.ResampleAblation(source, seed=3))):
            drawn.append(qwen.record(asked, "neuron", batch_size=batch_size)[0][:, [3, 9]])
    close(drawn[0], drawn[1])
    for i, row in enumerate(drawn[0]):
        origin = [j for j in range(5) if torch.allclose(row, source.neurons[0, j, [3, 9]], atol=1e-5)]
        assert origin
        assert origin != [i]
    groups = ec.ResampleAblation(source, groups=((0, 0, 0, 1, 1), (0, 0, 0, 1, 1)))
    with qwen.patched(ec.Patch(nodes, groups)):
        close(qwen.record(asked, "neuron")[0, 3, 3], source.neurons[0, 4, 3])
    short = ec.Patch(nodes, ec.CounterfactualPatch(ec.Samples(source.neurons[:, :3], source.heads[:, :3])))
    message = "sample 4 has no counterfactual: the source holds 3 samples"
    with pytest.raises(PatchError, match=message), qwen.patched(short):
        qwen.logits(asked)
    with pytest.raises(PatchError, match="no head activations were recorded to exchange"):  # noqa: SIM117
        with qwen.patched(ec.Patch(nodes, ec.CounterfactualPatch(ec.Samples(source.neurons)))):
            qwen.logits(asked)


# Nothing is left behind


def test_outputs_are_bit_identical_afterwards(any_model) -> None:
    ids = torch.tensor([ids_of(any_model, prompts(1)[0])])
    hf, tl, hooks = any_model.hf(ids).logits, any_model.tl(ids), hooks_left(any_model.hf, any_model.tl)
    with any_model.patched(zero(any_model)) as same:
        assert same is any_model
        any_model.hf(ids)
        any_model.tl(ids)
    assert torch.equal(any_model.hf(ids).logits, hf)
    assert torch.equal(any_model.tl(ids), tl)
    assert hooks_left(any_model.hf, any_model.tl) == hooks


class Failing:
    acts_on = ("nodes", "residual")

    def __call__(self, activation, where):
        raise RuntimeError("inside the forward pass")


def test_outputs_are_bit_identical_after_an_exception(any_model) -> None:
    ids = torch.tensor([ids_of(any_model, prompts(1)[0])])
    hf, tl, hooks = any_model.hf(ids).logits, any_model.tl(ids), hooks_left(any_model.hf, any_model.tl)
    nodes = ec.NodeSet.of(any_model, "L1N1")
    for run in (lambda: any_model.hf(ids), lambda: any_model.tl(ids), lambda: any_model.record(prompts(2), "head")):
        with (
            pytest.raises(RuntimeError, match="inside the forward pass"),
            any_model.patched(zero(any_model), ec.Patch(nodes, Failing())),
        ):
            run()
        with pytest.raises(ZeroDivisionError), any_model.patched(zero(any_model)):
            raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="inside"):
        ec.generate(any_model, prompts(2), ec.Patch(nodes, Failing()))
    assert torch.equal(any_model.hf(ids).logits, hf)
    assert torch.equal(any_model.tl(ids), tl)
    assert hooks_left(any_model.hf, any_model.tl) == hooks


def test_an_empty_patch_changes_nothing(qwen) -> None:
    asked = prompts(3)
    clean = qwen.logits(asked)
    none = ec.Patch(ec.NodeSet.empty(qwen), ec.ZeroAblation(), "all")
    for patches in ((), (none,), (zero(qwen, rows=()),)):
        with qwen.patched(*patches):
            assert torch.equal(qwen.logits(asked), clean)


# Positions


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("architecture", ["qwen2", "gemma2", "mistral"])
def test_positions_mean_the_same_with_and_without_a_cache(architecture: str, positions) -> None:
    model = tiny.model(architecture)
    batch, settings = ids_batch(model), {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    seen: dict[bool, list] = {True: [], False: []}

    class Spy:
        acts_on = ("nodes",)

        def __call__(self, activation, where):
            seen[cached].append(activation.shape[1])
            return activation * 0.0

    patch = ec.Patch(ec.NodeSet.of(model, *FEW).only("neuron") | ec.NodeSet.all(model).only("head"), Spy(), positions)
    outputs = []
    for cached in (True, False):
        with model.patched(patch):
            outputs.append(model.hf.generate(batch.ids, attention_mask=batch.mask.long(), use_cache=cached, **settings))
    assert torch.equal(*outputs)
    assert 1 in seen[True] or positions in ("prompt", "last_prompt")
    assert seen[False]
    assert min(seen[False]) > 1


def test_what_continues_a_prompt_and_what_is_a_new_one(qwen) -> None:
    """Where a patch at the last prompt token acts, call by call."""
    ids = torch.arange(5, 15)[None]
    acted: list[list[int]] = []

    class Spy:
        acts_on = ("nodes",)

        def __call__(self, activation, where):
            return activation * 0

    hook = qwen.hf.model.layers[1].mlp.down_proj

    def look(module, args) -> None:
        acted.append((args[0][0, :, 4] == 0).nonzero().flatten().tolist())

    def calls(*widths: int) -> list[list[int]]:
        acted.clear()
        with qwen.patched(ec.Patch(ec.NodeSet.of(qwen, "L1N4"), Spy(), "last_prompt")):
            handle = hook.register_forward_pre_hook(look)
            for width in widths:
                qwen.hf(ids[:, :width])
            handle.remove()
        return list(acted)

    assert calls(6, 7, 8) == [[5], [5], [5]]  # generated one by one
    assert calls(6, 9) == [[5], [8]]  # a longer prompt that begins alike
    assert calls(6, 7, 9, 10) == [[5], [5], [8], [8]]
    assert calls(6, 6) == [[5], [5]]
    acted.clear()
    with qwen.patched(ec.Patch(ec.NodeSet.of(qwen, "L1N4"), Spy(), "generated")):
        handle = hook.register_forward_pre_hook(look)
        cache = qwen.hf(ids[:, :4], use_cache=True).past_key_values
        qwen.hf(ids[:, 4:7], past_key_values=cache)  # several at once, as a draft is verified
        qwen.hf(ids[:, :5])  # begins like the prompt, but is not the next call
        handle.remove()
    assert acted == [[], [0, 1, 2], []]


@pytest.mark.parametrize("positions", POSITIONS)
def test_which_tokens_a_position_means(qwen, positions) -> None:
    # A prompt of 4 tokens and a reply of 3, on either padding: the neuron is zero exactly at the tokens meant.
    meant = {"last_prompt": [3], "prompt": [0, 1, 2, 3], "generated": [4, 5, 6], "last": [3, 4, 5, 6], "all": range(7)}[
        positions
    ]
    ids = torch.tensor([5, 6, 7, 8, 9, 10, 11])
    held: list[torch.Tensor] = []
    handle = qwen.hf.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda m, args: held.append(args[0][..., 4].clone())
    )
    try:
        with qwen.patched(zero(qwen, "L1N4", positions=positions), prompt_width=4):
            qwen.hf(ids[None])
        handle.remove()
        # Hooks of the patch run first when they were there first.
        with qwen.patched(zero(qwen, "L1N4", positions=positions), prompt_width=4):
            handle = qwen.hf.model.layers[1].mlp.down_proj.register_forward_pre_hook(
                lambda m, args: held.append(args[0][..., 4].clone())
            )
            qwen.hf(ids[None])
    finally:
        handle.remove()
    assert (held[1][0] == 0).nonzero().flatten().tolist() == list(meant)
    kept = [i for i in range(7) if i not in meant]
    assert torch.equal(held[0][0, kept], held[1][0, kept])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["last_prompt", "last", "prompt", "all"])
def test_padding_side_does_not_matter(qwen, side: str, positions) -> None:
    asked = prompts(3)
    sequences = [ids_of(qwen, p) for p in asked]
    width = max(map(len, sequences))
    ids, mask = torch.zeros(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.long)
    last = []
    for row, sequence in enumerate(sequences):
        start = 0 if side == "right" else width - len(sequence)
        ids[row, start : start + len(sequence)] = torch.tensor(sequence)
        mask[row, start : start + len(sequence)] = 1
        last.append(start + len(sequence) - 1)
    alone = []
    for sequence in sequences:
        with qwen.patched(zero(qwen, positions=positions)):
            alone.append(qwen.hf(torch.tensor([sequence])).logits[0, -1])
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    with qwen.patched(zero(qwen, positions=positions)):
        together = qwen.hf(ids, attention_mask=mask, position_ids=position_ids).logits
    close(together[torch.arange(3), last], torch.stack(alone))


def test_positions_of_replies_that_are_read_again(qwen) -> None:
    # What generate does token by token, a forward pass over the finished reply does at once.
    patch = zero(qwen, positions="generated")
    config = ec.GenerationConfig(max_new_tokens=5)
    replies = ec.generate(qwen, prompts(4), patch, config)
    with qwen.patched(patch):
        scored = log_likelihoods(qwen, replies, batch_size=3)
        single = [log_likelihoods(qwen, ec.Replies((r,)))[0] for r in replies]
    for values, reply, alone in zip(scored, replies, single, strict=True):
        close(values, alone)
        ids = ids_of(qwen, reply.prompt)
        with qwen.patched(patch, prompt_width=len(ids)):
            logits = qwen.hf(torch.tensor([[*ids, *reply.tokens]])).logits[0, len(ids) - 1 : -1]
        close(values, logits.log_softmax(-1)[range(len(reply.tokens)), list(reply.tokens)])
        assert logits.argmax(-1).tolist() == list(reply.tokens)  # greedy under the same patch


def test_explicit_masks(qwen) -> None:
    batch = ids_batch(qwen)
    by_name = {
        "prompt": batch.mask,
        "last_prompt": torch.zeros_like(batch.mask).index_fill(1, torch.tensor(batch.ids.shape[1] - 1), True),
    }
    for name, mask in by_name.items():
        results = []
        for positions in (name, mask):
            with qwen.patched(zero(qwen, positions=positions)):
                results += [qwen.run(batch).logits, qwen.logits(prompts(3)), qwen.logits(prompts(3), batch_size=1)]
        for a, b in zip(results[:3], results[3:], strict=True):
            close(a, b)
        config = ec.GenerationConfig(max_new_tokens=4)
        texts = [
            ec.generate(qwen, prompts(3), zero(qwen, positions=p), config, batch_size=2).texts for p in (name, mask)
        ]
        assert texts[0] == texts[1]
    narrow = torch.ones(3, 2, dtype=torch.bool)  # the last two tokens of every prompt
    wide = torch.zeros_like(batch.mask)
    wide[:, -2:] = True
    results = []
    for mask in (narrow, wide):
        with qwen.patched(zero(qwen, positions=mask)):
            results.append(qwen.logits(prompts(3), batch_size=2))
    close(*results)
    with pytest.raises(PatchError, match="a mask with 2 rows, but sample 2 is run; give one row per prompt"):  # noqa: SIM117
        with qwen.patched(zero(qwen, positions=narrow[:2])):
            qwen.logits(prompts(3))


def test_a_prompt_that_begins_like_the_last_one_is_a_prompt(qwen) -> None:
    asked = [ec.Prompt.raw("home rain"), ec.Prompt.raw("home rain fell was")]
    with qwen.patched(zero(qwen, positions="last_prompt")):
        together = qwen.logits(asked, batch_size=1)
    for prompt, logits in zip(asked, together, strict=True):
        with qwen.patched(zero(qwen, positions="last_prompt")):
            close(qwen.logits([prompt])[0], logits)


# Rows


def test_different_patches_by_row_are_separate_runs(either_model) -> None:
    model, asked, held = either_model, prompts(5), random_activations(either_model)
    everything = [
        ec.Patch(ec.NodeSet.of(model, *FEW), ec.ZeroAblation(), "all"),
        ec.Patch(ec.NodeSet.of(model, "L1N2", "L2H2"), ec.Enhancement(held, 2.0), "last"),
        ec.Patch(ec.Residual.of(model, 0, site="resid_mid"), ec.Enhancement(held, 0.5), "prompt"),
    ]
    rows = ((0, 3), (1, 3), (4,))
    clean = model.logits(asked)
    separate = []
    for i, prompt in enumerate(asked):
        mine = [p for p, r in zip(everything, rows, strict=True) if i in r]
        with model.patched(*mine):
            separate.append(model.logits([prompt])[0])
    separate = torch.stack(separate)
    assert ((separate - clean).abs().amax(1) > 1e-3).tolist() == [True, True, False, True, True]
    for batch_size in (2, 3, None):
        with model.patched(*(p.on(r) for p, r in zip(everything, rows, strict=True))):
            close(model.logits(asked, batch_size=batch_size), separate)
            recorded = model.record(asked, "resid_post", batch_size=batch_size)
        close(model.unembed(recorded[-1]), separate)
    batch = ids_batch(model, 5)
    with model.patched(*(p.on(r) for p, r in zip(everything, rows, strict=True))):
        close(model.hf(**batch.inputs()).logits[:, -1], separate)  # a tensor's rows are taken in order


def test_samples_map_rows(qwen) -> None:
    batch, patch = ids_batch(qwen), zero(qwen, rows=(7,))
    clean = qwen.hf(**batch.inputs()).logits[:, -1]
    with qwen.patched(patch, samples=torch.tensor([5, 7, 9])):
        changed = (qwen.hf(**batch.inputs()).logits[:, -1] - clean).abs().amax(1)
    assert (changed > 1e-3).tolist() == [False, True, False]


# What is refused


def test_patches_that_do_not_fit(qwen) -> None:
    other = tiny.model("qwen2", intermediate_size=40)
    message = r"of a model with .* \(3, 40\), \(3, 4\), but this model has \(3, 48\), \(3, 4\)"
    with pytest.raises(PatchError, match=message), qwen.patched(zero(other, "L0N0")):
        pass
    for layer in (5, -1):
        patch, message = ec.Patch(ec.Residual((layer,)), ec.Scale(1.0)), f"a patch names layer {layer}; the model has"
        with pytest.raises(PatchError, match=message), qwen.patched(patch):
            pass
    with pytest.raises(PatchError, match=r"CounterfactualPatch acts on nodes, but was given Residual; use NodeSet.of"):
        ec.Patch(ec.Residual((0,)), ec.CounterfactualPatch(ec.Samples()))
    with pytest.raises(ValueError, match="unknown position 'first'"):
        unchecked(ec.Patch, ec.NodeSet.of(qwen, "L0N0"), ec.ZeroAblation(), "first")
    with pytest.raises(PatchError, match="a patch names row 3, but there are 3 prompts"):
        ec.generate(qwen, prompts(3), zero(qwen, rows=(0, 3)))


def test_an_intervention_that_returns_another_shape(qwen) -> None:
    class Wrong:
        acts_on = ("nodes",)

        def __call__(self, activation, where):
            return activation[:, :1]

    message = r"Wrong returned shape \(1, 1, 1\) for activations of shape \(1, 19, 1\)"
    with pytest.raises(PatchError, match=message), qwen.patched(ec.Patch(ec.NodeSet.of(qwen, "L0N0"), Wrong())):
        qwen.logits(prompts(1))


def unfit() -> dict[str, tuple]:
    """Interventions that do not fit a model of 3 layers, 48 neurons and d_model 32, and what is said of each."""
    unit, means = torch.ones(3, 32) / 32**0.5, ec.Activations(neurons=torch.zeros(3, 48))
    nan = unit.clone()
    nan[1, 0] = torch.nan
    short = ec.Samples(torch.zeros(2, 4, 48))
    return {
        "one vector": (lambda: ec.Steering(unit[0], 0.1), r"Steering holds vectors of shape \(32,\), .* = \(3, 32\)"),
        "one layer": (lambda: ec.ProjectOut(unit[:1]), r"ProjectOut holds vectors of shape \(1, 32\)"),
        "nan": (lambda: ec.Steering(nan, 0.1), r"not finite \(NaN or infinite\) in layer 1"),
        "long": (lambda: ec.Steering(2 * unit, 0.1), "needs unit vectors, but that of layer 1 has length 2; scale it"),
        "zero": (lambda: ec.ProjectOut(0 * unit), "has length 0; it points nowhere"),
        "scheduled": (lambda: ec.Scheduled(ec.Steering(nan, 0.1), ec.Ramp(2)), "not finite"),
        "few neurons": (
            lambda: ec.MeanAblation(ec.Activations(neurons=torch.zeros(3, 47))),
            r"MeanAblation holds neuron activations of shape \(3, 47\), but this model has \(3, 48\)",
        ),
        "nan reply": (
            lambda: ec.Enhancement(ec.Contrast("anger", "emotions", means, means * float("nan"))),
            "Enhancement holds numbers that are not finite",
        ),
        "layers": (lambda: ec.CounterfactualPatch(short), r"shape \(2, 4, 48\), but this model needs \(3, n, 48\)"),
        "resampled": (lambda: ec.ResampleAblation(short), r"record all of its layers: model.record\(prompts, 'neuron'"),
        "groups": (lambda: ec.GroupMeanAblation(short, (0, 0)), "GroupMeanAblation holds neuron samples of shape"),
        "no means": (lambda: ec.MeanAblation(None), "None for means; attributions by DirectAttribution and Co"),  # type: ignore[arg-type]
        "no contrast": (lambda: ec.Enhancement(None), "None for contrast; .* fit_contrasts measures one"),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("name", unfit())
def test_interventions_that_do_not_fit_are_refused_before_anything_runs(qwen, name: str) -> None:
    make, message = unfit()[name]

    def enter() -> None:
        intervention = make()
        place = ec.NodeSet.of(qwen, "L1N2") if "nodes" in intervention.acts_on else ec.Residual.of(qwen, 1)
        if name == "scheduled":
            place = ec.Residual.of(qwen, 1)
        with qwen.patched(ec.Patch(place, intervention)):
            pass

    with pytest.raises(PatchError, match=message):
        unchecked(enter)
    assert hooks_left(qwen.hf) == 0


def test_only_the_layers_in_use_need_a_direction(qwen) -> None:
    vectors = torch.zeros(3, 32, dtype=torch.bfloat16)
    vectors[1] = torch.nn.functional.normalize(torch.arange(32.0), dim=0)
    with qwen.patched(ec.Patch(ec.Residual.of(qwen, 1), ec.Steering(vectors, 0.1))):
        assert qwen.logits(prompts(1)).isfinite().all()


def test_missing_sites_are_named(qwen) -> None:
    patch = ec.Patch(ec.NodeSet.of(qwen, "L0H0"), ec.MeanAblation(ec.Activations(neurons=torch.zeros(3, 48))))
    message = "these activations hold nothing at site 'head'; measure that site first"
    with pytest.raises(NodeError, match=message), qwen.patched(patch):
        qwen.logits(prompts(1))


def test_the_activation_given_is_left_as_it_is(qwen) -> None:
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Keeping:
        acts_on = ("nodes", "residual")

        def __call__(self, activation, where):
            kept.append((activation, activation.clone()))
            return activation + 1.0

    with qwen.patched(ec.Patch(ec.NodeSet.all(qwen), Keeping(), "last"), ec.Patch(ec.Residual.of(qwen), Keeping())):
        qwen.logits(prompts(2))
    assert all(torch.equal(*pair) for pair in kept)


def test_bfloat16_stays_bfloat16() -> None:
    model = tiny.model(dtype=torch.bfloat16)
    with model.patched(ec.Patch(ec.NodeSet.of(model, *FEW), ec.Enhancement(random_activations(model)), "all")):
        out = model.hf(torch.tensor([[5, 6, 7]]))
    assert out.logits.dtype == torch.bfloat16


def test_the_mean_over_a_group_is_an_exchange_with_it(qwen) -> None:
    asked = prompts(6)
    groups = ["a", "b", "a", "c", "b", "a"]
    source = ec.Samples(qwen.record(asked, "neuron"), qwen.record(asked, "head"))
    means = source.mean_within(groups)
    for sample, group in enumerate(groups):
        mine = [i for i, other in enumerate(groups) if other == group]
        torch.testing.assert_close(means.neurons[:, sample], source.neurons[:, mine].mean(1))
        torch.testing.assert_close(means.heads[:, sample], source.heads[:, mine].mean(1))
    nodes = ec.NodeSet.of(qwen, "L1N3", "L1H2")
    with qwen.patched(ec.Patch(nodes, ec.CounterfactualPatch(means), "last_prompt")):
        recorded = qwen.record(asked, "neuron")
    torch.testing.assert_close(recorded[1, :, 3], means.neurons[1, :, 3])
    with pytest.raises(PatchError, match="one per sample"):
        source.mean_within(["a"])


# What is asked of a model


def test_layers_that_are_not_there(qwen) -> None:
    """A layer beyond the last one is an error, and not one of the first."""
    message = "layer 5 is outside the model, which has layers 0 to 2"
    (batch,) = qwen.batches(prompts(1))
    with pytest.raises(NodeError, match=message):
        qwen.read(batch, "resid_post", 5)
    for site in ("resid_post", "resid_mid"):
        with pytest.raises(NodeError, match=message):
            ec.measure(qwen, prompts(1), ec.Projection(torch.ones(32), site, 5))
        with pytest.raises(NodeError, match=message):
            SuffixRun(qwen, batch).base((site, 5))
    with pytest.raises(NodeError, match=message):
        list(SuffixRun(qwen, batch).read([Edit("resid_pre", 0, 1, lambda a, v: a)], [("resid_post", 5)]))
    last = ec.measure(qwen, prompts(2), ec.Projection(torch.ones(32), layer=2)).values
    assert torch.equal(ec.measure(qwen, prompts(2), ec.Projection(torch.ones(32), layer=-1)).values, last)
    with pytest.raises(NodeError, match=r"layers=1 is one layer, .*; give layers=\[1\]"):
        unchecked(qwen.record, prompts(1), "resid_post", layers=1)


def test_nothing_to_run_is_said_so(qwen) -> None:
    for call in (qwen.logits, lambda asked: ec.measure(qwen, asked, ec.Projection(torch.ones(32)))):
        with pytest.raises(PromptError, match=r"there are no prompts to .*; give at least one"):
            call([])
    with pytest.raises(DataError, match="a logit difference needs at least one token"):
        ec.LogitDifference(())
