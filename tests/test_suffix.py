"""Suffix passes are the full passes, for every site, layer, architecture, chunk and padding."""

from __future__ import annotations

import pytest
import tiny
import torch
from helpers import ids_of, instructed, naive_run, prompts

import emotion_circuits as ec
from emotion_circuits.errors import ModelError
from emotion_circuits.model.suffix import Edit, SuffixRun
from emotion_circuits.types import SITES


def shifts(model, site: str, n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, *model.dims.unit_shape(site), generator=torch.Generator().manual_seed(seed))


def adding(vectors: torch.Tensor):
    return lambda activation, variants: activation + vectors[variants]


def family(model, sites=SITES) -> list[tuple[Edit, torch.Tensor]]:
    held = []
    for layer in range(model.dims.n_layers):
        for k, site in enumerate(sites):
            vectors = shifts(model, site, 1 + (layer + k) % 3, 10 * layer + k)
            held.append((Edit(site, layer, len(vectors), adding(vectors)), vectors))
    return held


def full_pass(model, prompt, edit: Edit, vector: torch.Tensor) -> torch.Tensor:
    """The last residual when the last token's activation is shifted, by an ordinary forward pass."""

    def shift(value: torch.Tensor) -> torch.Tensor:
        return torch.cat([value[:-1], value[-1:] + vector])

    return naive_run(model.hf, ids_of(model, prompt), {(edit.site, edit.layer): shift})["resid_post", 2][-1]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=3e-5, rtol=3e-5)


def test_every_site_of_every_layer(any_model) -> None:
    asked = prompts(3)  # of 12 to 25 tokens, longer than the sliding windows of 8
    (batch,) = any_model.batches(asked)
    held = family(any_model)
    result = SuffixRun(any_model, batch).run([edit for edit, _ in held])
    assert result.shape == (3, sum(edit.n_variants for edit, _ in held), 32)
    variants = [(edit, vector) for edit, vectors in held for vector in vectors]
    for row, sample in enumerate(batch.samples.tolist()):
        if sample == 1:
            continue  # two of three prompts are enough, one of them padded
        for column, (edit, vector) in enumerate(variants):
            close(result[row, column], full_pass(any_model, asked[sample], edit, vector))


def test_the_unchanged_pass(any_model) -> None:
    asked = prompts(3)
    (batch,) = any_model.batches(asked, sort=False)
    run = SuffixRun(any_model, batch)
    close(run.final(), any_model.record(asked, "resid_post")[-1])
    for layer in range(3):
        close(run.resid[layer][:, 0], any_model.record(asked, "resid_pre")[layer])
    nothing = Edit("resid_pre", 0, 2, lambda activation, variants: activation)
    close(run.run([nothing])[:, 1], run.final())


@pytest.mark.parametrize("rows", [1, 3, 7, 1000])
def test_chunks_do_not_matter(either_model, rows: int) -> None:
    (batch,) = either_model.batches(prompts(3))
    edits = [edit for edit, _ in family(either_model)]
    run = SuffixRun(either_model, batch)
    close(run.run(edits, rows), run.run(edits))


def test_order_of_edits_is_kept(either_model) -> None:
    (batch,) = either_model.batches(prompts(2))
    edits = [edit for edit, _ in family(either_model, ("resid_post", "neuron"))]
    run = SuffixRun(either_model, batch)
    straight, reverse = run.run(edits), run.run(edits[::-1])
    sizes = [edit.n_variants for edit in edits]
    pieces = reverse.split(sizes[::-1], dim=1)
    close(straight, torch.cat(pieces[::-1], dim=1))


def test_prompts_of_one_token(any_model) -> None:
    (batch,) = any_model.batches([ec.Prompt.raw("home"), ec.Prompt.raw("rain")], sort=False)
    held = family(any_model, ("resid_mid", "head"))
    result = SuffixRun(any_model, batch).run([edit for edit, _ in held])
    variants = [(edit, vector) for edit, vectors in held for vector in vectors]
    for column, (edit, vector) in enumerate(variants):
        for row, ids in enumerate(batch.ids.tolist()):
            run = naive_run(any_model.hf, ids, {(edit.site, edit.layer): lambda value, vector=vector: value + vector})
            close(result[row, column], run["resid_post", 2][-1])


def test_padding_does_not_matter(any_model) -> None:
    asked, edits = prompts(4), [edit for edit, _ in family(any_model, ("attn_out", "resid_mid"))]
    (together,) = any_model.batches(asked, sort=False)
    result = SuffixRun(any_model, together).run(edits)
    for i, prompt in enumerate(asked):
        (alone,) = any_model.batches([prompt])
        close(result[i], SuffixRun(any_model, alone).run(edits)[0])


def test_equals_a_patch_at_the_last_prompt_token(any_model) -> None:
    asked, layer = prompts(3), 1
    (batch,) = any_model.batches(asked, sort=False)
    vectors = shifts(any_model, "neuron", 1, 5)
    delta = ec.Activations(neurons=torch.zeros(3, 48).index_copy(0, torch.tensor([layer]), vectors))
    patch = ec.Patch(ec.NodeSet.all(any_model).only("neuron").in_layers([layer]), ec.Enhancement(delta), "last_prompt")
    with any_model.patched(patch):
        patched = any_model.record(asked, "resid_post")[-1]
    close(SuffixRun(any_model, batch).run([Edit("neuron", layer, 1, adding(vectors))])[:, 0], patched)


def some_nodes(model) -> ec.NodeSet:
    """Not all of a layer's: a norm after the sublayer would take a common factor away."""
    return ec.NodeSet.of(model, *(f"L1N{n}" for n in range(0, 48, 3)), "L1H0", "L1H2")


def interventions(model) -> dict:
    draw = torch.Generator().manual_seed(8)
    delta = ec.Activations(torch.randn(3, 48, generator=draw), torch.randn(3, 4, 8, generator=draw))
    return {"scale": ec.Scale(0.3), "enhancement": ec.Enhancement(delta, 2.0)}


def test_suffix_passes_refuse_to_run_under_patches(either_model) -> None:
    # A patch's hooks would take the variants for tokens.
    (batch,) = either_model.batches(prompts(3), sort=False)
    patch = ec.Patch(some_nodes(either_model), ec.Scale(0.3))
    with either_model.patched(patch), pytest.raises(ModelError, match="suffix passes cannot run inside"):
        SuffixRun(either_model, batch)


def test_gradients_flow_through_suffixes() -> None:
    model = tiny.model("qwen2")
    (batch,) = model.batches(prompts(2))
    run = SuffixRun(model, batch)
    along = torch.randn(32, generator=torch.Generator().manual_seed(3))

    def value(shift: torch.Tensor) -> torch.Tensor:
        edit = Edit("neuron", 0, 1, lambda activation, variants: activation + shift)
        ((_, final),) = run.stream([edit])
        return (final[:, 0] @ along).sum()

    shift = torch.zeros(48, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(shift), shift)
    with torch.no_grad():
        for unit in (0, 17):
            step = torch.zeros(48).index_fill(0, torch.tensor([unit]), 1e-2)
            assert float(value(step) - value(-step)) / 2e-2 == pytest.approx(float(gradient[unit]), rel=2e-2, abs=2e-3)


def test_replies_are_refused(qwen) -> None:
    replies = ec.Replies((ec.Reply(instructed(1)[0], "", (5, 6)),))
    (batch,) = qwen.batches(replies)
    with pytest.raises(ModelError, match="suffix passes start from prompts; give prompts without replies"):
        SuffixRun(qwen, batch)


def test_more_variants_than_one_fold_holds(either_model) -> None:
    asked = prompts(3)
    (batch,) = either_model.batches(asked, sort=False)
    vectors = shifts(either_model, "head", 150, 4)
    result = SuffixRun(either_model, batch).run([Edit("head", 1, 150, adding(vectors))])
    for row, column in ((0, 0), (1, 63), (2, 64), (0, 149)):
        close(
            result[row, column],
            full_pass(either_model, asked[row], Edit("head", 1, 1, adding(vectors)), vectors[column]),
        )
