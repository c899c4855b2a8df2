"""Activation patching by suffix passes equals one full patched pass per node, for every intervention and model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import EMOTIONS, hooks_left, ids_of, instructed, naive_run, prompts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import emotion_circuits as ec
from emotion_circuits.activations import Activations, Contrast
from emotion_circuits.attribution import ActivationPatching, attribute, attribute_each, dose_sweep
from emotion_circuits.errors import EmotionCircuitsError, NodeError, PatchError
from emotion_circuits.interventions import Constant
from emotion_circuits.nodes import NodeSet
from emotion_circuits.targets import DirectionTarget, LogitDifference, Projection, ResidualFunction

RELATIVE = 1e-5


def random_activations(dims, seed: int) -> Activations:
    g = torch.Generator().manual_seed(seed)
    return Activations(
        torch.randn(dims.n_layers, dims.d_mlp, generator=g),
        torch.randn(dims.n_layers, dims.n_heads, dims.d_head, generator=g),
    )


def random_samples(dims, n: int, seed: int = 5) -> ec.Samples:
    g = torch.Generator().manual_seed(seed)
    return ec.Samples(
        torch.randn(dims.n_layers, n, dims.d_mlp, generator=g),
        torch.randn(dims.n_layers, n, dims.n_heads, dims.d_head, generator=g),
    )


def interventions(dims, n: int) -> dict:
    contrast = Contrast("anger", "emotions", random_activations(dims, 1), random_activations(dims, 2))
    groups = tuple(i % 2 for i in range(n))
    return {
        "zero": ec.ZeroAblation(),
        "mean": ec.MeanAblation(random_activations(dims, 3)),
        "resample": ec.ResampleAblation(random_samples(dims, n), seed=3),
        "resample in group": ec.ResampleAblation(random_samples(dims, n), groups=(groups, groups)),
        "counterfactual": ec.CounterfactualPatch(random_samples(dims, n)),
        "enhancement": ec.Enhancement(contrast, 0.7),
        "suppression": ec.Enhancement(contrast, -0.7),
        "plain enhancement": ec.Enhancement(contrast.prompt),
        "scale": ec.Scale(0.3),
        "scale up": ec.Scale(1.5),
        "clamp": ec.Clamp(-0.1, 0.2),
    }


NAMES = list(interventions(ec.ModelDims(1, 1, 1, 1, 1, 1, 1), 2))


def directions(dims, seed: int = 7) -> DirectionTarget:
    g = torch.Generator().manual_seed(seed)
    mid, post = torch.randn(2, dims.n_layers, dims.d_model, generator=g)
    return DirectionTarget(None, mid, post, torch.randn(dims.d_model, generator=g))


def targets(dims) -> dict:
    """Targets of every kind, at the end and further down."""
    g = torch.Generator().manual_seed(9)
    vector = torch.randn(dims.d_model, generator=g)
    return {
        "direction": directions(dims),
        "logits": LogitDifference((5, 9), (7,)),
        "mid": Projection(vector, "resid_mid", 1),
        "post": Projection(vector, "resid_post", 1),
        "function": ResidualFunction(lambda resid: resid.square().mean(dim=-1), "resid_post", -1),
    }


def some_nodes(model) -> NodeSet:
    return NodeSet.of(model, "L0H0", "L0N0", "L1H3", "L1N17", "L2H1", "L2N47")


def slow_scores(model, asked, target, nodes, intervention, sign: int = -1) -> torch.Tensor:
    """Mean effect of each node by one hooked full pass of all prompts each."""
    before = ec.measure(model, asked, target).mean
    patched = [
        ec.measure(model, asked, target, ec.Patch(NodeSet.of(model, node), intervention, "last_prompt")).mean
        for node in nodes
    ]
    return sign * (torch.tensor(patched, dtype=torch.float64) - before)


def fast_scores(scores, nodes) -> torch.Tensor:
    return torch.tensor([scores.values.values(n.kind)[n.layer, n.index].item() for n in nodes], dtype=torch.float64)


def close(fast: torch.Tensor, slow: torch.Tensor, scale: float = 1.0) -> None:
    """Equal to 1e-5 of the largest value involved."""
    limit = RELATIVE * max(float(slow.abs().max()), scale)
    assert (fast - slow).abs().max() <= limit, f"{(fast - slow).abs().max():.2e} > {limit:.2e}"


@pytest.mark.parametrize("name", NAMES)
def test_equals_full_patched_passes(either_model, name: str) -> None:
    model, asked = either_model, prompts(4)
    nodes, intervention = some_nodes(model), interventions(model.dims, len(asked))[name]
    sign = 1 if name in ("enhancement", "plain enhancement", "scale up") else -1
    for target in targets(model.dims).values():
        scores = attribute(model, asked, target, ActivationPatching(intervention, nodes), batch_size=3)
        scale = float(ec.measure(model, asked, target).values.abs().max())
        close(fast_scores(scores, nodes), slow_scores(model, asked, target, nodes, intervention, sign), scale)


def test_equals_a_naive_second_implementation(any_model) -> None:
    """Every head of every architecture, against plain hooks that know nothing of this package."""
    model, asked, target = any_model, prompts(3), directions(any_model.dims)
    scores = attribute(model, asked, target, ActivationPatching(ec.ZeroAblation()))

    def value(run) -> torch.Tensor:
        last = model.dims.n_layers - 1
        return (model.final_norm(run["resid_post", last][-1]) @ target.reference).double()

    def without(head: int):
        def edit(z: torch.Tensor) -> torch.Tensor:
            z = z.clone()
            z[-1, head] = 0.0
            return z

        return edit

    ids = [ids_of(model, prompt) for prompt in asked]
    before = [value(naive_run(model.hf, i)) for i in ids]
    for layer in range(model.dims.n_layers):
        for head in range(model.dims.n_heads):
            after = [value(naive_run(model.hf, i, {("head", layer): without(head)})) for i in ids]
            slow = torch.stack([b - a for b, a in zip(before, after, strict=True)]).mean()
            close(scores.values.heads[layer, head].double(), slow, float(torch.stack(before).abs().max()))


def test_a_schedule_keeps_the_sign_of_what_it_schedules(qwen) -> None:
    def scored(intervention):
        return attribute(qwen, prompts(2), directions(qwen.dims), ActivationPatching(intervention)).values.heads

    for intervention in (ec.Enhancement(random_activations(qwen.dims, 1)), ec.Scale(1.5), ec.ZeroAblation()):
        plain = scored(intervention)
        close(scored(ec.Scheduled(intervention, Constant(1.0))), plain)
        # A tenth of what adds, taken away: nodes that support the target still have positive scores.
        away = scored(ec.Scheduled(intervention, Constant(-0.1)))
        assert float((away * plain).sum()) > 0


def test_every_head_is_scored_by_default_and_neurons_are_not(qwen) -> None:
    scores = attribute(qwen, prompts(2), directions(qwen.dims), ActivationPatching(ec.ZeroAblation()))
    assert scores.kinds == ("head",)
    assert scores.scored is None
    assert (scores.values.heads != 0).all()
    assert not scores.values.neurons.any()


def test_only_scored_nodes_are_listed(qwen, tmp_path) -> None:
    nodes = NodeSet.of(qwen, "L1H2", "L0N3", "L2N40")
    scores = attribute(qwen, prompts(2), directions(qwen.dims), ActivationPatching(ec.ZeroAblation(), nodes))
    assert scores.scored == nodes == scores.top(100)
    assert set(scores.to_frame()["node"]) == {"L1H2", "L0N3", "L2N40"}
    scores.save(tmp_path / "scores")
    assert ec.Attribution.load(tmp_path / "scores").scored == nodes


@pytest.mark.parametrize(("batch_size", "chunk"), [(1, None), (2, 4), (5, 1), (5, 7), (5, 10_000)])
def test_independent_of_batch_and_chunk(either_model, batch_size, chunk) -> None:
    asked, nodes = prompts(5), some_nodes(either_model)
    intervention = interventions(either_model.dims, 5)["resample"]
    wanted = targets(either_model.dims)
    expected = attribute_each(either_model, asked, wanted, ActivationPatching(intervention, nodes))
    found = attribute_each(
        either_model, asked, wanted, ActivationPatching(intervention, nodes, chunk), batch_size=batch_size
    )
    for name in wanted:
        a, b = (fast_scores(held[name], nodes) for held in (found, expected))
        close(a, b)
        close(found[name].std.heads.double(), expected[name].std.heads.double())


def test_folding_many_variants_changes_nothing(either_model, monkeypatch) -> None:
    asked, target = prompts(3), directions(either_model.dims)
    method = ActivationPatching(ec.ZeroAblation(), NodeSet.all(either_model))
    expected = attribute(either_model, asked, target, method)
    for size in (1, 5, 10_000):
        monkeypatch.setattr("emotion_circuits.model.ascent.GROUP", size)
        found = attribute(either_model, asked, target, method)
        close(found.values.neurons, expected.values.neurons)
        close(found.values.heads, expected.values.heads)


def test_independent_of_the_order_of_prompts(qwen) -> None:
    asked, target = prompts(5), directions(qwen.dims)
    method = ActivationPatching(ec.Scale(0.5), some_nodes(qwen))
    one, other = attribute(qwen, asked, target, method), attribute(qwen, asked[::-1], target, method)
    close(one.values.heads, other.values.heads)
    close(one.values.neurons, other.values.neurons)


def test_a_target_has_its_own_samples(qwen) -> None:
    """Each emotion's score is that of its own prompts, and exchanges still find the right source sample."""
    asked = instructed()
    wanted = {e: replace(directions(qwen.dims, i), emotion=e) for i, e in enumerate(EMOTIONS)}
    method = ActivationPatching(ec.CounterfactualPatch(random_samples(qwen.dims, len(asked))), some_nodes(qwen))
    together = attribute_each(qwen, asked, wanted, method, batch_size=4)
    for emotion, target in wanted.items():
        mine = [i for i, prompt in enumerate(asked) if prompt.emotion == emotion]
        before = ec.measure(qwen, asked, target).values[mine].mean()
        node = NodeSet.of(qwen, "L1N17")
        after = ec.measure(qwen, asked, target, ec.Patch(node, method.intervention, "last_prompt")).values[mine].mean()
        assert together[emotion].n_samples == len(mine)
        close(together[emotion].values.neurons[1, 17].double(), (before - after).double(), float(before.abs()))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_nodes_and_lengths(either_model, data) -> None:
    model = either_model
    words = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=4), label="lengths")
    asked = [ec.Prompt.raw(" ".join(["home", "bus", "rain"][i % 3] for i in range(n))) for n in words]
    nodes = NodeSet.empty(model)
    for _ in range(data.draw(st.integers(1, 5), label="nodes")):
        layer = data.draw(st.integers(0, model.dims.n_layers - 1))
        if data.draw(st.booleans()):
            nodes.heads[layer, data.draw(st.integers(0, model.dims.n_heads - 1))] = True
        else:
            nodes.neurons[layer, data.draw(st.integers(0, model.dims.d_mlp - 1))] = True
    name = data.draw(st.sampled_from(NAMES))
    target = data.draw(st.sampled_from(list(targets(model.dims).values())))
    intervention = interventions(model.dims, max(2, len(asked)))[name]
    chunk = data.draw(st.sampled_from([None, 1, 3]))
    scores = attribute(model, asked, target, ActivationPatching(intervention, nodes, chunk))
    sign = 1 if name in ("enhancement", "plain enhancement", "scale up") else -1
    scale = float(ec.measure(model, asked, target).values.abs().max())
    if len(asked) > 1 or "group" not in name:
        close(fast_scores(scores, nodes), slow_scores(model, asked, target, nodes, intervention, sign), scale)


def test_dose_sweep_equals_full_passes(either_model) -> None:
    model, asked, target = either_model, prompts(4), directions(either_model.dims)
    contrast, nodes = random_activations(model.dims, 4), some_nodes(model)
    table = dose_sweep(model, asked, target, nodes, lambda s: ec.Enhancement(contrast, s), strengths=(0.0, 0.5, 2.0))
    before = ec.measure(model, asked, target).mean
    for row in table.itertuples():
        patch = ec.Patch(nodes, ec.Enhancement(contrast, row.strength), "last_prompt")
        slow = ec.measure(model, asked, target, patch).mean
        assert row.value == pytest.approx(slow, rel=1e-5, abs=1e-5)
        assert row.change == pytest.approx(slow - before, rel=1e-4, abs=1e-5)
        assert row.low - 1e-9 <= row.change <= row.high + 1e-9
    empty = dose_sweep(model, asked, target, NodeSet.empty(model), ec.Scale)
    assert (empty["change"] == 0).all()


def test_activations_of_another_model_are_refused_wherever_nodes_are_changed(qwen) -> None:
    wrong = ec.MeanAblation(ec.Activations(neurons=torch.ones(1, 5), heads=torch.ones(1, 2, 3)))
    target, some = directions(qwen.dims), NodeSet.of(qwen, "L0H0", "L1N3")
    scores = attribute(qwen, prompts(3), target, ec.DirectAttribution())
    for work in (
        lambda: attribute(qwen, prompts(3), target, ActivationPatching(wrong)),
        lambda: attribute(qwen, prompts(3), target, ec.AttributionPatching(wrong)),
        lambda: ec.validation_curves(qwen, prompts(3), target, scores, intervention=wrong, ks=(0, 1), n_random=1),
        lambda: dose_sweep(qwen, prompts(3), target, some, lambda strength: wrong, strengths=(1.0,)),
        lambda: ec.faithfulness(qwen, some, prompts(3), target, wrong),
        lambda: ec.circuit_edges(qwen, some, prompts(3), target, wrong),
        lambda: ec.attribute_edges(qwen, some, prompts(3), target, wrong),
    ):
        with pytest.raises(PatchError, match=r"MeanAblation holds (head|neuron) activations of shape .* model has"):
            work()
    assert hooks_left(qwen.hf) == 0


def test_errors_say_what_to_do(qwen) -> None:
    def patched_by(intervention, nodes=None):
        return attribute(qwen, prompts(3), directions(qwen.dims), ActivationPatching(intervention, nodes))

    with pytest.raises(PatchError, match="acts on residual, not on nodes"):
        patched_by(ec.Steering(torch.zeros(3, 32), 0.1))
    other = NodeSet(torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(EmotionCircuitsError, match="different models"):
        patched_by(ec.ZeroAblation(), other)
    with pytest.raises(NodeError, match="the set of nodes to score is empty"):
        patched_by(ec.ZeroAblation(), NodeSet.empty(qwen))
    with pytest.raises(PatchError, match="record one counterfactual"):
        patched_by(ec.CounterfactualPatch(random_samples(qwen.dims, 1)))
    patch = ec.Patch(NodeSet.of(qwen, "L0H0"), ec.ZeroAblation())
    with qwen.patched(patch), pytest.raises(EmotionCircuitsError, match="cannot run inside"):
        patched_by(ec.ZeroAblation())
    assert hooks_left(qwen.hf) == 0
