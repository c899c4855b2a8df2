"""Closed forms against what they stand for: sums that add up, heads really taken out, pushes really given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from helpers import EMOTIONS, ids_of, instructed, naive_record, naive_run, prompts

import emotion_circuits as ec
from emotion_circuits.attribution import Concentration
from emotion_circuits.errors import ArtefactError, DataError, EmotionError, ModelError, NodeError, PatchError
from emotion_circuits.model.writes import precisely
from emotion_circuits.nodes import NodeValues


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 3e-5) -> None:
    torch.testing.assert_close(a.double(), b.double(), atol=tolerance, rtol=tolerance)


def same(a: ec.Attribution, b: ec.Attribution, tolerance: float = 3e-5) -> None:
    for name in ("values", "std", "positive", "negative", "centred"):
        mine, other = getattr(a, name), getattr(b, name)
        assert (mine is None) == (other is None), name
        if mine is not None:
            close(mine.neurons, other.neurons, 1e-3 if name == "std" else tolerance)
            close(mine.heads, other.heads, 1e-3 if name == "std" else tolerance)


@pytest.fixture(scope="module")
def asked() -> list[ec.Prompt]:
    return instructed(2)


@pytest.fixture(scope="module")
def directions(qwen, asked) -> ec.EmotionDirections:
    return ec.fit_directions(qwen, asked)


def random_target(model, emotion: str | None = None, seed: int = 0) -> ec.DirectionTarget:
    draw = torch.Generator().manual_seed(seed)
    mid, post = (torch.randn(3, 32, generator=draw) for _ in range(2))
    return ec.DirectionTarget(emotion, mid, post, torch.randn(32, generator=draw))


# Direct attribution


def assert_everything_adds_up(model) -> None:
    """Embedding, biases, all heads and all neurons, projected on one vector, make the measured projection."""
    vector, layers = torch.randn(32, generator=torch.Generator().manual_seed(7)), model.hf.model.layers
    biases = sum(
        float(module.bias @ vector)
        for layer in layers for module in (layer.self_attn.o_proj, layer.mlp.down_proj) if module.bias is not None
    )  # fmt: skip
    for prompt in prompts(3):
        scores = ec.attribute(model, [prompt], ec.Projection(vector), ec.DirectAttribution())
        embedding = float(model.record([prompt], "resid_pre", [0])[0, 0] @ vector)
        total = embedding + biases + float(scores.values.heads.sum()) + float(scores.values.neurons.sum())
        assert total == pytest.approx(ec.measure(model, [prompt], ec.Projection(vector)).mean, abs=2e-4)


def test_everything_adds_up(any_model) -> None:
    assert_everything_adds_up(any_model)


def test_everything_adds_up_with_biases() -> None:
    model = tiny.model("llama", attention_bias=True, mlp_bias=True)
    assert model.hf.model.layers[0].self_attn.o_proj.bias.abs().min() > 0
    assert_everything_adds_up(model)


def test_direct_attribution_is_the_naive_one(plain_model, asked) -> None:
    target = random_target(plain_model, "sadness")
    scores = ec.attribute(plain_model, asked, target, ec.DirectAttribution())
    a, z = naive_record(plain_model, asked, "neuron"), naive_record(plain_model, asked, "head")
    mine = [p.emotion == "sadness" for p in asked]
    c, h = torch.zeros(3, len(asked), 48), torch.zeros(3, len(asked), 4)
    for l, layer in enumerate(plain_model.hf.model.layers):
        for n in range(48):
            c[l, :, n] = a[l, :, n] * (layer.mlp.down_proj.weight[:, n] @ target.resid_post[l])
        for k in range(4):
            write = z[l, :, k] @ layer.self_attn.o_proj.weight[:, 8 * k : 8 * k + 8].T
            h[l, :, k] = write @ target.resid_mid[l]
        close(scores.beta[l], layer.mlp.down_proj.weight.T @ target.resid_post[l])
    c, h = c[:, mine].double(), h[:, mine].double()
    assert scores.n_samples == sum(mine) == 4
    for part, reduce in {
        "values": lambda x: x.mean(1), "std": lambda x: x.std(1, correction=0),
        "positive": lambda x: x.clamp(min=0).mean(1), "negative": lambda x: x.clamp(max=0).mean(1),
    }.items():  # fmt: skip
        tolerance = 1e-3 if part == "std" else 3e-5
        close(getattr(scores, part).neurons, reduce(c), tolerance)
        close(getattr(scores, part).heads, reduce(h), tolerance)
    close(scores.means.neurons, a.mean(1))
    close(scores.means.heads, z.mean(1))


def group_centred(asked: list[ec.Prompt], values: torch.Tensor, emotion: str) -> torch.Tensor:
    """Mean over complete groups of the emotion's value minus the group's mean."""
    groups: dict = {}
    for i, prompt in enumerate(asked):
        groups.setdefault(prompt.group, {})[prompt.emotion] = values[:, i]
    complete = [g for g in groups.values() if set(g) >= set(EMOTIONS)]
    return torch.stack([g[emotion] - torch.stack([g[e] for e in EMOTIONS]).mean(0) for g in complete]).mean(0)


def test_centred_scores_and_contrast(qwen, asked) -> None:
    with_gap = asked[:-2]  # the last group has lost two of its emotions
    target = random_target(qwen, "fear")
    scores = ec.attribute(qwen, with_gap, target, ec.DirectAttribution())
    a, z = (group_centred(with_gap, naive_record(qwen, with_gap, site), "fear") for site in ("neuron", "head"))
    close(scores.contrast.prompt.neurons, a)
    close(scores.contrast.prompt.heads, z)
    for l in range(3):
        close(scores.centred.neurons[l], a[l] * (qwen.writes("neuron", l) @ target.resid_post[l]))
        close(scores.centred.heads[l], torch.einsum("hd,hdm,m->h", z[l], qwen.writes("head", l), target.resid_mid[l]))
    ranked = ec.attribute(qwen, with_gap, target, ec.DirectAttribution(centred=True))
    assert torch.equal(ranked.values.neurons, scores.centred.neurons)
    assert torch.equal(ranked.values.heads, scores.centred.heads)


def test_one_emotion_has_no_contrast(qwen, asked) -> None:
    scores = ec.attribute(
        qwen, [p for p in asked if p.emotion == "anger"], random_target(qwen, "anger"), ec.DirectAttribution()
    )
    assert scores.contrast is None
    assert scores.centred is None


def test_samples_are_those_that_ask_for_the_emotion(qwen, asked) -> None:
    mine = [p for p in asked if p.emotion == "anger"]
    all_of_them = ec.attribute(qwen, asked, random_target(qwen, None), ec.DirectAttribution())
    assert all_of_them.n_samples == len(asked)
    same(
        replace(ec.attribute(qwen, asked, random_target(qwen, "anger"), ec.DirectAttribution()), centred=None),
        ec.attribute(qwen, mine, random_target(qwen, None), ec.DirectAttribution()),
    )
    joy, method = random_target(qwen, "joy"), ec.DirectAttribution()
    with pytest.raises(EmotionError, match="none of the 12 prompts asks for 'joy'; they ask for anger, sadness, fear"):
        ec.attribute(qwen, asked, joy, method)
    plain = [replace(p, emotion=None) for p in mine]
    assert ec.attribute(qwen, plain, joy, method).n_samples == len(plain)
    assert ec.attribute(qwen, [*asked, *plain], joy, method).n_samples == len(plain)


def test_targets_are_read_in_float32_where_the_model_is_not() -> None:
    """The final norm in bfloat16 would round each coordinate to a 256th part."""
    model = wide_model(torch.bfloat16)
    resid = torch.randn(4, model.dims.d_model, generator=torch.Generator().manual_seed(0)).bfloat16()
    wide, reference = resid.double(), torch.nn.functional.normalize(torch.arange(-1024.0, 1024.0), dim=0)
    target = ec.DirectionTarget("anger", reference[None], reference[None], reference)
    normed = wide / (wide.square().mean(-1, keepdim=True) + model.final_norm.variance_epsilon).sqrt()
    expected = (normed * model.final_norm.weight.double()) @ reference.double()
    for found in (target(model, resid), ec.SaidTarget("anger", reference)(model, resid)):
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)


def test_an_offloaded_norm_is_called_as_it_is() -> None:
    """Its weights are on the meta device until the module itself is called."""
    norm, x = torch.nn.LayerNorm(4, device="meta"), torch.arange(8.0).view(2, 4)

    def load(module, args) -> None:
        module.weight, module.bias = (torch.nn.Parameter(f(4)) for f in (torch.ones, torch.zeros))

    norm.register_forward_pre_hook(load)
    assert torch.equal(precisely(norm, x), torch.nn.functional.layer_norm(x, (4,)))


def test_centred_scores_need_complete_groups(qwen, asked) -> None:
    centred, alone = ec.DirectAttribution(centred=True), [p for p in asked if p.emotion == "anger"]
    with pytest.raises(DataError, match=r"centred=True\) for anger needs .* these prompts ask for anger\. Give"):
        ec.attribute(qwen, alone, random_target(qwen, "anger"), centred)
    with pytest.raises(DataError, match="for a target without an emotion needs scenarios"):
        ec.attribute(qwen, asked, random_target(qwen, None), centred)
    apart = [replace(p, item=f"{p.emotion} {p.item}") for p in asked]
    with pytest.raises(DataError, match="and no scenario has all of these"):
        ec.attribute(qwen, apart, random_target(qwen, "anger"), centred)


READOUTS = [("resid_post", 0), ("resid_mid", 1), ("resid_pre", 2), ("resid_post", -1)]


@pytest.mark.parametrize(("site", "layer"), READOUTS)
def test_nodes_above_the_readout_are_not_scored(either_model, asked, site, layer) -> None:
    """A node has a direct score if, and only if, a gradient says that it can reach the readout."""
    target = ec.Projection(torch.ones(32), site, layer)
    gradient = ec.attribute(either_model, asked[:2], target, ec.AttributionPatching(ec.ZeroAblation()))
    direct, heads = (
        ec.attribute(either_model, asked[:2], target, m) for m in (ec.DirectAttribution(), ec.HeadImportance())
    )
    for kind in ("neuron", "head"):
        reached = gradient.values.values(kind) != 0
        for scores in (direct, gradient, heads) if kind == "head" else (direct, gradient):
            assert torch.equal(scores.nodes.mask(kind), reached)
            assert torch.equal(scores.values.values(kind) != 0, reached)
            assert not scores.std.values(kind)[~reached].any()
    assert (direct.scored is None) == (layer == -1)
    assert not direct.beta[~direct.nodes.neurons].any()


@pytest.mark.parametrize("method", [ec.DirectAttribution(), ec.HeadImportance()])
def test_closed_forms_keep_no_graph(asked, method) -> None:
    model = tiny.model("qwen2")
    model.hf.requires_grad_(True)
    scores = ec.attribute(model, asked, random_target(model, "anger"), method)
    held = [scores.values, scores.std, scores.positive, scores.negative]
    assert not any(values.values(kind).requires_grad for values in held for kind in ("neuron", "head"))
    if scores.beta is not None:
        assert not scores.beta.requires_grad


@pytest.mark.parametrize(
    "method",
    [
        ec.DirectAttribution(), ec.HeadImportance(), ec.FinalDirectAttribution(),
        ec.ActivationPatching(ec.ZeroAblation()), ec.IntegratedGradients(ec.ZeroAblation()),
    ],
)  # fmt: skip
def test_no_prompts_have_no_scores(qwen, method) -> None:
    with pytest.raises(DataError, match="needs at least one prompt, and none was given"):
        ec.attribute(qwen, [], random_target(qwen), method)


# Head importance


def test_head_importance_is_really_zeroing_each_head(any_model, asked) -> None:
    target = random_target(any_model, "anger")
    scores = ec.attribute(any_model, asked, target, ec.HeadImportance())
    mine = [p for p in asked if p.emotion == "anger"]
    naive = torch.zeros(len(mine), 3, 4)
    for i, prompt in enumerate(mine[:2]):
        ids = ids_of(any_model, prompt)
        clean = naive_run(any_model.hf, ids)
        for l, layer in enumerate(any_model.hf.model.layers):
            norm = getattr(layer, "pre_feedforward_layernorm", layer.post_attention_layernorm)
            before = norm(clean["resid_mid", l][-1]) @ target.resid_mid[l]
            for h in range(4):
                run = naive_run(
                    any_model.hf, ids, {("head", l): lambda z, h=h: z.index_fill(1, torch.tensor([h]), 0.0)}
                )
                naive[i, l, h] = before - norm(run["resid_mid", l][-1]) @ target.resid_mid[l]
    two = ec.attribute(any_model, mine[:2], target, ec.HeadImportance())
    close(two.values.heads, naive[:2].mean(0), 1e-4)
    close(two.std.heads, naive[:2].std(0, correction=0), 1e-3)
    close(two.positive.heads, naive[:2].clamp(min=0).mean(0), 1e-4)
    close(two.negative.heads, naive[:2].clamp(max=0).mean(0), 1e-4)
    assert scores.n_samples == len(mine)
    assert not scores.values.neurons.any()
    assert scores.top(99) == ec.NodeSet.all(any_model).only("head")


def test_head_importance_by_patching(qwen, asked) -> None:
    # The same claim once more, through `patched` and `measure`.
    layer, head = 1, 2
    target = random_target(qwen)
    norm, v = qwen.hf.model.layers[layer].post_attention_layernorm, target.resid_mid[layer]
    read = ec.ResidualFunction(lambda resid: norm(resid) @ v, "resid_mid", layer)
    patch = ec.Patch(ec.NodeSet.of(qwen, f"L{layer}H{head}"), ec.ZeroAblation(), "last_prompt")
    drop = ec.measure(qwen, asked, read) - ec.measure(qwen, asked, read, patch)
    scores = ec.attribute(qwen, asked, target, ec.HeadImportance())
    assert drop.mean == pytest.approx(float(scores.values.heads[layer, head]), abs=1e-4)


# Both


@pytest.mark.parametrize("method", [ec.DirectAttribution(), ec.HeadImportance()], ids=lambda m: m.name)
def test_all_at_once_is_one_by_one(either_model, asked, method) -> None:
    targets = {
        "a": random_target(either_model, "anger", 1),
        "b": random_target(either_model, None, 2),
        "c": ec.Projection(torch.ones(32)),
    }
    together = ec.attribute_each(either_model, asked, targets, method)
    assert list(together) == list(targets)
    for name, target in targets.items():
        for batch_size in (1, 5):
            same(together[name], ec.attribute(either_model, asked, target, method, batch_size=batch_size))


def test_logit_differences_have_a_direction_and_functions_have_none(qwen, asked) -> None:
    target = ec.LogitDifference((5, 6), (7,))
    weight = qwen.hf.lm_head.weight
    expected = qwen.hf.model.norm.weight * (weight[[5, 6]].mean(0) - weight[7])
    close(target.local(qwen, "resid_post", 1), expected)
    logits = qwen.logits(asked[:3])
    close(ec.measure(qwen, asked[:3], target).values, logits[:, [5, 6]].mean(1) - logits[:, 7])
    scores = ec.attribute(qwen, asked, target, ec.DirectAttribution())
    close(scores.beta[2], qwen.hf.model.layers[2].mlp.down_proj.weight.T @ expected)
    with pytest.raises(
        ModelError, match="a ResidualFunction has no direction, so closed-form attribution cannot use it"
    ):
        ec.attribute(qwen, asked, ec.ResidualFunction(lambda r: r.sum(-1)), ec.DirectAttribution())


@pytest.mark.parametrize("method", [ec.DirectAttribution(), ec.DirectAttribution(centred=True), ec.HeadImportance()])
def test_save_and_load(qwen, asked, directions, method, tmp_path) -> None:
    scores = ec.attribute(qwen, asked, directions.target("anger"), method)
    scores.save(tmp_path / "s")
    loaded = ec.Attribution.load(tmp_path / "s")
    same(loaded, scores, 0)
    for name in ("method", "emotion", "n_samples", "dims", "kinds"):
        assert getattr(loaded, name) == getattr(scores, name)
    if scores.contrast is not None:
        assert torch.equal(loaded.contrast.prompt.heads, scores.contrast.prompt.heads)
        assert torch.equal(loaded.means.neurons, scores.means.neurons)
    assert loaded.top(5) == scores.top(5)
    with pytest.raises(ArtefactError, match=r"expected 'emotion_circuits.circuit/"):
        ec.Circuit.load(tmp_path / "s")


def test_frame_and_joined_scores(qwen, asked, directions) -> None:
    direct, heads = (
        ec.attribute(qwen, asked, directions.target("anger"), m) for m in (ec.DirectAttribution(), ec.HeadImportance())
    )
    joined = direct.with_heads(heads)
    assert torch.equal(joined.values.neurons, direct.values.neurons)
    assert torch.equal(joined.values.heads, heads.values.heads)
    assert joined.method == "direct attribution + head importance"
    assert joined.kinds == ("neuron", "head")
    assert set(heads.to_frame()["kind"]) == {"head"}
    row = joined.to_frame().iloc[3]
    assert row["std"] == pytest.approx(float(joined.std.values(row["kind"])[row["layer"], row["index"]]))


def test_what_does_not_join(qwen, asked, directions) -> None:
    direct = ec.attribute(qwen, asked, directions.target("anger"), ec.DirectAttribution())
    heads = ec.attribute(qwen, asked, directions.target("fear"), ec.HeadImportance())
    with pytest.raises(EmotionError, match="scores for anger were joined with head scores for fear"):
        direct.with_heads(heads)
    with pytest.raises(NodeError, match="head importance scored no heads"):
        direct.with_heads(replace(heads, emotion="anger", kinds=("neuron",)))
    with pytest.raises(NodeError, match="scores of a model with"):
        direct.with_heads(replace(heads, emotion="anger", dims=replace(qwen.dims, n_layers=4)))


# Concentration


def test_concentration_is_of_the_scored_nodes(qwen) -> None:
    nodes = ec.NodeSet.of(qwen, "L0N1", "L1N2", "L2N3", "L2N4")
    scores = ec.Attribution(
        NodeValues(nodes.neurons.float(), torch.zeros(3, 4)), "made up", None, 1, qwen.dims, ("neuron",), scored=nodes
    )
    assert scores.concentration().gini == pytest.approx(0)  # all four are alike
    assert scores.concentration().n_for == {50: 2, 80: 4, 95: 4}
    with pytest.raises(NodeError, match="made up scored no heads; ask for the concentration of neurons"):
        scores.concentration("head")


def test_concentration_by_hand() -> None:
    # Positive total 10; in order 6, 2, 1, 1: shares 0.6, 0.8, 0.9, 1.
    held = Concentration.of(torch.tensor([[1.0, -5, 0], [6, 2, 1]]))
    assert held.curve.tolist() == pytest.approx([0.6, 0.8, 0.9, 1, 1, 1])
    assert held.n_for == {50: 1, 80: 2, 95: 4}
    # Ascending 0 0 1 1 2 6 with weights -5 -3 -1 1 3 5: (-1 + 1 + 6 + 30) / (6 * 10).
    assert held.gini == pytest.approx(36 / 60)
    assert held.top_1_percent == pytest.approx(0.6)


def test_concentration_at_its_ends() -> None:
    even = Concentration.of(torch.ones(200))
    assert even.gini == pytest.approx(0)
    assert even.top_1_percent == pytest.approx(0.01)
    assert even.n_for == {50: 100, 80: 160, 95: 190}
    one = Concentration.of(torch.eye(200)[0])
    assert one.gini == pytest.approx(199 / 200)
    assert one.n_for == {50: 1, 80: 1, 95: 1}
    nothing = Concentration.of(-torch.ones(4))
    assert max(nothing.n_for.values()) <= 4


# Influence


def test_influence_is_brute_force(any_model) -> None:
    asked = prompts(2)
    directions = ec.fit_directions(any_model, instructed(1), EMOTIONS[:2])
    strengths = (0.1, 0.7)
    influence = ec.sublayer_influence(any_model, asked, directions, strengths=strengths)
    reference = {e: directions.reference(e) for e in directions.emotions}

    def final(prompt: ec.Prompt, edits: dict) -> torch.Tensor:
        return any_model.final_norm(naive_run(any_model.hf, ids_of(any_model, prompt), edits)["resid_post", 2][-1])

    clean = [final(prompt, {}) for prompt in asked]
    values = torch.zeros(len(asked), 2, 2, 3, 2)  # sample strength site layer emotion
    for s, site in enumerate(("resid_mid", "resid_post")):
        for l in range(3):
            for e, emotion in enumerate(directions.emotions):
                v = directions.of(emotion, site)[l]
                v = v if v @ reference[emotion] >= 0 else -v
                for a, alpha in enumerate(strengths):
                    push = alpha * directions.sigma[s, l] * v
                    edit = {(site, l): lambda r, push=push: torch.cat([r[:-1], r[-1:] + push])}
                    for i, prompt in enumerate(asked):
                        change = (final(prompt, edit) - clean[i]) @ reference[emotion]
                        values[i, a, s, l, e] = change / (alpha * directions.sigma[s, l])
    close(influence.values, values.mean(dim=(0, 1)), 2e-4)
    close(influence.by_strength, values.mean(0), 2e-4)
    close(influence.std, values.mean(1).std(0, correction=0), 1e-3)
    close(influence.of("sadness"), values.mean(dim=(0, 1))[..., 1], 2e-4)


def test_influence_by_patching(qwen, directions) -> None:
    # The same through `patched`: one push, measured with the direction's own target.
    asked, target = prompts(3), directions.target("fear")
    v = directions.of("fear", "resid_mid")[1]
    v = v if v @ target.reference >= 0 else -v
    push = ec.Activations(resid_mid=torch.zeros(3, 32).index_copy(0, torch.tensor([1]), v[None]))
    size = float(0.5 * directions.sigma[0, 1])
    patch = ec.Patch(ec.Residual.of(qwen, 1, site="resid_mid"), ec.Enhancement(push, size), "last_prompt")
    change = ec.measure(qwen, asked, target, patch) - ec.measure(qwen, asked, target)
    influence = ec.sublayer_influence(qwen, asked, directions, strengths=(0.5,))
    assert change.mean / size == pytest.approx(float(influence.of("fear")[0, 1]), rel=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_influence_does_not_depend_on_batches(either_model, batch_size: int) -> None:
    directions = ec.fit_directions(either_model, instructed(1), EMOTIONS[:2])
    a, b = (ec.sublayer_influence(either_model, prompts(3), directions, batch_size=n) for n in (batch_size, None))
    close(a.values, b.values, 2e-4)
    close(a.std, b.std, 1e-3)


def test_influence_round_trip(qwen, directions, tmp_path) -> None:
    influence = ec.sublayer_influence(qwen, prompts(2), directions, strengths=(0.3,))
    influence.save(tmp_path / "i")
    loaded = ec.Influence.load(tmp_path / "i")
    assert torch.equal(loaded.values, influence.values)
    assert (loaded.emotions, loaded.strengths, loaded.n_samples) == (directions.emotions, (0.3,), 2)
    table = loaded.to_frame()
    row = table[(table.layer == 2) & (table.sublayer == "mlp") & (table.emotion == "fear")].iloc[0]
    assert row["influence"] == pytest.approx(float(loaded.values[1, 2, EMOTIONS.index("fear")]))
    with pytest.raises(EmotionError, match="no emotion 'joy' in this influence; choose among anger, sadness, fear"):
        loaded.of("joy")


def wide_model(dtype: torch.dtype) -> ec.HookedModel:
    """Wide enough for most of a small push to be lost in bfloat16, and quick; weights are the same in either dtype."""
    hf = tiny.hf_model("qwen3", hidden_size=2048, intermediate_size=16, num_hidden_layers=2, head_dim=8)
    with torch.no_grad():
        for name, weight in hf.named_parameters():  # layers that do not blow rounding up
            weight.copy_(torch.ones_like(weight) if weight.ndim == 1 else weight * (4.0 if "embed" in name else 0.05))
    return ec.HookedModel(hf.bfloat16().to(dtype), tiny.tokenizer(), name="wide")


def test_influence_in_bfloat16_is_that_in_float32() -> None:
    exact, rounded = (wide_model(dtype) for dtype in (torch.float32, torch.bfloat16))
    directions = ec.fit_directions(exact, instructed(2))
    expected, found = (
        ec.sublayer_influence(model, prompts(8), directions, strengths=(0.1,)).values for model in (exact, rounded)
    )
    close(found, expected, 0.025)
    close(found[:, 1], expected[:, 1], 0.005)


def test_pushes_that_have_no_influence(qwen, directions) -> None:
    with pytest.raises(DataError, match="needs at least one prompt"):
        ec.sublayer_influence(qwen, [], directions)
    for strengths in ((0.0,), (0.1, float("nan")), ()):
        with pytest.raises(PatchError, match="they must be numbers other than 0"):
            ec.sublayer_influence(qwen, prompts(1), directions, strengths=strengths)
    deeper = tiny.model("qwen2", num_hidden_layers=4)
    with pytest.raises(ArtefactError, match=r"of a model of 3 layers and d_model 32, and .* has 4 and 32; fit them"):
        ec.sublayer_influence(deeper, prompts(1), directions)
    with pytest.raises(ModelError, match=r"nothing of a push at layer 0 is left once it is added in torch\.float32"):
        ec.sublayer_influence(qwen, prompts(1), directions, strengths=(1e-12,))


# Measuring


def test_measure_is_in_the_order_of_the_prompts(qwen) -> None:
    vector, asked = torch.randn(32, generator=torch.Generator().manual_seed(2)), prompts(5)
    naive = naive_record(qwen, asked, "resid_mid")[1] @ vector
    for batch_size in (2, None):
        measured = ec.measure(qwen, asked, ec.Projection(vector, "resid_mid", 1), batch_size=batch_size)
        close(measured.values, naive)
    assert measured.mean == pytest.approx(float(naive.mean()), rel=1e-4)
    low, high = measured.interval
    assert low < measured.mean < high
    rows = ec.Patch(ec.NodeSet.all(qwen), ec.ZeroAblation(), "all", (1, 4))
    change = ec.measure(qwen, asked, ec.Projection(vector), rows, batch_size=2) - ec.measure(
        qwen, asked, ec.Projection(vector)
    )
    assert (change.values.abs() > 1e-3).tolist() == [False, True, False, False, True]


def test_clusters_are_scenarios(qwen, asked) -> None:
    measured = ec.measure(qwen, asked, ec.Projection(torch.ones(32)))
    assert len(set(measured.clusters)) == 2
    assert len(set(ec.measure(qwen, prompts(3), ec.Projection(torch.ones(32))).clusters)) == 3
