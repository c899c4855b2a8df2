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
    obeyed = [label == reply.emotion for label, reply in zip(said(plain, replies), replies, strict=True)]
    assert sum(obeyed) / len(obeyed) > 0.95  # noise may keep a head from one prompt's word
    assert replies.texts[0] == "furious outraged livid"
    assert set(ec.generate(plain.model, plain.data.prompts()).texts) == {"this is noted"}


def test_ablating_the_truth_removes_the_emotion_and_ablating_distractors_does_not(plain):
    import emotion_circuits as ec

    asked = plain.prompts()
    wanted = said(plain, ec.generate(plain.model, asked))

    def under(nodes):
        return said(plain, ec.generate(plain.model, asked, ec.Patch(nodes, ec.ZeroAblation(), "last")))

    assert set(under(plain.truth)) == {"neutral"}
    assert set(under(plain.truth.only("neuron"))) == {"neutral"}
    assert set(under(plain.truth.only("head"))) == {"neutral"}
    for role in ("elsewhere", "dormant", "scenario"):
        assert under(plain.nodes(role)) == wanted, role
    drawn = [under(plain.truth.random_like(seed, within=~plain.truth)) for seed in range(4)]
    kept = [label == emotion for labels in drawn for label, emotion in zip(labels, wanted, strict=True)]
    assert sum(kept) / len(kept) > 0.7  # a draw may take one half of a scenario pair, which is not nothing


def test_ablating_one_emotion_leaves_the_others(plain):
    import emotion_circuits as ec

    asked = plain.prompts()
    patch = ec.Patch(plain.truth_of["fear"].only("neuron"), ec.ZeroAblation(), "last")
    before, after = (said(plain, ec.generate(plain.model, asked, p)) for p in (None, patch))
    assert after == ["neutral" if p.emotion == "fear" else was for p, was in zip(asked, before, strict=True)]


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


def test_every_true_neuron_fires_under_its_emotion_and_less_under_others():
    """The truth is true by construction, also where noise and scenarios do their worst."""
    import emotion_circuits as ec
    from emotion_circuits.planted.neurons import ON

    for settings in ({"noise": 0.2, "scenario_strength": 3.0, "superposition": 0.3, "seed": 38}, {"seed": 5}):
        model = of(**settings)
        asked = model.prompts()
        activations = model.model.record(asked, "neuron")
        mean = {e: activations[:, [p.emotion == e for p in asked]].mean(dim=1) for e in ec.EKMAN}
        for node, (role, emotion) in model.roles.items():
            if role in ("direct", "relay", "relayed"):
                own, *others = (
                    float(mean[e][node.layer, node.index]) for e in (emotion, *(e for e in ec.EKMAN if e != emotion))
                )
                assert own > 0.4 * ON and own > 1.5 * max(others), (node, role, settings)


def test_a_tuned_gate_tells_its_emotion_from_the_others():
    from emotion_circuits.planted.calibrate import TURNED_ON, tuned

    generator = torch.Generator().manual_seed(0)
    constant = torch.eye(8)[0]
    own, other = torch.randn(5, 8, generator=generator), torch.randn(7, 8, generator=generator)
    own[:, 0], other[:, 0] = 4.0, 4.2
    own[:, 1] += 8.0
    gate = tuned(torch.eye(8)[1] + 0.1 * torch.randn(8, generator=generator), constant, own, other)
    assert float((own @ gate).mean()) == pytest.approx(TURNED_ON, rel=1e-4)
    assert float((other @ gate).mean()) == pytest.approx(-TURNED_ON, rel=1e-4)


# The default method


@pytest.fixture(scope="module")
def hard():
    """A model with scenario-dependent activity and side effects."""
    from emotion_circuits.benchmark.methods import Case

    return Case(of(n_scenarios=4, scenario_strength=3.0, side_effects=2.0, noise=0.05, redundancy=2, seed=77))


def recall_of(case, scores) -> float:
    from emotion_circuits.benchmark.scores import of_ranking

    found = [of_ranking(s.values, case.planted.truth_of[e], s.kinds)["node"]["recall"] for e, s in scores.items()]
    return sum(found) / len(found)


def test_the_default_finds_what_older_methods_do_not(hard):
    from emotion_circuits.benchmark.methods import RANKINGS

    assert recall_of(hard, hard.default) >= 0.95
    assert recall_of(hard, hard.direct) < 0.7
    assert recall_of(hard, RANKINGS["direct, centred"](hard)) < 0.9


def test_each_choice_of_the_default_is_worth_something(hard):
    """Words instead of directions, the scenario's own mean instead of the mean over all."""
    import emotion_circuits as ec
    from emotion_circuits.attribution import attribute_each

    default = recall_of(hard, hard.default)
    assert recall_of(hard, hard.attribute(ec.ContrastiveGradients())) < default - 0.05
    one = {"anger": hard.said["anger"]}
    alone, within = (
        attribute_each(hard.planted.model, hard.prompts, one, ec.ActivationPatching(ablation, hard.every))["anger"]
        for ablation in (hard.ablation, hard.within)
    )
    truth = hard.planted.truth_of["anger"]
    assert len(alone.top(len(truth)) & truth) < len(within.top(len(truth)) & truth)


def test_the_default_is_the_librarys_default(plain, case):
    import emotion_circuits as ec

    asked = plain.prompts()
    named = ec.attribute(plain.model, asked, "fear")
    spelled = ec.attribute(plain.model, asked, ec.said_targets(plain.model, asked)["fear"], ec.ContrastiveGradients())
    torch.testing.assert_close(named.values.neurons, spelled.values.neurons)
    torch.testing.assert_close(named.values.neurons, case.default["fear"].values.neurons, atol=1e-4, rtol=1e-4)
    assert named.method == "contrastive gradients" and named.means is not None and named.contrast is not None


def test_edges_between_found_nodes(plain, case):
    from emotion_circuits.benchmark.methods import found_edges
    from emotion_circuits.benchmark.scores import edge_recall

    true = plain.edges_of("anger")
    assert edge_recall(found_edges(case, "anger", plain.truth_of["anger"]), true) >= 0.9
    assert edge_recall(found_edges(case, "anger", plain.nodes("dormant", emotion="anger")), true) == 0.0


def test_the_command_writes_a_table_and_a_plot(tmp_path):
    import pandas as pd
    from typer.testing import CliRunner

    from emotion_circuits.cli.app import app

    methods = "direct;head importance;direct + head importance -> global top"
    result = CliRunner().invoke(
        app, ["benchmark", "discovery", "--first", "1", "--methods", methods, "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "discovery.csv")
    assert set(table["kind"]) == {"node", "neuron", "head", "edge"}
    rows = (tmp_path / "discovery.md").read_text().splitlines()
    assert "recall, low noise" in rows[0] and "head importance (heads only)" in rows[-1]
    assert "Plotly" in (tmp_path / "discovery.html").read_text()
    assert CliRunner().invoke(app, ["benchmark", "discovery", "--grid", "nonsense"]).exit_code != 0


def test_the_ladder_has_one_difficulty_at_a_time():
    from emotion_circuits.benchmark.grid import RUNGS, grid, rung_of

    held = grid("ladder")
    assert [rung_of(config) for config in held] == [name for name in RUNGS for _ in range(3)]
    assert not {config.seed for config in held} & {config.seed for config in grid("confirmation")}
    assert rung_of(grid("development")[0]) == ""


def test_the_default_against_a_naive_one(plain, case):
    """Every sample's own group mean, recorded and exchanged, and the deviation taken off by hand."""
    import emotion_circuits as ec

    asked = plain.prompts()
    recorded = ec.Samples(plain.model.record(asked, "neuron"), plain.model.record(asked, "head"))
    within = ec.CounterfactualPatch(recorded.mean_within([prompt.group for prompt in asked]))
    effects = ec.attribute(plain.model, asked, case.said["fear"], ec.IntegratedGradients(within, steps=4))
    for kind in ("neuron", "head"):
        expected = effects.values.values(kind) - 0.5 * effects.std.values(kind)
        torch.testing.assert_close(case.default["fear"].values.values(kind), expected, atol=1e-4, rtol=1e-3)
    means = case.default["fear"].means
    torch.testing.assert_close(means.neurons, recorded.neurons.mean(dim=1), atol=1e-5, rtol=1e-4)


def test_what_is_said_names_the_emotions_word(plain, case):
    tokenizer = plain.model.tokenizer
    for emotion, target in case.said.items():
        assert tokenizer.decode([target.tokens[0]]) == plain.lexicon[emotion][0]


def test_the_default_refuses_what_it_cannot_compare(plain):
    import emotion_circuits as ec
    from emotion_circuits.attribution import emotion_baseline
    from emotion_circuits.errors import DataError, EmotionError, PatchError

    asked = plain.prompts()
    with pytest.raises(DataError, match="ask for fear alone, so there is nothing to compare"):
        ec.attribute(plain.model, [prompt for prompt in asked if prompt.emotion == "fear"], "fear")
    with pytest.raises(EmotionError, match="joy"):
        ec.attribute(plain.model, asked[:6], "joy")
    few = emotion_baseline(plain.model, asked[:3]).ablation
    with pytest.raises(PatchError, match="sample 3 belongs to no group"):
        ec.attribute(plain.model, asked[:6], "fear", ec.ActivationPatching(few))
