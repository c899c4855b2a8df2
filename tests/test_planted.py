"""Planted models: their truth holds under intervention, their difficulties are real, and scores mean what they say."""

from __future__ import annotations

import pytest
import torch


def of(**settings):
    from emotion_circuits.planted import PlantedConfig, planted

    return planted(PlantedConfig(**({"n_scenarios": 2} | settings)))


@pytest.fixture(scope="module")
def plain():
    return of()


@pytest.fixture(scope="module")
def case(plain):
    from emotion_circuits.benchmark.methods import Case

    return Case(plain)


def said(planted, replies) -> list[str | None]:
    return [score.label for score in planted.judge(replies.texts)]


def test_it_obeys_its_language(plain):
    import emotion_circuits as ec

    replies = ec.elicit(plain.model, plain.data)
    assert said(plain, replies) == [reply.emotion for reply in replies]
    assert replies.texts[0] == "furious outraged livid"
    assert set(ec.generate(plain.model, plain.data.prompts()).texts) == {"this is noted"}


def test_ablating_the_truth_removes_the_emotion_and_ablating_distractors_does_not(plain):
    import emotion_circuits as ec

    asked = plain.prompts()
    wanted = [prompt.emotion for prompt in asked]

    def under(nodes):
        return said(plain, ec.generate(plain.model, asked, ec.Patch(nodes, ec.ZeroAblation(), "last")))

    assert set(under(plain.truth)) == {"neutral"}
    assert set(under(plain.truth.only("neuron"))) == {"neutral"}
    assert set(under(plain.truth.only("head"))) == {"neutral"}
    for role in ("elsewhere", "dormant", "scenario"):
        assert under(plain.nodes(role)) == wanted, role
    drawn = [under(plain.truth.random_like(seed, within=~plain.truth)) for seed in range(4)]
    kept = [label == emotion for labels in drawn for label, emotion in zip(labels, wanted, strict=True)]
    assert sum(kept) / len(kept) > 0.8  # a draw may take one half of a scenario pair, which is not nothing


def test_ablating_one_emotion_leaves_the_others(plain):
    import emotion_circuits as ec

    asked = plain.prompts()
    patch = ec.Patch(plain.truth_of["fear"].only("neuron"), ec.ZeroAblation(), "last")
    labels = said(plain, ec.generate(plain.model, asked, patch))
    assert labels == ["neutral" if prompt.emotion == "fear" else prompt.emotion for prompt in asked]


def test_the_indirect_path_carries_a_part(plain, case):
    import emotion_circuits as ec

    target = ec.Projection(case.directions.of("anger")[-1], emotion="anger")
    asked = [i.prompt("anger") for i in plain.data.items]
    base = ec.measure(plain.model, asked, target).mean
    relay = plain.nodes("relay", emotion="anger")
    without = ec.measure(plain.model, asked, target, ec.Patch(relay, ec.ZeroAblation())).mean
    relayed = plain.nodes("relayed", emotion="anger")
    neither = ec.measure(plain.model, asked, target, ec.Patch(relay | relayed, ec.ZeroAblation())).mean
    assert without < 0.95 * base
    assert abs(neither - without) < 0.1 * abs(base - without)  # what it carries goes through its second half


def test_modulation_through_the_truth_makes_the_emotion_appear_and_random_nodes_do_not(plain, case):
    import emotion_circuits as ec

    circuits = {}
    for emotion, scores in case.direct.items():
        truth = plain.truth_of[emotion]
        circuit = ec.build_circuit(scores, neurons=1.0, heads=0.0, size=truth.n_neurons, method=ec.GlobalTop())
        circuits[emotion] = circuit.with_nodes(truth)
    modulation = ec.CircuitModulation(circuits)
    for method, expected in ((modulation, lambda e: {e}), (modulation.random_like(3), lambda e: {"neutral"})):
        for emotion in ec.EKMAN:
            prompts, patches = method.prepare(plain.data.items, emotion)
            assert set(said(plain, ec.generate(plain.model, prompts, patches))) == expected(emotion)


def test_the_edges_join_true_nodes_upwards(plain):
    assert plain.edges
    for source, target in plain.edges:
        assert source in plain.truth and target in plain.truth
        assert (source.layer, source.kind == "neuron") < (target.layer, target.kind == "neuron")


def test_a_seed_fixes_everything():
    first, again, other = of(seed=3), of(seed=3), of(seed=4)
    pairs = zip(first.model.hf.parameters(), again.model.hf.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert first.truth == again.truth and first.edges == again.edges and first.data == again.data
    assert first.truth != other.truth


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"layers": 2}, "layers=2 is too few"),
        ({"planted_heads": 9}, "room for 1 to 6"),
        ({"superposition": 1.0}, "is a cosine"),
        ({"d_mlp": 24}, "give a larger d_mlp"),
    ],
)
def test_an_impossible_model_is_refused(settings, match):
    from emotion_circuits.errors import ModelError

    with pytest.raises(ModelError, match=match):
        of(**settings)


@pytest.fixture(scope="module")
def scenario_heavy():
    from emotion_circuits.benchmark import discovery
    from emotion_circuits.planted import PlantedConfig

    configs = [PlantedConfig(n_scenarios=4, scenario_strength=3.0, noise=0.02, seed=seed) for seed in (31, 32)]
    methods = ["direct", "direct, centred", "activation alone", "activation difference", "weights alone", "random"]
    table = discovery(configs, methods)
    return table.groupby(["kind", "method"])[["recall", "average_precision"]].mean()


def test_the_difficulty_is_real(scenario_heavy):
    score = scenario_heavy["recall"]["neuron"]
    for easy in ("activation alone", "weights alone", "random"):
        assert score[easy] < score["direct, centred"] - 0.25, easy
    assert score["activation difference"] < score["direct, centred"]


def test_only_centring_removes_what_follows_the_scenario(scenario_heavy):
    score = scenario_heavy["average_precision"]["neuron"]
    assert score["direct"] < score["direct, centred"] - 0.02


def test_average_precision_against_a_naive_one():
    from emotion_circuits.benchmark.scores import average_precision

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        scores, truth = torch.randn(30, generator=generator), torch.rand(30, generator=generator) < 0.3
        truth[0] = True
        order = sorted(range(30), key=lambda i: (-float(scores[i]), i))
        at = [sum(bool(truth[j]) for j in order[: r + 1]) / (r + 1) for r, i in enumerate(order) if truth[i]]
        assert average_precision(scores, truth) == pytest.approx(sum(at) / len(at))
    assert average_precision(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([True, True, False])) == 1.0
    assert average_precision(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([False, False, True])) == pytest.approx(1 / 3)
    assert average_precision(torch.zeros(2), torch.zeros(2, dtype=torch.bool)) != 0.0  # nothing true: NaN


def test_scores_of_sets_and_edges(plain):
    from emotion_circuits.benchmark.scores import edge_recall, of_set

    truth = plain.truth_of["anger"]
    whole = of_set(truth, truth)
    assert whole["node"]["recall"] == whole["neuron"]["precision"] == whole["head"]["recall"] == 1.0
    more = of_set(truth | plain.nodes("dormant"), truth)["node"]
    assert more["recall"] == 1.0 and more["precision"] < 0.5
    names = [(str(a), str(b)) for a, b in plain.edges]
    assert edge_recall(plain.edges, names) == 1.0
    assert edge_recall(names[: len(names) // 2], plain.edges) == pytest.approx(0.5, abs=0.02)


def test_the_grids_share_nothing_and_never_change():
    from emotion_circuits.benchmark import grid
    from emotion_circuits.benchmark.grid import NOISE

    development, final = grid("development"), grid("final")
    assert (len(development), len(final)) == (24, 40)
    assert not {config.seed for config in development} & {config.seed for config in final}
    for configs in (development, final):
        assert all(sum(c.noise == level for c in configs) == len(configs) / len(NOISE) for level in NOISE)
    assert development == grid("development")


def test_an_unknown_method_is_refused():
    from emotion_circuits.benchmark import discovery

    with pytest.raises(ValueError, match="no method 'magic'"):
        discovery("development", ["magic"])


def test_a_method_that_works_beats_its_controls(plain):
    import emotion_circuits as ec
    from emotion_circuits.benchmark import Subject, with_controls

    def loss(subject) -> dict[str, float]:
        """How far ablating the nodes lowers the emotion's projection."""
        target = subject.directions.target("anger")
        asked = [prompt for prompt in subject.prompts if prompt.emotion == "anger"]
        patch = ec.Patch(subject.nodes, ec.ZeroAblation())
        before, after = (ec.measure(subject.model, asked, target, p).mean for p in (None, patch))
        return {"loss": before - after}

    table = with_controls(loss, Subject.of(plain), n_draws=2)
    value = table.groupby("condition")["value"]
    assert set(value.groups) == {"actual", "shuffled labels", "random nodes", "random directions", "no circuit"}
    assert value.mean()["actual"] > 3 * value.max().drop("actual").max()


def test_without_the_circuit_nothing_obeys():
    from emotion_circuits.benchmark import obedience

    empty = of(circuit=False)
    assert obedience(empty) == 0.0
    assert not len(empty.truth) and not empty.edges
