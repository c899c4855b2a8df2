"""Validation curves equal patched passes, draw what they say, and find a planted effect."""

from __future__ import annotations

import pytest
import torch
from helpers import instructed, prompts, unchecked
from test_patching import directions, interventions, random_activations

import emotion_circuits as ec
from emotion_circuits.attribution import ActivationPatching, attribute, validation_curves
from emotion_circuits.errors import NodeError
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.targets import ResidualFunction

COLUMNS = """layer sublayer kind selection k effect_local low_local high_local effect_end low high""".split()


def made_up(model, seed: int = 0) -> ec.Attribution:
    g = torch.Generator().manual_seed(seed)
    d = model.dims
    values = NodeValues(torch.randn(d.n_layers, d.d_mlp, generator=g), torch.randn(d.n_layers, d.n_heads, generator=g))
    return ec.Attribution(values, "made up", None, 1, d)


def effect_of(model, asked, target, nodes, intervention) -> float:
    before = ec.measure(model, asked, target)
    return (ec.measure(model, asked, target, ec.Patch(nodes, intervention, "last_prompt")) - before).mean


@pytest.mark.parametrize("name", ["zero", "mean", "enhancement", "counterfactual"])
def test_top_and_bottom_equal_patched_passes(either_model, name: str) -> None:
    model, asked, target = either_model, prompts(3), directions(either_model.dims)
    intervention, scores = interventions(model.dims, 3)[name], made_up(either_model)
    table = validation_curves(
        model, asked, target, scores, intervention=intervention, ks=(0, 2, 4), n_random=2, layers=[1], batch_size=2
    )
    assert list(table.columns) == COLUMNS
    for row in table[table.selection != "random"].itertuples():
        values = scores.values.values(row.kind)[1]
        order = values.argsort(descending=True)
        chosen = order[: row.k] if row.selection == "top" else order[len(order) - row.k :]
        nodes = NodeSet.of(model, *(f"L1{'H' if row.kind == 'head' else 'N'}{int(i)}" for i in chosen))
        site = "resid_mid" if row.kind == "head" else "resid_post"
        local = ec.Projection(target.local(model, site, 1), site, 1)
        near = {"rel": 1e-4, "abs": 2e-5}
        assert row.effect_end == pytest.approx(effect_of(model, asked, target, nodes, intervention), **near)
        assert row.effect_local == pytest.approx(effect_of(model, asked, local, nodes, intervention), **near)
        assert row.low - 1e-6 <= row.effect_end <= row.high + 1e-6
    assert (table[table.k == 0][["effect_local", "effect_end"]].abs() < 1e-4).all(axis=None)


def test_global_curves_equal_patched_passes(either_model) -> None:
    model, asked, target = either_model, prompts(3), directions(either_model.dims)
    scores, intervention = made_up(model), ec.Scale(0.1)
    table = validation_curves(
        model, asked, target, scores, intervention=intervention, ks=(0, 3, 20), n_random=3, scope="global", chunk=4
    )
    assert set(table["sublayer"]) == {"all"}
    for k in (3, 20):
        top = effect_of(model, asked, target, scores.top(k), intervention)
        held = table[(table.k == k)].set_index("selection")
        assert held.loc["top", "effect_end"] == pytest.approx(top, rel=1e-4, abs=2e-5)
        draws = [effect_of(model, asked, target, scores.top(k).random_like(i), intervention) for i in range(3)]
        assert held.loc["random", "effect_end"] == pytest.approx(sum(draws) / 3, rel=1e-4, abs=2e-5)
        assert min(draws) - 1e-4 <= held.loc["random", "low"] <= held.loc["random", "high"] <= max(draws) + 1e-4
    assert table["effect_local"].isna().all()


def test_random_draws_are_of_the_same_layer_and_reproducible(qwen) -> None:
    asked, target = prompts(2), directions(qwen.dims)
    options = {"intervention": ec.ZeroAblation(), "ks": (1, 4), "n_random": 5, "layers": [0, -1]}
    one, same, other = (
        validation_curves(qwen, asked, target, made_up(qwen), seed=seed, **options) for seed in (0, 0, 1)
    )
    assert one.equals(same)
    assert not one.equals(other)
    assert set(one["layer"]) == {0, 2}
    # All four heads of a layer: every draw is the whole layer, as are the best and the worst.
    whole = one[(one.kind == "head") & (one.k == 4)]
    assert (whole.groupby("layer")["effect_end"].agg(lambda x: x.max() - x.min()) < 1e-5).all()


def test_the_nodes_that_carry_a_target_stand_out(qwen) -> None:
    """Ranked by their true effect, the best nodes' ablation beats the random draws'; the worst go the other way."""
    asked, target = prompts(4), directions(qwen.dims)
    real = attribute(qwen, asked, target, ActivationPatching(ec.ZeroAblation(), NodeSet.all(qwen).only("neuron")))
    table = validation_curves(qwen, asked, target, real, intervention=ec.ZeroAblation(), ks=(4,), n_random=20)
    curves = table.pivot(index="layer", columns="selection", values=["effect_end", "low", "high"])
    assert (curves["effect_end", "top"] < curves["low", "random"]).all()
    assert (curves["effect_end", "bottom"] > curves["high", "random"]).all()
    assert set(table["kind"]) == {"neuron"}


def test_samples_batches_and_targets_without_direction(qwen) -> None:
    asked, scores = instructed(), made_up(qwen)
    target = ResidualFunction(lambda resid: resid.square().mean(-1), emotion="fear")
    ablation = ec.MeanAblation(random_activations(qwen.dims, 2))
    options = {"intervention": ablation, "ks": (2,), "n_random": 3, "layers": [1]}
    one, other = (
        validation_curves(qwen, asked, target, scores, batch_size=size, chunk=chunk, **options)
        for size, chunk in ((32, None), (2, 5))
    )
    assert one["effect_local"].isna().all()
    assert torch.tensor(one["effect_end"].tolist()).allclose(torch.tensor(other["effect_end"].tolist()), rtol=1e-4)
    mine = [prompt for prompt in asked if prompt.emotion == "fear"]
    alone = validation_curves(qwen, mine, target, scores, **options)
    assert torch.tensor(one["effect_end"].tolist()).allclose(torch.tensor(alone["effect_end"].tolist()), rtol=1e-4)


def test_layers_and_scopes_that_are_none(qwen) -> None:
    arguments = (qwen, prompts(2), directions(qwen.dims), made_up(qwen))
    options = {"intervention": ec.ZeroAblation(), "ks": (1,), "n_random": 2}
    with pytest.raises(NodeError, match="layer 9 is outside the model, which has layers 0 to 2"):
        validation_curves(*arguments, layers=[9], **options)
    with pytest.raises(ValueError, match="unknown scope 'Global'; the scopes are sublayer, global"):
        unchecked(validation_curves, *arguments, scope="Global", **options)
    assert set(validation_curves(*arguments, layers=[-1], **options)["layer"]) == {2}
