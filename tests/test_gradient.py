"""Gradient methods against finite differences, hand-made paths and real patching; and how agreement is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import ids_of, instructed, naive_run, prompts
from test_patching import close, directions, fast_scores, interventions, random_activations, some_nodes, targets

import emotion_circuits as ec
from emotion_circuits.attribution import (
    ActivationPatching,
    AttributionPatching,
    FinalDirectAttribution,
    IntegratedGradients,
    attribute,
    attribute_each,
    compare_attributions,
)
from emotion_circuits.attribution.agreement import correlation, ranks
from emotion_circuits.errors import ModelError, NodeError
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.targets import LogitDifference, Projection, ResidualFunction


@pytest.mark.parametrize("name", ["direction", "logits", "mid", "post", "function"])
def test_attribution_patching_is_the_derivative(either_model, name: str) -> None:
    """Adding a small multiple of a contrast changes the target by gradient x contrast."""
    model, asked, nodes = either_model, prompts(3), some_nodes(either_model)
    target, contrast = targets(model.dims)[name], random_activations(model.dims, 1)
    scores = attribute(model, asked, target, AttributionPatching(ec.Enhancement(contrast), nodes))
    step = 0.02
    ups, downs = (
        attribute(model, asked, target, ActivationPatching(ec.Enhancement(contrast, s * step), nodes)) for s in (1, -1)
    )
    # The score of a suppression is clean minus patched, that of an enhancement patched minus clean.
    slope = (fast_scores(ups, nodes) + fast_scores(downs, nodes)) / (2 * step)
    assert (fast_scores(scores, nodes) - slope).abs().max() < 2e-2 * slope.abs().max().clamp(min=0.1)


def test_gradients_equal_those_of_a_full_backward_pass(any_model) -> None:
    """The last token's suffix pass leaves nothing of the gradient out, on every architecture."""
    model, asked, target = any_model, prompts(2), directions(any_model.dims)
    scores = attribute(model, asked, target, AttributionPatching(ec.ZeroAblation()))
    total = torch.zeros(model.dims.n_layers, model.dims.d_mlp)
    for prompt in asked:
        held = {}

        def keep(layer: int, held=held):
            def hook(module, args):
                held[layer] = args[0]

            return hook

        modules = [model.sites.port("neuron", l).module for l in range(model.dims.n_layers)]
        handles = [module.register_forward_pre_hook(keep(l)) for l, module in enumerate(modules)]
        embedded = model.hf.get_input_embeddings()(torch.tensor([ids_of(model, prompt)])).requires_grad_()
        resid = model.hf.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[0, -1]
        (resid.float() @ target.reference).backward(inputs=[embedded], retain_graph=True)
        gradients = torch.autograd.grad(resid.float() @ target.reference, list(held.values()))
        for handle in handles:
            handle.remove()
        total += torch.stack([g[0, -1] * a[0, -1] for g, a in zip(gradients, held.values(), strict=True)]).detach()
    close(scores.values.neurons, total / len(asked), 1.0)


@pytest.mark.parametrize("name", ["scale", "mean", "enhancement", "counterfactual", "clamp"])
def test_integrated_gradients_are_complete(either_model, name: str) -> None:
    """The scores of one place add up to the effect of patching the whole place."""
    model, asked, target = either_model, prompts(2), directions(either_model.dims)
    intervention = interventions(model.dims, 2)[name]
    sign = 1 if name == "enhancement" else -1
    before = ec.measure(model, asked, target).mean
    for place in (NodeSet.all(model).only("head").in_layers([1]), NodeSet.all(model).only("neuron").in_layers([2])):
        scores = attribute(model, asked, target, IntegratedGradients(intervention, place, steps=200))
        total = float(scores.values.heads.sum() + scores.values.neurons.sum())
        effect = sign * (ec.measure(model, asked, target, ec.Patch(place, intervention, "last_prompt")).mean - before)
        assert total == pytest.approx(effect, rel=2e-3, abs=2e-3)


def test_integrated_gradients_by_hand(qwen) -> None:
    """t = (w . r)^2 read right after one neuron: the gradient is linear along the path, so one step does."""
    w = torch.randn(qwen.dims.d_model, generator=torch.Generator().manual_seed(3))
    target = ResidualFunction(lambda resid: (resid @ w) ** 2, "resid_post", 1)
    node = NodeSet.of(qwen, "L1N5")
    (prompt,) = prompts(1)
    run = naive_run(qwen.hf, ids_of(qwen, prompt))
    clean, activation = run["resid_post", 1][-1] @ w, run["neuron", 1][-1, 5]
    write = qwen.writes("neuron", 1)[5] @ w
    expected = clean**2 - (clean - activation * write) ** 2
    one_gradient = 2 * clean * write * activation
    for steps in (1, 5):
        scores = attribute(qwen, [prompt], target, IntegratedGradients(ec.ZeroAblation(), node, steps=steps))
        close(scores.values.neurons[1, 5].double(), expected.double())
    plain = attribute(qwen, [prompt], target, AttributionPatching(ec.ZeroAblation(), node))
    close(plain.values.neurons[1, 5].double(), one_gradient.double())


def test_methods_agree_where_the_target_is_linear(plain_model) -> None:
    """A node's effect on the residual that it is added to is linear, so all three agree."""
    model, asked = plain_model, prompts(3)
    vector = torch.randn(model.dims.d_model, generator=torch.Generator().manual_seed(1))
    target, nodes = Projection(vector, "resid_mid", 1), NodeSet.all(model).only("head").in_layers([1])
    real = attribute(model, asked, target, ActivationPatching(ec.ZeroAblation(), nodes))
    for method in (AttributionPatching(ec.ZeroAblation(), nodes), IntegratedGradients(ec.ZeroAblation(), nodes, 2)):
        close(attribute(model, asked, target, method).values.heads, real.values.heads)


@pytest.mark.parametrize("method", [AttributionPatching, IntegratedGradients])
def test_independent_of_batch_chunk_and_order(either_model, method) -> None:
    asked, wanted = prompts(5), targets(either_model.dims)
    made = method(ec.Scale(0.2))
    expected = attribute_each(either_model, asked, wanted, made)
    for held, size in ((asked, 2), (asked[::-1], 5)):
        found = attribute_each(either_model, held, wanted, made, batch_size=size)
        for name in wanted:
            close(found[name].values.heads, expected[name].values.heads)
            close(found[name].values.neurons, expected[name].values.neurons)
    if method is IntegratedGradients:
        found = attribute_each(either_model, asked, wanted, IntegratedGradients(ec.Scale(0.2), chunk=7))
        close(found["direction"].values.neurons, expected["direction"].values.neurons)


def test_integration_comes_closer_to_real_patching(qwen) -> None:
    asked, target, nodes = prompts(4), directions(qwen.dims), NodeSet.all(qwen)
    real = attribute(qwen, asked, target, ActivationPatching(ec.ZeroAblation(), nodes))
    plain, integrated = (
        compare_attributions(attribute(qwen, asked, target, method), real, k=(5, 20), kind="neuron")
        for method in (AttributionPatching(ec.ZeroAblation()), IntegratedGradients(ec.ZeroAblation()))
    )
    assert integrated.n_nodes == qwen.dims.n_neurons
    assert min(plain.spearman, integrated.spearman) > 0.5
    assert set(plain.overlap) == {5, 20}


def test_nothing_above_the_readout_matters(qwen) -> None:
    target = Projection(torch.ones(qwen.dims.d_model), "resid_mid", 1)
    for method in (AttributionPatching(ec.ZeroAblation()), IntegratedGradients(ec.ZeroAblation(), steps=2)):
        scores = attribute(qwen, prompts(2), target, method)
        assert scores.values.heads[:2].all()
        assert not scores.values.heads[2].any()
        assert not scores.values.neurons[1:].any()


def test_final_direct_attribution_sums_to_the_target(plain_model) -> None:
    """Embedding + biases (of these models: none) + all heads + all neurons = the measured target, norm frozen."""
    model, asked = plain_model, prompts(4)
    wanted = {
        "direction": directions(model.dims),
        "logits": LogitDifference((5, 9), (7,)),
        "plain": Projection(torch.randn(model.dims.d_model, generator=torch.Generator().manual_seed(4))),
    }
    found = attribute_each(model, asked, wanted, FinalDirectAttribution(), batch_size=3)
    embedded = model.record(asked, "resid_pre", [0])[0]
    last = model.record(asked, "resid_post", [-1])[0]
    for name, target in wanted.items():
        nodes = found[name].values
        total = nodes.heads.double().sum() + nodes.neurons.double().sum()
        # The target is linear at fixed scale: the embedding's share is scaled as the whole residual is.
        scale = 1.0
        if name != "plain":
            scale = (last.square().mean(-1) + model.hf.config.rms_norm_eps).rsqrt()
        direction = {
            "direction": model.norm_weight(model.final_norm) * wanted["direction"].reference,
            "logits": wanted["logits"].local(model, "resid_post", -1),
            "plain": wanted["plain"].vector,
        }[name]
        embedding = (embedded @ direction * scale).double().mean()
        close(total + embedding, torch.tensor(ec.measure(model, asked, target).mean), 1.0)


def test_final_direct_attribution_freezes_the_norm_after_a_sublayer() -> None:
    import tiny

    model, asked = tiny.model("gemma3"), prompts(3)
    target = directions(model.dims)
    scores = attribute(model, asked, target, FinalDirectAttribution())
    last = model.record(asked, "resid_post", [-1])[0]
    scale = (last.square().mean(-1) + model.hf.config.rms_norm_eps).rsqrt()
    direction = model.norm_weight(model.final_norm) * target.reference
    for site, values in (("attn_out", scores.values.heads), ("mlp_out", scores.values.neurons)):
        written = model.record(asked, site) @ direction * scale  # layer sample
        close(values.double().sum(dim=1), written.double().mean(dim=1), 1.0)


def test_final_direct_attribution_refuses_what_has_no_direction(qwen) -> None:
    target = ResidualFunction(lambda resid: resid.sum(-1))
    with pytest.raises(ModelError, match="use DirectAttribution, ActivationPatching or AttributionPatching"):
        attribute(qwen, prompts(1), target, FinalDirectAttribution())


def test_ranks_and_correlation_by_hand() -> None:
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    a = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    assert correlation(a, 2 * a + 1) == pytest.approx(1.0)
    assert correlation(a, torch.tensor([1.0, 4.0, 9.0, 16.0]).double()) == pytest.approx(0.98437, abs=1e-4)
    assert correlation(ranks(a), ranks(-(a**3))) == pytest.approx(-1.0)


def test_agreement_by_hand(qwen) -> None:
    def scored(heads: torch.Tensor, nodes: NodeSet | None = None) -> ec.Attribution:
        values = NodeValues(torch.zeros(3, 48), heads)
        return ec.Attribution(values, "made", None, 1, qwen.dims, kinds=("head",), scored=nodes)

    up = torch.arange(12.0).view(3, 4)
    swapped = up.clone()
    swapped[2, 3], swapped[0, 0] = up[0, 0], up[2, 3]
    same, other = (
        compare_attributions(scored(up), scored(up * 3)),
        compare_attributions(scored(up), scored(swapped), k=(1, 4)),
    )
    assert same.spearman == pytest.approx(1.0)
    assert same.overlap == {10: 1.0}
    assert other.overlap == {1: 0.0, 4: 0.75}
    assert other.chance[4] == pytest.approx(1 / 3)
    assert other.spearman == pytest.approx(1 - 6 * 2 * 11**2 / (12 * 143))
    part = compare_attributions(scored(up), scored(swapped, NodeSet.of(qwen, "L0H1", "L1H0", "L2H2")), k=(2,))
    assert (part.n_nodes, part.spearman) == (3, pytest.approx(1.0))
    with pytest.raises(NodeError, match="share 1 scored nodes"):
        compare_attributions(scored(up), scored(up, NodeSet.of(qwen, "L0H1")))


@pytest.mark.parametrize(
    "method",
    [
        AttributionPatching(ec.ZeroAblation()), IntegratedGradients(ec.ZeroAblation(), steps=2), None,
        ec.DirectAttribution(), ec.HeadImportance(),
    ],
    ids=str,
)  # fmt: skip
def test_inference_mode_changes_nothing(qwen, method) -> None:
    asked = instructed(2)
    target = "anger" if method is None else replace(directions(qwen.dims), emotion="anger")
    plain = attribute(qwen, asked, target, method)
    with torch.inference_mode():
        inside = attribute(qwen, asked, target, method)
    assert plain.values.heads.abs().max() > 0
    assert torch.equal(inside.values.neurons, plain.values.neurons)
    assert torch.equal(inside.values.heads, plain.values.heads)


def test_tensors_made_in_inference_mode_are_refused(qwen) -> None:
    with torch.inference_mode():
        target = directions(qwen.dims)
    with pytest.raises(ModelError, match=r"gradients cannot pass a tensor that was made inside torch.inference_mode"):
        attribute(qwen, prompts(2), target, AttributionPatching(ec.ZeroAblation()))
