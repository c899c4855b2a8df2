"""Figures take what the library's functions give: each is drawn from a real result of a tiny model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from helpers import instructed

import emotion_circuits as ec
from emotion_circuits import plots
from emotion_circuits.benchmark import summary
from emotion_circuits.benchmark.discovery import MEASURES

EMOTIONS = ("anger", "sadness", "fear")


@pytest.fixture(scope="module")
def held(request):
    model = request.getfixturevalue("qwen")
    prompts = instructed(4, EMOTIONS)
    directions = ec.fit_directions(model, prompts, EMOTIONS)
    scores = ec.attribute_each(model, prompts, directions.targets(), ec.DirectAttribution())
    return model, prompts, directions, scores


def test_curves_are_drawn_from_their_results(held) -> None:
    model, prompts, directions, scores = held
    target, ablation = directions.target("anger"), ec.MeanAblation(scores["anger"].means)
    curves = ec.validation_curves(
        model, prompts, target, scores["anger"], intervention=ablation, ks=(0, 2), n_random=2, layers=[0, 1]
    )
    drawn = plots.validation_curves(curves)
    last = curves[(curves["layer"] == 1) & (curves["kind"] == "head") & (curves["selection"] == "top")]
    shown = next(t for t in drawn.data if t.name == "best" and t.visible and t.xaxis in (None, "x"))
    assert list(shown.y) == pytest.approx(last["effect_end"].tolist())

    circuit = ec.build_circuit(scores["anger"], neurons=0.8, heads=0.2, size=10)
    sweep = ec.dose_sweep(
        model, prompts, target, circuit.nodes, lambda s: ec.Enhancement(scores["anger"].contrast, s), strengths=(0, 1)
    )
    assert list(plots.dose_sweep(sweep).data[-1].y) == pytest.approx(sweep["change"].tolist())
    growing = ec.circuit_curves(model, scores["anger"], prompts, target, ablation, shares=(0.02, 0.2))
    assert isinstance(plots.circuit_curves(growing), go.Figure)


def test_circuits_are_drawn_from_their_results(held) -> None:
    model, prompts, directions, scores = held
    targets, ablation = directions.targets(), ec.MeanAblation(scores["anger"].means)
    circuits = {e: ec.build_circuit(scores[e], neurons=0.8, heads=0.2, size=10) for e in EMOTIONS}
    table = ec.specificity(model, circuits, prompts, targets, ablation)
    assert plots.specificity(table).data[0].z[0][0] == pytest.approx(table["removed"].iloc[0])
    found = ec.stability(model, prompts, targets["fear"], ec.DirectAttribution(), lambda v: v.top(10), n_draws=5)
    drawn = plots.stability({"fear": found}).data[0]
    assert len(drawn.x) == len(found.circuit)
    assert list(drawn.y) == sorted(drawn.y, reverse=True)
    edges = ec.circuit_edges(model, circuits["anger"], prompts, targets["anger"], ablation)
    drawn = plots.circuit_graph(circuits["anger"], edges)
    lines = [t for t in drawn.data if t.mode == "lines" and t.visible]
    # Every edge is drawn once, in the view that is open.
    assert sum(sum(x is None for x in line.x) for line in lines) == len(edges)
    assert any(trace.name == "target" for trace in drawn.data)


def test_the_plane_of_samples(held) -> None:
    model, prompts, directions, _ = held
    frame = ec.project_samples(model, prompts, directions)
    assert len(plots.sample_projection(frame).frames) == model.dims.n_layers
    # By hand: the last layer's residuals without their group's mean, on the plane of its directions.
    residual = model.record(prompts, "resid_post", layers=[-1])[0].double()
    groups = [prompt.group for prompt in prompts]
    for group in set(groups):
        members = [i for i, other in enumerate(groups) if other == group]
        residual[members] -= residual[members].mean(dim=0)
    axes = torch.linalg.svd(directions.vectors[1, -1].double(), full_matrices=False).Vh[:2]
    by_hand = (residual @ axes.T).norm(dim=1).numpy()
    last = frame[frame["layer"] == model.dims.n_layers - 1]
    order = [f"{p.item} {p.valence} {p.emotion}" for p in prompts]
    found = {f"{r.item} {r.valence} {r.emotion}": np.hypot(r.x, r.y) for r in last.itertuples()}
    # The plane may be turned within itself, so lengths are compared.
    np.testing.assert_allclose([found[name] for name in order], by_hand, rtol=1e-3, atol=1e-5)


def test_control_is_drawn_from_its_results(held) -> None:
    model, _, _, scores = held
    emotions, config = ("anger", "fear"), ec.GenerationConfig(max_new_tokens=4)
    data, judge = ec.load_sev("demo")[1].limit(1), ec.LexiconJudge()
    nodes = {e: ec.build_circuit(scores[e], neurons=0.8, heads=0.2, size=10, contrast=scores[e].contrast)
             for e in emotions}  # fmt: skip

    def family(emotion: str, strength: float) -> ec.CircuitModulation:
        return ec.CircuitModulation(nodes, strength)

    found = ec.calibrate(model, {"top": family}, data, judge, emotions, config=config)
    drawn = plots.dose_response(found, "fear").data
    curve = next(t for t in drawn if t.name == "chosen candidate")
    assert list(curve.x) == [p.strength for p in found.curve("fear")]
    assert isinstance(plots.dose_response(found), go.Figure)

    methods = [ec.Prompting(), family("", 0.5)]
    compared = ec.compare(model, methods, data, judge, emotions, config)
    bars = plots.accuracy_bars(compared).data
    assert [bar.name for bar in bars] == ["prompting", "circuit"]
    trade = ec.trade_off(model, compared, methods[1:], data, judge, emotions, config, factors=(2,))
    points = {t.name: list(t.x) for t in plots.pareto(trade).data}
    assert points["circuit"] == pytest.approx([p.perplexity_ratio for p in trade.points if p.method == "circuit"])


def test_traces_and_discovery_are_drawn_from_their_results(held) -> None:
    model, prompts, directions, _ = held
    traced = ec.trace(model, prompts[0], directions)
    last = traced.projections[-1, :, directions.emotions.index("fear")].tolist()
    line = next(t for t in plots.emotion_trace(traced).data if t.name == "fear")
    assert list(line.y) == pytest.approx(last)
    assert list(plots.trace_heatmap(traced, "fear").data[0].z[-1]) == pytest.approx(last)

    rows = [
        {"half": "low noise", "kind": "node", "method": name, "model": i} | dict.fromkeys(MEASURES, share)
        for name, share in (("direct", 0.25), ("patching", 0.75)) for i in range(3)
    ]  # fmt: skip
    best = plots.discovery(summary(pd.DataFrame(rows))).data[0]
    assert list(best.x) == [0.75, 0.25]


def test_planes_do_not_jump_from_layer_to_layer(held) -> None:
    _, _, directions, _ = held
    from emotion_circuits.directions.plane import _planes

    # The same vectors in every layer but with the axes' signs and order left to chance: nothing may move.
    same = directions.vectors[1, -1:].float().expand(4, -1, -1).clone()
    same[2] = same[2] + 1e-4 * torch.randn(same[2].shape, generator=torch.Generator().manual_seed(0))
    axes = _planes(same)
    torch.testing.assert_close(same[0] @ axes[0].T, same[3] @ axes[3].T, atol=1e-3, rtol=0)
