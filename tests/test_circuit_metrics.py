"""Circuit metrics against naive patched runs and hand-made circuits; comparison and mixtures by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import tiny
import torch
from helpers import EMOTIONS, ids_of, instructed, naive_run, prompts, unchecked

import emotion_circuits as ec
from emotion_circuits import artefacts
from emotion_circuits.circuits.compare import compare_circuits, mix, overlap
from emotion_circuits.circuits.controls import shuffle_labels
from emotion_circuits.circuits.curves import circuit_areas, circuit_curves
from emotion_circuits.circuits.edge_attribution import attribute_edges
from emotion_circuits.circuits.edges import circuit_edges
from emotion_circuits.circuits.groups import groups_of
from emotion_circuits.circuits.metrics import completeness, faithfulness, minimality, specificity
from emotion_circuits.circuits.node_sets import set_values
from emotion_circuits.circuits.pruning import smallest_circuit
from emotion_circuits.circuits.stability import Stability, stability, stability_each
from emotion_circuits.directions.fit import fit_relabelled
from emotion_circuits.errors import ArtefactError, DataError, EmotionError, ModelError, NodeError
from emotion_circuits.types import ModelDims

DIMS = ModelDims(2, 3, 3, 6, 2, 5, 64)


def some_means(model) -> ec.Activations:
    asked = instructed(2)
    return ec.Activations(*(model.record(asked, site).mean(dim=1) for site in ("neuron", "head")))


def target_of(model, emotion: str | None = None, seed: int = 0) -> ec.Projection:
    generator = torch.Generator().manual_seed(seed)
    return ec.Projection(torch.randn(model.dims.d_model, generator=generator), emotion=emotion)


def some_scores(model, target) -> ec.NodeValues:
    """Each node's own effect of ablation, so that the ranking means something."""
    return ec.attribute(model, instructed(2), target, ec.DirectAttribution()).values


def naive_share(model, asked, target, ablation, nodes: ec.NodeSet) -> float:
    """f from three plain measurements with hooks."""
    every = ec.NodeSet.all(model)

    def m(kept: ec.NodeSet) -> float:
        return ec.measure(model, asked, target, ec.Patch(~kept, ablation, "last_prompt")).mean

    return (m(nodes) - m(~every)) / (m(every) - m(~every))


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_faithfulness_and_completeness_are_the_naive_ones(either_model, kind: str) -> None:
    model, target, asked = either_model, target_of(either_model), prompts(4)
    ablation = ec.ZeroAblation() if kind == "zero" else ec.MeanAblation(some_means(model))
    nodes = ec.NodeSet.of(model, "L0H1", "L1H2", "L1N3", "L2N40", "L0N7")
    for metric, kept in ((faithfulness, nodes), (completeness, ~nodes)):
        score = metric(model, nodes, asked, target, ablation, controls=ec.Controls(2), batch_size=2)
        assert score.value == pytest.approx(naive_share(model, asked, target, ablation, kept), abs=1e-4)
        drawn = nodes.random_like(1)
        drawn = drawn if metric is faithfulness else ~drawn
        assert float(score.random[1]) == pytest.approx(naive_share(model, asked, target, ablation, drawn), abs=1e-4)
        assert score.interval[0] <= score.value <= score.interval[1]
        assert (score.ablation, score.n_nodes, score.n_samples) == (type(ablation).__name__, 5, 4)
        assert score.full == pytest.approx(ec.measure(model, asked, target).mean, rel=1e-4)
        assert score.to_frame().loc[0, "metric"] == metric.__name__


def test_everything_is_faithful_and_nothing_is_not(qwen) -> None:
    every, options = ec.NodeSet.all(qwen), {"controls": ec.Controls(0)}
    arguments = (prompts(3), target_of(qwen), ec.ZeroAblation())
    assert faithfulness(qwen, every, *arguments, **options).value == 1.0
    assert faithfulness(qwen, ~every, *arguments, **options).value == pytest.approx(0, abs=1e-6)
    assert completeness(qwen, every, *arguments, **options).value == pytest.approx(0, abs=1e-6)
    assert math.isnan(faithfulness(qwen, every, *arguments, **options).random_interval[0])


def test_a_sev_is_instructed_with_the_targets_emotion(qwen) -> None:
    sev = ec.load_sev("demo")[2].limit(2)
    target, one = target_of(qwen, "anger"), ec.Controls(1)
    nodes = ec.NodeSet.of(qwen, "L0H1", "L1N3")
    given = faithfulness(qwen, nodes, sev, target, ec.ZeroAblation(), controls=one)
    assert given.value == faithfulness(qwen, nodes, sev.prompts("anger"), target, ec.ZeroAblation(), controls=one).value
    assert given.n_samples == 6


def test_only_the_targets_samples_count(qwen) -> None:
    asked, nodes = instructed(2), ec.NodeSet.of(qwen, "L0H1")
    target = target_of(qwen, "fear")
    mine = [prompt for prompt in asked if prompt.emotion == "fear"]
    score = faithfulness(qwen, nodes, asked, target, ec.ZeroAblation(), controls=ec.Controls(0))
    assert score.n_samples == len(mine) == 4
    assert score.value == pytest.approx(naive_share(qwen, mine, target, ec.ZeroAblation(), nodes), abs=1e-4)


def test_the_interval_is_a_bootstrap_over_scenarios(qwen) -> None:
    asked = [prompt for prompt in instructed(3) if prompt.emotion == "anger"]
    held = set_values(
        qwen, [ec.NodeSet.empty(qwen), ec.NodeSet.of(qwen, "L1H1")], asked, target_of(qwen), ec.ZeroAblation()
    )
    assert held.clusters == ("item_0", "item_0", "item_1", "item_1", "item_2", "item_2")
    by_item = held.values.view(3, 2, 2).mean(dim=1)
    draws = held.draws(seed=3)
    drawn = torch.randint(3, (2000, 3), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(draws, by_item[drawn].mean(dim=1))
    once = set_values(qwen, [ec.NodeSet.empty(qwen)], asked[:1], target_of(qwen), ec.ZeroAblation())
    assert bool(once.draws().isnan().all())  # one scenario says nothing of how scenarios differ


def test_one_scenario_has_no_interval(qwen) -> None:
    target, asked, nodes = target_of(qwen), prompts(1), ec.NodeSet.of(qwen, "L0H1", "L2N40")
    table = minimality(qwen, nodes, asked, target, ec.ZeroAblation())
    assert table["drop"].notna().all()
    assert table[["low", "high"]].isna().all(axis=None)
    assert not (table["low"] > 0).any()
    score = faithfulness(qwen, nodes, asked, target, ec.ZeroAblation(), controls=ec.Controls(0))
    assert f"{score.value:.3f} no interval (one scenario) under ZeroAblation" in repr(score)


def test_minimality_is_the_drop_of_each_node(qwen) -> None:
    target, asked = target_of(qwen), prompts(3)
    nodes = ec.NodeSet.of(qwen, "L0H1", "L1N3", "L2N40")
    table = minimality(qwen, nodes, asked, target, ec.ZeroAblation())
    whole = naive_share(qwen, asked, target, ec.ZeroAblation(), nodes)
    assert sorted(table["node"]) == ["L0H1", "L1N3", "L2N40"]
    assert table["drop"].is_monotonic_decreasing
    for row in table.itertuples():
        rest = naive_share(qwen, asked, target, ec.ZeroAblation(), nodes - ec.NodeSet.of(qwen, row.node))
        assert row.drop == pytest.approx(whole - rest, abs=1e-4)
        assert row.low <= row.drop <= row.high


def test_minimality_stands_beside_nodes_that_were_left_out(qwen) -> None:
    target, asked = target_of(qwen), prompts(2)
    nodes = ec.NodeSet.of(qwen, "L0H0", "L0H1", "L1N3", "L2H0", "L2H1", "L2H2", "L2H3")
    ranking = ec.attribute(qwen, instructed(2), target_of(qwen, seed=1), ec.DirectAttribution())
    controls = ec.Controls(40, [ranking])
    table = minimality(qwen, nodes, asked, target, ec.ZeroAblation(), controls=controls).set_index("node")
    whole = naive_share(qwen, asked, target, ec.ZeroAblation(), nodes)

    def gain(name: str) -> float:
        return naive_share(qwen, asked, target, ec.ZeroAblation(), nodes | ec.NodeSet.of(qwen, name)) - whole

    left_out = [gain("L0H2"), gain("L0H3")]  # all that there are to draw from
    beside = table.loc[["L0H0", "L0H1"]]
    assert beside["random"].tolist() == pytest.approx([sum(left_out) / 2] * 2, abs=1e-4)
    assert beside["random_low"].between(min(left_out) - 1e-4, beside["random"]).all()
    best = max((2, 3), key=lambda head: float(ranking.values.heads[0, head]))
    assert beside["shuffled"].tolist() == pytest.approx([left_out[best - 2]] * 2, abs=1e-4)
    assert table.loc[["L2H0", "L2H3"], ["random", "random_high", "shuffled"]].isna().all(axis=None)
    others = controls.left_out(nodes)["neuron", 1][0]
    assert len(set(others)) == 40
    assert "L1N3" not in map(str, others)


def test_curves_and_areas(qwen) -> None:
    target, asked = target_of(qwen), prompts(3)
    scores, options = some_scores(qwen, target), {"shares": (0.02, 0.2, 0.5), "controls": ec.Controls(2)}
    table = circuit_curves(qwen, scores, asked, target, ec.ZeroAblation(), **options)
    assert table["selection"].tolist() == ["top", "random"] * 3
    assert table["n_nodes"].tolist() == [3, 3, 31, 31, 78, 78]
    top = table[table["selection"] == "top"].reset_index()
    for size, row in zip((3, 31, 78), top.itertuples(), strict=True):
        nodes = scores.top(size)
        assert row.sufficiency == pytest.approx(naive_share(qwen, asked, target, ec.ZeroAblation(), nodes), abs=1e-4)
        assert row.necessity == pytest.approx(1 - naive_share(qwen, asked, target, ec.ZeroAblation(), ~nodes), abs=1e-4)
    found = circuit_areas(qwen, scores, asked, target, ec.ZeroAblation(), **options)
    x, f = [0, 3 / 156, 31 / 156, 78 / 156, 1], [0, *top["sufficiency"], 1]
    assert found.curve.tolist() == [pytest.approx(x), pytest.approx(f, abs=1e-6)]
    by_hand = [sum((b - a) * (g[i] + g[i + 1]) / 2 for i, (a, b) in enumerate(pairwise(x)))
               for g in (f, [abs(1 - y) for y in f])]  # fmt: skip
    assert (found.cpr, found.cmd) == pytest.approx(tuple(by_hand), abs=1e-6)
    assert found.cpr_interval[0] <= found.cpr <= found.cpr_interval[1]
    assert found.to_frame()["metric"].tolist() == ["CPR", "CMD"]


def test_areas_without_random_circuits(qwen) -> None:
    target = target_of(qwen)
    found = circuit_areas(
        qwen, some_scores(qwen, target), prompts(2), target, ec.ZeroAblation(), shares=(0.1,), controls=ec.Controls(0)
    )
    assert math.isnan(found.random[0])
    assert found.cmd_interval[0] <= found.cmd <= found.cmd_interval[1]


def test_specificity_is_a_matrix(qwen) -> None:
    asked = instructed(2)
    targets = {emotion: target_of(qwen, emotion, i) for i, emotion in enumerate(EMOTIONS)}
    values = ec.NodeValues(torch.zeros(3, 48), torch.zeros(3, 4))
    nodes = {e: ec.NodeSet.of(qwen, f"L{i}H1", f"L1N{i}") for i, e in enumerate(EMOTIONS)}
    circuits = {e: ec.Circuit(e, held, qwen.dims, values) for e, held in nodes.items()}
    table = specificity(qwen, circuits, asked, targets, ec.ZeroAblation())
    assert len(table) == 9
    row = table[(table["circuit"] == "fear") & (table["target"] == "sadness")].iloc[0]
    mine = [prompt for prompt in asked if prompt.emotion == "sadness"]
    left = naive_share(qwen, mine, targets["sadness"], ec.ZeroAblation(), ~nodes["fear"])
    assert row["removed"] == pytest.approx(1 - left, abs=1e-4)
    assert row["low"] <= row["removed"] <= row["high"]


def test_specificity_stands_beside_controls_of_each_circuit(qwen) -> None:
    asked, values = instructed(2), ec.NodeValues(torch.zeros(3, 48), torch.zeros(3, 4))
    targets = {emotion: target_of(qwen, emotion, i) for i, emotion in enumerate(EMOTIONS)}
    nodes = {"anger": ec.NodeSet.of(qwen, "L0H1", "L1N1"), "fear": ec.NodeSet.of(qwen, "L2H1", "L2N7")}
    circuits = {e: ec.Circuit(e, held, qwen.dims, values) for e, held in nodes.items()}
    controls = ec.Controls(2, [ec.attribute(qwen, asked, targets["fear"], ec.DirectAttribution())])
    table = specificity(qwen, circuits, asked, targets, ec.ZeroAblation(), controls=controls)
    row = table[(table["circuit"] == "fear") & (table["target"] == "sadness")].iloc[0]
    mine = [prompt for prompt in asked if prompt.emotion == "sadness"]
    *drawn, shuffled = (
        1 - naive_share(qwen, mine, targets["sadness"], ec.ZeroAblation(), ~held)
        for held in controls.like(nodes["fear"], 1)
    )
    assert row["random"] == pytest.approx(sum(drawn) / 2, abs=1e-4)
    assert row["shuffled"] == pytest.approx(shuffled, abs=1e-4)
    assert min(drawn) - 1e-4 <= row["random_low"] <= row["random_high"] <= max(drawn) + 1e-4


def test_refusals(qwen) -> None:
    target, asked = target_of(qwen), prompts(2)
    foreign = ec.NodeSet.all(DIMS)
    with pytest.raises(NodeError, match="of a model of another shape"):
        faithfulness(qwen, foreign, asked, target, ec.ZeroAblation())
    with pytest.raises(EmotionError, match=r"Scale\(factor=1.0\) does not change the target"):
        faithfulness(qwen, ec.NodeSet.all(qwen), asked, target, ec.Scale(1.0))


# Controls


def test_labels_are_shuffled_within_groups() -> None:
    asked = instructed(4)
    shuffled = shuffle_labels(asked, seed=1)
    assert [p.messages for p in shuffled] == [p.messages for p in asked]
    assert [p.group for p in shuffled] == [p.group for p in asked]
    for group in {p.group for p in asked}:
        assert sorted(p.emotion for p in shuffled if p.group == group) == sorted(EMOTIONS)
    moved = sum(a.emotion != b.emotion for a, b in zip(asked, shuffled, strict=True))
    assert 0 < moved < len(asked)
    assert shuffle_labels(asked, seed=1) == shuffled != shuffle_labels(asked, seed=2)


def test_one_pass_fits_every_labelling_as_a_pass_of_its_own_does(qwen) -> None:
    asked = instructed(3)
    labellings = [shuffle_labels(asked, seed) for seed in (1, 2)]
    for labelled, found in zip(labellings, fit_relabelled(qwen, asked, labellings, EMOTIONS), strict=True):
        alone = ec.fit_directions(qwen, labelled, EMOTIONS)
        assert torch.equal(found.vectors, alone.vectors)
        assert found.provenance == alone.provenance


def test_shuffled_circuits_stand_beside_random_ones(qwen) -> None:
    asked, nodes = instructed(3), ec.NodeSet.of(qwen, "L0H1", "L1N3", "L1N7", "L2N40")
    (scores,) = ec.shuffled_scores(qwen, asked, "fear", ec.DirectAttribution(), n=1, seed=4)
    # The same by hand: labels permuted, directions fitted, nodes scored, the best of each layer and kind.
    permuted = shuffle_labels(asked, 4)
    direction = ec.fit_directions(qwen, permuted, EMOTIONS).target("fear")
    by_hand = ec.attribute(qwen, permuted, direction, ec.DirectAttribution()).values
    assert torch.equal(scores.values.neurons, by_hand.neurons)
    best = [f"L{l}N{i}" for l, k in ((1, 2), (2, 1)) for i in by_hand.neurons[l].argsort(descending=True)[:k].tolist()]
    control = ec.NodeSet.of(qwen, *best, f"L0H{int(by_hand.heads[0].argmax())}")
    target, controls = target_of(qwen, "fear"), ec.Controls(2, [scores])
    assert controls.like(nodes)[2] == control
    mine = [prompt for prompt in asked if prompt.emotion == "fear"]
    for metric, kept in ((faithfulness, control), (completeness, ~control)):
        score = metric(qwen, nodes, mine, target, ec.ZeroAblation(), controls=controls)
        assert (len(score.random), len(score.shuffled)) == (2, 1)
        assert float(score.shuffled[0]) == pytest.approx(
            naive_share(qwen, mine, target, ec.ZeroAblation(), kept), abs=1e-4
        )
        assert score.to_frame().loc[0, "shuffled"] == pytest.approx(float(score.shuffled[0]))
        assert "shuffled" in repr(score)
    options = {"shares": (0.1,), "controls": controls}
    table = circuit_curves(qwen, scores, mine, target, ec.ZeroAblation(), **options)
    assert table["selection"].tolist() == ["top", "random", "shuffled"]
    # A ranking's own best of each layer are its best: the control of a shuffled ranking against itself is itself.
    assert table["sufficiency"].iloc[2] == pytest.approx(table["sufficiency"].iloc[0])
    areas = circuit_areas(qwen, scores, mine, target, ec.ZeroAblation(), **options)
    assert areas.shuffled == pytest.approx((areas.cpr, areas.cmd))


# The smallest circuit


@pytest.mark.parametrize("greedy", [False, True])
def test_the_smallest_circuit_is_enough(qwen, greedy: bool) -> None:
    target, asked = target_of(qwen), prompts(3)
    scores = some_scores(qwen, target)
    options = {"greedy": greedy, "controls": ec.Controls(3)}
    found = smallest_circuit(qwen, scores, asked, target, ec.ZeroAblation(), 0.6, **options)
    assert found.faithfulness.value >= 0.6
    assert found.faithfulness.value == pytest.approx(
        naive_share(qwen, asked, target, ec.ZeroAblation(), found.nodes), abs=1e-4
    )
    assert len(found.faithfulness.random) == 3
    if greedy:
        for node in found.nodes:
            rest = found.nodes - ec.NodeSet.of(qwen, node)
            assert naive_share(qwen, asked, target, ec.ZeroAblation(), rest) < 0.6 + 1e-4
    else:
        assert found.nodes == scores.top(len(found))
        below = scores.top(len(found) - 1)
        assert naive_share(qwen, asked, target, ec.ZeroAblation(), below) < 0.6 + 1e-4
        assert all(f < 0.6 for size, f in found.tried.items() if size < len(found))


def test_no_circuit_is_faithful_enough(qwen) -> None:
    target = target_of(qwen)
    with pytest.raises(NodeError, match="ask for less"):
        smallest_circuit(qwen, some_scores(qwen, target), prompts(2), target, ec.ZeroAblation(), 50.0)


# Comparing and mixing


def circuit(emotion: str, *names: str, scores: float = 1.0, reply: bool = False) -> ec.Circuit:
    values = ec.NodeValues(scores * torch.arange(10.0).view(2, 5), scores * torch.arange(6.0).view(2, 3))
    part = ec.Activations(torch.full((2, 5), scores), torch.full((2, 3, 2), scores))
    contrast = ec.Contrast(emotion, "emotions", part, part * 10 if reply else None)
    return ec.Circuit(emotion, ec.NodeSet.of(DIMS, *names), DIMS, values, torch.full((2, 2), scores), contrast)


def test_comparison_by_hand() -> None:
    a, b = circuit("anger", "L0N0", "L0N1", "L1H0", "L1H1"), circuit("fear", "L0N1", "L1N2", "L1H0", scores=-1.0)
    found = compare_circuits(a, b)
    assert found.core == ec.NodeSet.of(DIMS, "L0N1", "L1H0")
    assert (found.jaccard("neuron"), found.jaccard("head"), found.jaccard()) == pytest.approx((1 / 3, 1 / 2, 2 / 5))
    assert found.by_layer("neuron").tolist() == [0.5, 0.0]
    assert math.isnan(found.by_layer("head")[0])
    assert found.rank_correlation == pytest.approx({"neuron": -1, "head": -1})
    table = found.to_frame()
    assert table.iloc[0].tolist() == [0, "neuron", 1, 1, 0, 0.5]
    assert table[table["layer"].isna()]["shared"].tolist() == [1, 1]
    assert overlap({"anger": a, "fear": b}, "head").loc["anger", "fear"] == 0.5
    assert "Jaccard neurons 0.333, heads 0.500" in repr(found)


def test_rank_correlation_with_ties() -> None:
    a, b = circuit("anger", "L0N0"), circuit("fear", "L0N0")
    a.scores.heads.copy_(torch.tensor([[1.0, 2.0, 2.0], [3.0, 4.0, 5.0]]))
    b.scores.heads.copy_(torch.tensor([[10.0, 30.0, 20.0], [20.0, 50.0, 40.0]]))
    import pandas as pd

    expected = pd.Series(a.scores.heads.flatten()).rank().corr(pd.Series(b.scores.heads.flatten()).rank())
    assert compare_circuits(a, b).rank_correlation["head"] == pytest.approx(expected)


def test_a_mixture_adds_up(qwen) -> None:
    generator = torch.Generator().manual_seed(0)
    d = qwen.dims

    def one(emotion: str, *names: str) -> ec.Circuit:
        part = ec.Activations(
            torch.randn(d.n_layers, d.d_mlp, generator=generator),
            torch.randn(d.n_layers, d.n_heads, d.d_head, generator=generator),
        )
        values = ec.NodeValues(torch.zeros(d.n_layers, d.d_mlp), torch.zeros(d.n_layers, d.n_heads))
        return ec.Circuit(emotion, ec.NodeSet.of(qwen, *names), d, values, None, ec.Contrast(emotion, "emotions", part))

    a, b = one("anger", "L0H1", "L1N3"), one("fear", "L1N3", "L2N7")
    mixed = mix([a, b], [0.7, -0.4])
    assert mixed.nodes == a.nodes | b.nodes
    assert mixed.emotion == "0.7 anger + -0.4 fear"
    asked = prompts(2)
    with qwen.patched(ec.Patch(mixed.nodes, ec.Enhancement(mixed.contrast), "all")):
        once = qwen.logits(asked)
    each = [ec.Patch(c.nodes, ec.Enhancement(c.contrast, w), "all") for c, w in ((a, 0.7), (b, -0.4))]
    with qwen.patched(*each):
        torch.testing.assert_close(once, qwen.logits(asked), rtol=1e-4, atol=1e-4)


def test_a_mixture_of_replies_and_influence() -> None:
    mixed = mix([circuit("anger", "L0N0", reply=True), circuit("fear", "L0N1", scores=2.0)], [1, 0.5])
    assert mixed.contrast.prompt.neurons[0].tolist() == [1, 1, 0, 0, 0]
    assert mixed.contrast.reply.neurons[0].tolist() == [10, 1, 0, 0, 0]  # fear has no reply part: its prompt part acts
    assert mixed.influence.tolist() == [[2, 2], [2, 2]]
    assert mixed.scores.heads[0].tolist() == [0, 2, 4]


def test_what_does_not_mix_or_compare() -> None:
    a, b = circuit("anger", "L0N0"), circuit("fear", "L0N0")
    with pytest.raises(NodeError, match="give one weight per circuit"):
        mix([a, b], [1.0])
    with pytest.raises(EmotionError, match="1 of 2 circuits have one"):
        mix([a, ec.Circuit("fear", b.nodes, DIMS, b.scores)], [1, 1])
    other = ModelDims(2, 3, 3, 6, 2, 4, 64)
    small = ec.NodeValues(torch.zeros(2, 4), torch.zeros(2, 3))
    with pytest.raises(NodeError, match="of different models"):
        compare_circuits(a, ec.Circuit("fear", ec.NodeSet.empty(other), other, small))


# Edges


def naive_edge(model, ids: list[int], source, receiver, ablate) -> dict:
    """Path patching with plain hooks: freeze all other sublayers, then put the receiver's values."""

    def at_last(new):
        return lambda value: torch.cat([value[:-1], new(value[-1:])])

    clean = naive_run(model.hf, ids)
    (kind, layer, units), (to_kind, to_layer, to_units) = source, receiver

    def taken(value):
        value = value.clone()
        value[:, units] = ablate(value[:, units])
        return value

    frozen = {}
    for l in range(model.dims.n_layers):
        for written, height in (("attn_out", (l, 0)), ("mlp_out", (l, 1))):
            if (layer, int(kind == "neuron")) < height < (to_layer, int(to_kind == "neuron")):
                frozen[written, l] = at_last(lambda value, held=clean[written, l]: held[-1:])
    seen = naive_run(model.hf, ids, {(kind, layer): at_last(taken), **frozen})[to_kind, to_layer]

    def put(value):
        value = value.clone()
        value[:, to_units] = seen[-1:, to_units]
        return value

    return naive_run(model.hf, ids, {(to_kind, to_layer): at_last(put)})


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "qwen3"])
def test_edges_are_path_patching(architecture: str) -> None:
    model = tiny.model(architecture)
    groups = {
        "a": ec.NodeSet.of(model, "L0H1"), "b": ec.NodeSet.of(model, "L0N3", "L0N9"),
        "c": ec.NodeSet.of(model, "L1H0", "L1H2"), "d": ec.NodeSet.of(model, "L2N5", "L2N6"),
    }  # fmt: skip
    place = {"a": ("head", 0, [1]), "b": ("neuron", 0, [3, 9]), "c": ("head", 1, [0, 2]), "d": ("neuron", 2, [5, 6])}
    target, asked = target_of(model), prompts(3)
    table = circuit_edges(model, groups, asked, target, ec.ZeroAblation(), batch_size=2).set_index(["source", "target"])
    assert len(table) == 6 + 4
    every = [ids_of(model, prompt) for prompt in asked]
    clean = [naive_run(model.hf, ids)["resid_post", 2][-1] for ids in every]
    before = torch.stack(clean) @ target.vector
    largest = 0.0
    for source, receiver in [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]:
        runs = [naive_edge(model, ids, place[source], place[receiver], torch.zeros_like) for ids in every]
        after = torch.stack([run["resid_post", 2][-1] for run in runs]) @ target.vector
        row = table.loc[(source, receiver)]
        assert row["effect"] == pytest.approx(float((after - before).mean()), abs=1e-3)
        assert row["low"] <= row["effect"] <= row["high"]
        largest = max(largest, abs(row["effect"]))
    assert largest > 0.1
    # What neurons write is their activation times W_down; the direct path to a projection is its negative, when zeroed.
    held = torch.stack([naive_run(model.hf, ids)["neuron", 0][-1] for ids in every])[:, [3, 9]]
    direct = -(held @ model.writes("neuron", 0)[[3, 9]]) @ target.vector
    assert table.loc[("b", "target"), "effect"] == pytest.approx(float(direct.mean()), abs=1e-3)


def test_a_circuits_edges_become_a_graph(qwen) -> None:
    nodes = ec.NodeSet.of(qwen, "L0H1", "L1H2", "L1N3", "L1N4")
    values = ec.NodeValues(torch.zeros(3, 48), torch.zeros(3, 4))
    held = ec.Circuit("anger", nodes, qwen.dims, values)
    assert {name: len(group) for name, group in groups_of(held).items()} == {"L0H1": 1, "L1H2": 1, "L1 neurons": 2}
    table = circuit_edges(qwen, held, prompts(2), target_of(qwen), ec.ZeroAblation())
    assert set(zip(table["source"], table["target"], strict=True)) == {
        ("L0H1", "L1H2"), ("L0H1", "L1 neurons"), ("L1H2", "L1 neurons"),
        ("L0H1", "target"), ("L1H2", "target"), ("L1 neurons", "target"),
    }  # fmt: skip
    assert held.to_networkx(table).edges["L0H1", "L1H2"]["relation"] == "direct"
    early = ec.Projection(torch.ones(32), "resid_mid", 1)
    ends = circuit_edges(qwen, held, prompts(2), early, ec.ZeroAblation()).query("target == 'target'")["source"]
    assert set(ends) == {"L0H1", "L1H2"}  # the neurons write after the readout


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "qwen3"])
def test_attributed_edges_are_the_slope_of_path_patching(architecture: str) -> None:
    """A small intervention's effect is its attribution; every edge is verified by the interventions themselves."""
    model = tiny.model(architecture, dtype=torch.float64)
    groups = groups_of(ec.NodeSet.of(model, "L0H1", "L0N3", "L0N9", "L1H0", "L1H2", "L1N7", "L2H3", "L2N5", "L2N6"))
    target = ec.Projection(target_of(model).vector.double())
    arguments = (model, groups, prompts(3), target, ec.Scale(1 - 1e-3))  # norms are computed in float32, so not smaller
    exact = circuit_edges(*arguments).set_index(["source", "target"])["effect"]
    found = attribute_edges(*arguments, batch_size=2).set_index(["source", "target"])["effect"]
    assert set(found.index) == set(exact.index)
    largest = exact.abs().max()
    for ends, effect in exact.items():
        assert found[ends] == pytest.approx(effect, rel=2e-2, abs=1e-3 * largest)


def test_attributed_edges_rank_as_exact_ones_do(qwen) -> None:
    """Sign and rank under mean ablation, which is not small; the largest are verified one by one."""
    every, target, asked = ec.NodeSet.all(qwen), target_of(qwen), prompts(4)
    ablation = ec.MeanAblation(some_means(qwen))
    groups = groups_of(every) | groups_of(ec.NodeSet.of(qwen, "L0N3", "L1N7"), "node")
    found = attribute_edges(qwen, groups, asked, target, ablation).set_index(["source", "target"])["effect"]
    exact = circuit_edges(qwen, groups, asked, target, ablation).set_index(["source", "target"])["effect"]
    exact = exact[found.index]
    assert found.rank().corr(exact.rank()) > 0.8
    assert (torch.tensor((found * exact).to_numpy()[:10]) > 0).all()
    direct = found.index.get_level_values("target") == "target"
    torch.testing.assert_close(*(torch.tensor(v[direct].to_numpy()) for v in (found, exact)), rtol=1e-4, atol=1e-4)


def test_groups_by_sublayer_and_readouts_in_between(qwen) -> None:
    groups = groups_of(ec.NodeSet.all(qwen), "sublayer")
    assert list(groups) == ["L0 attention", "L0 mlp", "L1 attention", "L1 mlp", "L2 attention", "L2 mlp"]
    assert [len(held) for held in groups.values()] == [4, 48] * 3
    early = ec.Projection(torch.ones(32), "resid_mid", 1)
    table = attribute_edges(qwen, groups, prompts(2), early, ec.ZeroAblation()).set_index(["source", "target"])
    assert table.loc[("L0 mlp", "L2 mlp"), "effect"] == 0  # nothing above the readout can matter
    assert table.loc[("L0 attention", "L0 mlp"), "effect"] != 0
    assert set(table.xs("target", level="target").index) == {"L0 attention", "L0 mlp", "L1 attention"}


def test_attributed_edges_in_inference_mode(qwen) -> None:
    arguments = (qwen, ec.NodeSet.of(qwen, "L0H1", "L1N3", "L2H0"), prompts(2), target_of(qwen), ec.ZeroAblation())
    plain = attribute_edges(*arguments)
    with torch.inference_mode():
        inside = attribute_edges(*arguments)
    assert plain["effect"].abs().min() > 0
    assert inside.equals(plain)


def test_groupings_that_are_none(qwen) -> None:
    with pytest.raises(ValueError, match="unknown grouping 'nodes'; the groupings are usual, node, sublayer"):
        unchecked(groups_of, ec.NodeSet.all(qwen), "nodes")


def test_groups_that_are_none(qwen) -> None:
    arguments = (prompts(2), ec.Projection(torch.ones(32)), ec.ZeroAblation())
    with pytest.raises(NodeError, match="'both' has nodes in 2 sublayers"):
        circuit_edges(qwen, {"both": ec.NodeSet.of(qwen, "L0H1", "L1H1")}, *arguments)
    gemma = tiny.model("gemma2")
    with pytest.raises(ModelError, match="norms what its sublayers write"):
        circuit_edges(gemma, {"a": ec.NodeSet.of(gemma, "L0H1")}, *arguments)


# Stability


def test_stability_is_a_bootstrap_of_scenarios(qwen) -> None:
    asked, target = instructed(4), target_of(qwen, "fear")

    def choose(values: ec.NodeValues) -> ec.NodeSet:
        return values.top(6, "neuron")

    found = stability(qwen, asked, target, ec.DirectAttribution(), choose, n_draws=40, seed=5)
    assert found.circuit == choose(ec.attribute(qwen, asked, target, ec.DirectAttribution()).values)
    # The same by hand: attribute every resample of whole scenarios anew.
    items = sorted({prompt.item for prompt in asked})
    drawn = torch.randint(4, (40, 4), generator=torch.Generator().manual_seed(5))
    counts = torch.zeros(3, 48)
    for draw in drawn.tolist():
        sample = [prompt for i in draw for prompt in asked if prompt.item == items[i]]
        counts += choose(ec.attribute(qwen, sample, target, ec.DirectAttribution()).values).neurons
    torch.testing.assert_close(found.frequency.neurons, counts / 40)
    assert float(found.frequency.neurons.sum()) == pytest.approx(6)
    in_halves = found.half_frequency.neurons
    assert float(in_halves.sum()) == pytest.approx(6)
    assert bool(((in_halves * 40 - (in_halves * 40).round()).abs() < 1e-4).all())  # of 20 pairs of halves
    assert found.core(0.9).neurons.tolist() == ((counts / 40 >= 0.9) & (in_halves >= 0.9)).tolist()
    assert 0 <= found.halves <= 1
    table = found.to_frame()
    assert set(table["node"]) >= set(found.circuit.names())
    assert table["frequency"].is_monotonic_decreasing
    assert "6 nodes" in repr(found)


def test_stability_of_several_targets_is_that_of_each(qwen, tmp_path) -> None:
    asked = [prompt for prompt in instructed(3) if (prompt.item, prompt.emotion) != ("item_1", "fear")]
    targets = {emotion: target_of(qwen, emotion, i) for i, emotion in enumerate(EMOTIONS)}
    method, choose = ec.DirectAttribution(), {emotion: lambda values: values.top(6) for emotion in EMOTIONS}
    together = stability_each(qwen, asked, targets, method, choose, n_draws=10)
    for emotion, target in targets.items():
        mine = [prompt for prompt in asked if prompt.emotion == emotion]
        alone = stability(qwen, mine, target, method, choose[emotion], n_draws=10)
        torch.testing.assert_close(together[emotion].frequency.neurons, alone.frequency.neurons)
        assert together[emotion].n_scenarios == (2 if emotion == "fear" else 3)
    together["fear"].save(tmp_path / "s")
    again = Stability.load(tmp_path / "s")
    assert again.to_frame().equals(together["fear"].to_frame())
    tensors, meta = artefacts.load(tmp_path / "s", "stability")
    artefacts.save(tmp_path / "bad", "stability", tensors | {"circuit.heads": torch.ones(3, 4)}, meta)
    with pytest.raises(ArtefactError, match="heads should be"):
        Stability.load(tmp_path / "bad")
    artefacts.save(tmp_path / "bad", "stability", tensors | {"frequency.heads": torch.ones(2, 4)}, meta)
    with pytest.raises(ArtefactError, match="heads should be"):
        Stability.load(tmp_path / "bad")


def test_stability_needs_scenarios(qwen) -> None:
    with pytest.raises(DataError, match="1 scenario"):
        stability(qwen, instructed(1), target_of(qwen, "fear"), ec.DirectAttribution(), lambda values: values.top(3))
