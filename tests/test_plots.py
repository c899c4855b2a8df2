"""Figures: every function draws, says what it shows, and stays readable for every reader.

The results are random but seeded: 5 layers, 320 neurons and 4 heads each, 6 emotions. No model is needed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import unicodedata
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from emotion_circuits import plots
from emotion_circuits.activations import Activations, Contrast
from emotion_circuits.affect import EmotionDynamics, affect_space, language_agreement
from emotion_circuits.affect.dynamics import dynamics_of
from emotion_circuits.attribution.influence import Influence
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.stability import Stability
from emotion_circuits.control.doses import Bounds, Calibration, Point
from emotion_circuits.data.labels import LABEL_SETS, Label, LabelSet
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.directions.result import EmotionDirections
from emotion_circuits.errors import ArtefactError, DataError, DeviceError, EmotionCircuitsError, EmotionError, NodeError
from emotion_circuits.evaluation.accuracy import Evaluation
from emotion_circuits.evaluation.comparison import Comparison
from emotion_circuits.evaluation.judges import Score
from emotion_circuits.evaluation.pareto import TradeOff, TradePoint
from emotion_circuits.evaluation.text_quality import Fluency
from emotion_circuits.explorer import messages
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.pipeline import Settings
from emotion_circuits.plots import vision
from emotion_circuits.plots.themes import DARK, LIGHT, MARKERS, style_of
from emotion_circuits.replies import Replies, Reply
from emotion_circuits.report import ReportData
from emotion_circuits.report.write import render_report
from emotion_circuits.types import EKMAN, VALENCES, ModelDims

DIMS = ModelDims(n_layers=5, n_heads=4, n_key_value_heads=2, d_model=64, d_head=16, d_mlp=320, d_vocab=1000)
PROVENANCE = {
    "model": "tiny_demo", "revision": "0123456789abcdef", "dtype": "float32", "prompts_sha256": "feedbeef" * 8,
    "n_prompts": 96, "versions": {"torch": "2.8.0", "transformers": "5.0.0"}, "settings": {"seed": 0, "batch_size": 8},
}  # fmt: skip
METHODS = {
    "none": 0.17, "prompting": 0.95, "steering": 0.86, "circuit": 0.92, "random circuit": 0.21,
    "prompting - circuit": 0.35,
}  # fmt: skip


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def directions(seed: int = 0) -> EmotionDirections:
    """Directions that settle from layer 2 on."""
    g, (l, e, d) = _generator(seed), (DIMS.n_layers, len(EKMAN), DIMS.d_model)
    noise = torch.linspace(1.2, 0.15, l)[None, :, None, None] * torch.randn(2, l, e, d, generator=g)
    vectors = torch.randn(e, d, generator=g) + noise
    vectors = torch.nn.functional.normalize(vectors - vectors.mean(dim=2, keepdim=True), dim=-1)
    share = torch.linspace(0.1, 0.5, l).expand(2, l).clone()
    return EmotionDirections(
        EKMAN, vectors, torch.rand(2, l, e, generator=g), 1 + torch.rand(2, l, generator=g), 32,
        0.8 + 0.19 * torch.rand(2, l, e, generator=g), 1 - share, share, PROVENANCE,
    )  # fmt: skip


def attribution(emotion: str = "anger", seed: int = 0) -> Attribution:
    """Scores with a long tail."""
    g = _generator(seed + EKMAN.index(emotion))
    neurons = torch.randn(DIMS.n_layers, DIMS.d_mlp, generator=g) ** 3 * 0.1 + 0.05
    heads = torch.randn(DIMS.n_layers, DIMS.n_heads, generator=g)
    values = NodeValues(neurons, heads)
    spread = NodeValues(neurons.abs() * 0.3, heads.abs() * 0.2)
    return Attribution(values, "direct", emotion, 90, DIMS, std=spread, provenance=PROVENANCE)


def influence(seed: int = 0) -> Influence:
    """Influence that rises over the layers."""
    g, shape = _generator(seed), (2, DIMS.n_layers, len(EKMAN))
    values = torch.linspace(0.1, 0.9, DIMS.n_layers)[None, :, None] + 0.12 * torch.randn(*shape, generator=g)
    by_strength = values + 0.02 * torch.randn(4, *shape, generator=g)
    return Influence(
        EKMAN, values, 0.1 * torch.rand(*shape, generator=g), by_strength, (0.1, 0.3, 0.5, 0.7), 96, PROVENANCE
    )


def circuit(emotion: str = "anger", n_neurons: int = 84, n_heads: int = 8) -> Circuit:
    """The best nodes of `attribution`, with a contrast."""
    scores = attribution(emotion)
    nodes = scores.top(n_neurons, "neuron") | scores.top(n_heads, "head")
    g = _generator(1)
    added = Activations(
        torch.randn(DIMS.n_layers, DIMS.d_mlp, generator=g),
        torch.randn(DIMS.n_layers, DIMS.n_heads, DIMS.d_head, generator=g),
    )
    builder = {"method": "quota", "size": n_neurons + n_heads, "neurons": 0.9, "heads": 0.1, "cap": 0.4}
    held = influence().of(emotion)
    provenance = {**PROVENANCE, "builder": builder}
    return Circuit(emotion, nodes, DIMS, scores.values, held, Contrast(emotion, "emotions", added), provenance)


def circuits() -> dict[str, Circuit]:
    """One circuit per emotion."""
    return {emotion: circuit(emotion) for emotion in EKMAN}


def comparison(n_items: int = 12, seed: int = 0, text: str | None = None) -> Comparison:
    """Six methods on the same items, in three valences."""
    rng = np.random.default_rng(seed)
    evaluations, fluencies = {}, {}
    for method, share in METHODS.items():
        replies, scores = [], []
        for emotion in EKMAN:
            for i in range(n_items):
                prompt = Prompt(
                    (("system", "Keep the reply to at most two sentences."),
                     ("user", f"I moved my desk to the window of office {i // 3}.\nThe sun came in all morning.")),
                    emotion if method.startswith("prompting") else None, f"work_{i // 3}", VALENCES[i % 3], "work",
                )  # fmt: skip
                hit, lost = rng.random() < share, rng.random() < 0.03
                label = None if lost else emotion if hit else "neutral"
                said = text or f"What a {emotion if hit else 'plain'} morning by the window, number {i} for {method}."
                replies.append(Reply(prompt, said, (1, 2, 3), emotion, method))
                scores.append(Score(label, "too few words" if lost else ""))
        evaluations[method] = Evaluation(Replies(tuple(replies)), tuple(scores), "lexicon")
        fluencies[method] = Fluency(4 + 30 * rng.random(), 0.95, 0.99, 0.02 * rng.random(), 15.0, 0.9, 1.0, 0)
    return Comparison(evaluations, fluencies)


def edges() -> pd.DataFrame:
    """Some edges between nodes of `circuit`, and one to a node that is not in it."""
    names, rng = circuit().nodes.names(), np.random.default_rng(0)
    pairs = rng.choice(names, size=(60, 2))
    table = pd.DataFrame({"source": pairs[:, 0], "target": pairs[:, 1], "effect": rng.normal(size=60)})
    return pd.concat([table, pd.DataFrame([{"source": "L0N0", "target": "L99N0", "effect": 1.0}])])


def validation(scope: str = "sublayer") -> pd.DataFrame:
    """Effects of ablation, in the columns of `emotion_circuits.validation_curves` (a test holds them to that)."""
    places = [(l, k) for l in (1, 3) for k in ("neuron", "head")] if scope == "sublayer" else [(None, None)]
    rows = [
        {"layer": layer, "sublayer": "mlp", "kind": kind, "selection": selection, "k": k, "effect_local": e,
         "low_local": e - 0.1, "high_local": e + 0.1, "effect_end": 2 * e, "low": 2 * e - 0.2, "high": 2 * e + 0.2}
        for layer, kind in places for selection, gain in (("top", 1.0), ("random", 0.1), ("bottom", -0.4))
        for k in (0, 1, 2, 4, 8) for e in [-gain * np.log2(1 + k)]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def sweep() -> pd.DataFrame:
    """A target over strengths."""
    rows = [{"strength": s, "value": s + 1, "change": s, "low": s - 0.1, "high": s + 0.1} for s in (0.0, 0.5, 1.0)]
    return pd.DataFrame(rows)


def growing() -> pd.DataFrame:
    """Circuits of growing size beside controls."""
    rows = [
        {"share": n / 1000, "n_nodes": n, "selection": name, "ablation": "MeanAblation"}
        | {f"{panel}{end}": y + d for panel in ("sufficiency", "necessity")
           for end, d in (("", 0.0), ("_low", -0.1), ("_high", 0.1))}
        for n in (1, 10, 100) for name, gain in (("top", 1.0), ("random", 0.2), ("shuffled", 0.4))
        for y in [gain * np.log10(n) / 2]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def removals() -> pd.DataFrame:
    """What each circuit's ablation takes from each target."""
    rows = [
        {"circuit": a, "target": b, "removed": r, "low": r - 0.1, "high": r + 0.1, "ablation": "MeanAblation"}
        for a in EKMAN for b in EKMAN for r in [0.9 if a == b else 0.1]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def doses(by: str | None = None) -> pd.DataFrame:
    """Accuracy and perplexity over strengths."""
    rows = [
        {"strength": s, "accuracy": a, "low": max(0, a - 0.05), "high": min(1, a + 0.05), "perplexity": 5 + 4**s}
        | ({by: name} if by else {})
        for name in ((EKMAN if by == "emotion" else ("steering", "circuit")) if by else ("",))
        for s in (0.0, 0.5, 1.0, 1.5, 2.0) for a in [1 / (1 + np.exp(3 - 4 * s - 0.1 * len(name)))]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def calibration() -> Calibration:
    """Two candidates for each emotion: one that has a controlled part, and one that only breaks."""
    bounds, points, chosen = Bounds(), [], {}
    for i, emotion in enumerate(EKMAN):
        for name, ratio in (("top, 5 % of heads", 1.0), ("quota", 1.6)):
            for s in (0.25, 0.5, 0.7, 1.0, 1.4, 2.0):
                accuracy, cost = 1 / (1 + np.exp(8 - 14 * s + 0.3 * i)), ratio * 0.9 + 0.15 * s**3
                regime = bounds.regime(accuracy, cost, 1.0)
                points.append(Point(emotion, name, s, 12, accuracy, cost, 1.0, regime))
        chosen[emotion] = next(p for p in points[::-1] if p.emotion == emotion and p.regime == "controlled")
    return Calibration(chosen, tuple(points), bounds, 500)


def traded() -> TradeOff:
    """Two methods at three strengths."""
    table = doses("method").query("strength in (0.5, 1, 2)")
    return TradeOff(
        tuple(
            TradePoint(r.method, r.strength, 60, 0, r.accuracy, r.low, r.high, r.perplexity, r.perplexity / 9)
            for r in table.itertuples()
        ),
        "steering",
    )


def samples(layers: tuple[int, ...] = (0, 2, 4)) -> pd.DataFrame:
    """Clouds that part with depth."""
    rng, angle = np.random.default_rng(0), 2 * np.pi / len(EKMAN)
    rows = [
        {"x": layer * np.cos(i * angle) + rng.normal(), "y": layer * np.sin(i * angle) + rng.normal(), "emotion": e,
         "layer": layer, "text": f"<b>sample {j}</b>"}
        for layer in layers for i, e in enumerate(EKMAN) for j in range(20)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def trace(tidy: bool = True) -> pd.DataFrame:
    """Projections over a short text."""
    tokens = "The sun came in , and I <b>laughed</b> out loud .".split()
    wide = pd.DataFrame({"token": tokens} | {e: np.sin(np.arange(len(tokens)) / 2 + i) for i, e in enumerate(EKMAN)})
    if not tidy:
        return wide
    return wide.reset_index(names="position").melt(["position", "token"], var_name="emotion", value_name="projection")


def selected() -> dict[str, Stability]:
    """How often two circuits' nodes are chosen again."""
    held = {}
    for emotion in ("anger", "fear"):
        nodes, g = circuit(emotion).nodes, _generator(2)
        often = NodeValues(*(torch.rand(nodes.mask(kind).shape, generator=g) for kind in ("neuron", "head")))
        held[emotion] = Stability(nodes, often, often, 0.7, 200, 32)
    return held


def course() -> EmotionDynamics:
    """The dynamics of random walks."""
    rng = np.random.default_rng(0)
    series = [torch.tensor(rng.normal(size=(14, 6)).cumsum(axis=0)) for _ in range(8)]
    return dynamics_of(series, list(range(8)), "fear", n_draws=20)


def found() -> pd.DataFrame:
    """What the discovery benchmark's summary is like."""
    ends = {"": 0.0, "_low": -0.1, "_high": 0.1}
    rows = [
        {"half": half, "kind": "node", "method": method}
        | {f"{m}{end}": value + shift for m in ("recall", "average_precision") for end, shift in ends.items()}
        for half in ("high noise", "low noise") for method, value in (("direct", 0.5), ("patching", 0.8))
    ]  # fmt: skip
    return pd.DataFrame(rows)


FIGURES = {
    "discovery": lambda: plots.discovery(found()),
    "circuit_graph": lambda: plots.circuit_graph(circuit()),
    "circuit_graph with edges": lambda: plots.circuit_graph(circuit(), edges()),
    "head_heatmap": lambda: plots.head_heatmap(attribution()),
    "neuron_long_tail": lambda: plots.neuron_long_tail(attribution()),
    "influence_profile": lambda: plots.influence_profile(influence()),
    "direction_similarity": lambda: plots.direction_similarity(directions(), "fear"),
    "emotion_similarity": lambda: plots.emotion_similarity(directions(), -1),
    "sample_projection": lambda: plots.sample_projection(samples()),
    "sample_projection of one layer": lambda: plots.sample_projection(samples((3,))),
    "validation_curves": lambda: plots.validation_curves(validation()),
    "validation_curves at the sublayer": lambda: plots.validation_curves(validation(), "local"),
    "validation_curves of the whole model": lambda: plots.validation_curves(validation("global")),
    "dose_sweep": lambda: plots.dose_sweep(sweep()),
    "circuit_curves": lambda: plots.circuit_curves(growing()),
    "specificity": lambda: plots.specificity(removals()),
    "dose_response": lambda: plots.dose_response(calibration()),
    "dose_response of one emotion": lambda: plots.dose_response(calibration(), "fear"),
    "pareto": lambda: plots.pareto(traded()),
    "pareto of a table": lambda: plots.pareto(doses("method")),
    "accuracy_bars": lambda: plots.accuracy_bars(comparison()),
    "overlap_matrix": lambda: plots.overlap_matrix(circuits()),
    "emotion_trace": lambda: plots.emotion_trace(trace()),
    "emotion_trace of a wide table": lambda: plots.emotion_trace(trace(tidy=False)),
    "trace_heatmap": lambda: plots.trace_heatmap(trace().assign(layer=3, role="user", turn=0)),
    "stability": lambda: plots.stability(selected()),
    "affect_plane": lambda: plots.affect_plane(affect_space(directions())),
    "language_agreement": lambda: plots.language_agreement(
        language_agreement({"en": directions(), "de": directions()}, layers=[0])
    ),
    "emotion_dynamics": lambda: plots.emotion_dynamics(course()),
}


class Drawn(dict):
    """The figures, each drawn when it is first looked at."""

    def __missing__(self, name: str) -> go.Figure:
        self[name] = FIGURES[name]()
        return self[name]


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return Drawn()


def axis_titles(figure: go.Figure) -> list[str]:
    layout = figure.to_plotly_json()["layout"]
    return [v.get("title", {}).get("text", "") for k, v in layout.items() if k.startswith(("xaxis", "yaxis"))]


# Every figure ---------------------------------------------------------------------------------------------------------


def test_every_public_figure_is_tested():
    others = {"Theme", "label_looks", "theme", "save_figure", "caption"}
    tested = {name.split(" ")[0] for name in FIGURES}
    assert tested == set(plots.__all__) - others


@pytest.mark.parametrize("name", FIGURES)
def test_figure_has_title_subtitle_and_axis_titles(drawn, name):
    figure = drawn[name]
    assert isinstance(figure, go.Figure)
    assert figure.layout.title.text
    assert figure.layout.title.subtitle.text
    titles = axis_titles(figure)
    assert any(titles[i] for i in range(len(titles)))
    for letter in "xy":
        held = figure.to_plotly_json()["layout"]
        assert any(v.get("title", {}).get("text") for k, v in held.items() if k.startswith(f"{letter}axis")), letter


@pytest.mark.parametrize("name", FIGURES)
def test_every_mark_that_can_be_hovered_explains_itself(drawn, name):
    for trace in drawn[name].data:
        assert trace.hovertemplate or trace.hoverinfo == "skip"


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("columns", [1, 2])
def test_paper_has_serif_eight_point_text_and_the_column_width(drawn, name, columns):
    figure = plots.theme("paper")(drawn[name], columns)
    assert figure.layout.width == pytest.approx({1: 3.3, 2: 6.9}[columns] * 96)
    assert "Times" in figure.layout.font.family
    assert all(size == pytest.approx(8 / 72 * 96) for size in font_sizes(figure.to_plotly_json()))
    assert not figure.layout.updatemenus
    assert figure.layout.title.text == drawn[name].layout.title.text


def font_sizes(held) -> list[float]:
    if isinstance(held, dict):
        own = [v["size"] for k, v in held.items() if k.endswith("font") and isinstance(v, dict) and "size" in v]
        return own + [size for value in held.values() for size in font_sizes(value)]
    return [size for value in held for size in font_sizes(value)] if isinstance(held, list | tuple) else []


@pytest.mark.parametrize("name", FIGURES)
def test_dark_exchanges_every_light_colour(drawn, name):
    before = drawn[name].to_json()
    text = plots.theme("dark")(drawn[name]).to_json()
    kept = [colour for colour in set(LIGHT.all()) - set(DARK.all()) if colour in text]
    assert not kept
    assert drawn[name].to_json() == before


def test_theme_can_be_set_for_a_block():
    with plots.theme("paper").using(columns=2):
        inside = plots.head_heatmap(attribution())
    assert inside.layout.width == pytest.approx(6.9 * 96)
    assert plots.head_heatmap(attribution()).layout.width is None


def test_unknown_theme_and_width_are_named():
    with pytest.raises(EmotionCircuitsError, match="no theme 'sepia'; the themes are light, dark, paper"):
        plots.theme("sepia")
    with pytest.raises(EmotionCircuitsError, match="1 or 2 columns wide, not 3"):
        plots.theme("paper")(go.Figure(), columns=3)


# Colours --------------------------------------------------------------------------------------------------------------


def least_distance(colours, sight="normal") -> float:
    """The smallest ΔE between any two colours, as such an eye sees them."""
    return min(float(np.linalg.norm(vision.lab(a, sight) - vision.lab(b, sight))) for a, b in combinations(colours, 2))


def least_grey_step(colours) -> float:
    """The smallest difference in L* between any two colours."""
    return min(abs(vision.lightness(a) - vision.lightness(b)) for a, b in combinations(colours, 2))


@pytest.mark.parametrize(
    ("palette", "n", "apart", "grey"),
    [(LIGHT, 6, 25, 9), (DARK, 6, 20, 7.9), (LIGHT, 10, 18, 3), (DARK, 10, 18, 3)],
    ids=["light", "dark", "light, other labels", "dark, other labels"],
)
def test_emotion_colours_stay_apart_for_every_reader_and_in_grey(palette, n, apart, grey):
    colours = palette.emotions[:n]
    assert len(colours) == n
    for sight in vision.SIMULATION:
        assert least_distance(colours, sight) >= apart, sight
    assert least_grey_step(colours) >= grey
    # A theme exchanges colours by their text: one colour in two roles could not be exchanged.
    assert len(set(palette.all())) == len(palette.all())


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_method_colours_stay_apart_and_text_has_contrast(palette):
    for sight in vision.SIMULATION:
        assert least_distance(palette.methods[:6], sight) >= 12, sight
    assert vision.contrast(palette.ink, palette.surface) >= 7
    assert vision.contrast(palette.muted, palette.surface) >= 4.5


def test_simulation_agrees_with_known_facts():
    # A red and a green of equal luminance differ for normal eyes and hardly for deuteranopic ones; grey stays grey.
    assert least_distance(("#b06040", "#748040")) > 2 * least_distance(("#b06040", "#748040"), "deuteranopia")
    assert np.allclose(vision.lab("#808080"), vision.lab("#808080", "protanopia"), atol=0.5)
    assert vision.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert vision.lightness("#ffffff") == pytest.approx(100, abs=0.01)


def test_every_emotion_has_a_marker_and_dash_of_its_own():
    looks = [style_of(emotion) for emotion in EKMAN]
    assert len({(look.marker, look.dash) for look in looks}) == len({look.colour for look in looks}) == len(EKMAN)
    assert {look.marker for look in looks} == set(MARKERS)


def test_other_labels_get_colours_that_are_free():
    names = ("anger", "calm", "awe")
    assert len({style_of(name, names).colour for name in names}) == 3


def test_the_six_look_as_ever():
    looks = [(look.colour, look.marker, look.dash) for look in map(style_of, EKMAN)]
    assert looks == [
        ("#902007", "square", "solid"), ("#375fae", "circle", "dash"), ("#cba93d", "star", "dot"),
        ("#332f59", "diamond", "dashdot"), ("#589cb3", "triangle-up", "longdash"), ("#2a8b4d", "cross", "longdashdot"),
    ]  # fmt: skip
    # Whatever stands beside them.
    assert [style_of(e, ("awe", *EKMAN)) for e in EKMAN] == [style_of(e) for e in EKMAN]


MANY = tuple(f"label {i}" for i in range(28))
SETS = [*(LabelSet.load(name).names for name in LABEL_SETS), MANY, (*EKMAN, *MANY), MANY * 2, (*MANY, *"abcdefghijkl")]


@pytest.mark.parametrize("names", SETS, ids=[*LABEL_SETS, "28", "34", "28, twice", "40"])
def test_no_two_labels_look_the_same(names):
    looks = {name: style_of(name, names) for name in names}
    for a, b in combinations(looks.values(), 2):
        # Some figures have markers alone and others lines alone.
        assert a.colour != b.colour or (a.marker != b.marker and a.dash != b.dash)
    colours = Counter(look.colour for look in looks.values())
    assert max(colours.values()) - min(colours.values()) <= 1
    assert len(colours) == min(10, len(looks))


def test_the_first_ten_differ_also_without_colour():
    looks = [style_of(name, MANY) for name in MANY[:10]]
    assert len({(look.marker, look.dash) for look in looks}) == 10


def test_a_label_set_brings_its_colours_and_one_look_for_every_figure():
    labels = LabelSet((Label("joy"), Label("trust", colour="#123456"), Label("anger", colour="#654321")))
    with plots.label_looks(labels):
        drawn = plots.stability({"trust": selected()["fear"], "joy": selected()["fear"]})
        alone = plots.circuit_graph(replace(circuit(), emotion="trust"))
        assert [style_of(name).colour for name in labels] == [LIGHT.emotions[1], "#123456", "#654321"]
        assert style_of("trust").marker == style_of("trust", labels.names).marker
    # Joy is the set's first label, though not the first that was drawn.
    assert [trace.line.color for trace in drawn.data] == ["#123456", LIGHT.emotions[1]]
    assert "rgba(18,52,86" in alone.to_json()
    assert "rgba(18,52,86" in plots.theme("dark")(alone).to_json()
    assert style_of("anger").colour == LIGHT.emotions[0]


def test_report_and_explorer_have_the_colours_of_the_run():
    labels = LabelSet(tuple(Label(e, colour={"fear": "#123456", "anger": LIGHT.emotions[3]}.get(e)) for e in EKMAN))
    settings = Settings.of(labels).identity()
    data = ReportData("A run", settings, directions(), {"fear": attribution("fear")}, influence(), circuits(),
                      comparison(2))  # fmt: skip
    page = render_report(data)
    dots = dict(re.findall(r'--dot:([^"]+)"><input[^>]+value="(\w+)"', page))
    assert dots.keys() == {"#123456", *(f"var(--emotion-{i})" for i in (1, 2, 3, 4, 5))}
    assert dots["#123456"] == "fear"
    assert dots["var(--emotion-3)"] == "anger"
    assert "rgba(18,52,86" in page  # the circuit's neurons
    assert "#123456" not in render_report(replace(data, settings={"seed": 0}))

    run = SimpleNamespace(emotions=labels.names, settings=Settings.of(labels), folder=SimpleNamespace(path="runs/a"))
    told = messages.about(SimpleNamespace(model=SimpleNamespace(name="tiny", dims=DIMS), run=run, items=[]))
    light, dark = (told["colours"][look]["emotions"] for look in ("light", "dark"))
    assert light == {e: style_of(e).colour for e in EKMAN} | {"fear": "#123456", "anger": LIGHT.emotions[3]}
    assert dark["fear"] == "#123456"
    assert [dark[e] for e in EKMAN if e != "fear"] == [DARK.emotions[i] for i in (3, 1, 2, 4, 5)]


def test_the_plane_has_the_colours_of_its_label_set():
    labels = LabelSet(tuple(Label(e, colour="#123456" if e == "fear" else None) for e in EKMAN))
    points = plots.affect_plane(affect_space(directions()), labels).data
    assert {p.name: p.marker.color for p in points} == {e: style_of(e).colour for e in EKMAN} | {"fear": "#123456"}


@pytest.mark.parametrize("colour", ["red", "#12345", "#123456;"])
def test_a_colour_that_is_none_is_refused(colour):
    with pytest.raises(DataError, match=r"colour of 'calm' is .*; write it as \"#rrggbb\""):
        plots.label_looks(["calm"], {"calm": colour}).__enter__()
    assert style_of("calm").colour == style_of(None).colour


@pytest.mark.parametrize(
    "draw",
    [lambda: plots.circuit_graph(replace(circuit(), emotion="awe")),
     lambda: plots.neuron_long_tail(replace(attribution(), emotion="awe")),
     lambda: plots.neuron_long_tail(replace(attribution(), emotion=None)),
     lambda: plots.emotion_dynamics(replace(course(), emotion="awe"))],
)  # fmt: skip
def test_a_subject_of_its_own_has_no_emotions_colour(draw):
    text = draw().to_json()
    taken = [c for c in LIGHT.emotions if c in text or "rgba({},{},{},".format(*vision.channels(c)) in text]
    assert not taken


# What single figures say ----------------------------------------------------------------------------------------------


def test_head_heatmap_is_symmetric_around_zero_and_names_the_best_head():
    scores = attribution()
    figure = plots.head_heatmap(scores)
    assert figure.data[0].zmin == -figure.data[0].zmax
    assert str(next(iter(scores.top(1, "head")))) in figure.layout.title.subtitle.text


def test_heads_that_were_not_scored_are_an_error_that_says_how_to_get_them():
    scores = attribution()
    scores = Attribution(scores.values, "direct", "anger", 90, DIMS, kinds=("neuron",))
    with pytest.raises(NodeError, match=r"neurons only: add them with scores\.with_heads"):
        plots.head_heatmap(scores)


def test_long_tail_reports_concentration_and_thins_large_models():
    scores = attribution()
    figure, spread = plots.neuron_long_tail(scores), scores.concentration()
    assert f"{100 * spread.top_1_percent:.0f} %" in figure.layout.title.subtitle.text
    assert f"{spread.gini:.2f}" in figure.layout.title.subtitle.text
    assert len(figure.data[0].x) <= 500
    assert figure.data[0].y[0] == pytest.approx(float(scores.values.neurons.max()))


def test_long_tail_ranks_only_what_was_scored():
    scores = attribution()
    some = NodeSet.of(DIMS, *(f"L1N{i}" for i in range(6)), "L0H1")
    hidden = [scores.values.values(kind) * some.mask(kind) for kind in ("neuron", "head")]
    figure = plots.neuron_long_tail(replace(scores, values=NodeValues(*hidden), scored=some))
    assert sorted(figure.data[0].y) == sorted(hidden[0][1, :6].tolist())


def test_stable_layers_are_framed():
    held = directions()
    frame = plots.direction_similarity(held, "fear").layout.shapes[0]
    stable = held.stable_layers()
    assert (frame.x0, frame.x1) == (2 * stable[0] - 0.5, 2 * stable[-1] + 1.5)


def test_unknown_emotions_are_refused():
    with pytest.raises(EmotionError, match="no emotion 'awe'"):
        plots.direction_similarity(directions(), "awe")
    with pytest.raises(EmotionError, match="no emotion 'awe'"):
        plots.influence_profile(influence(), ["awe"])
    with pytest.raises(DataError, match="got no emotion to draw; name one or more"):
        plots.influence_profile(influence(), [])


@pytest.mark.parametrize("layer", [5, 99, -6])
def test_layers_that_there_are_not_are_refused(layer):
    with pytest.raises(NodeError, match=rf"layer {layer} is outside the directions, which have layers 0 to 4 \(or -5"):
        plots.emotion_similarity(directions(), layer)
    assert "layer 0;" in plots.emotion_similarity(directions(), -5).layout.title.subtitle.text


def test_a_negative_number_of_names_is_refused():
    with pytest.raises(DataError, match="0 or more of the best neurons, got labels=-1"):
        plots.neuron_long_tail(attribution(), labels=-1)
    assert not plots.neuron_long_tail(attribution(), labels=0).data[1].x


def grid(names) -> pd.DataFrame:
    """`removals` for any labels."""
    table = removals().iloc[:1]
    return pd.concat([table.assign(circuit=a, target=b) for a in names for b in names])


def test_specificity_leaves_pairs_without_a_row_blank():
    table = grid("ab").query("circuit != 'a' or target != 'b'")
    drawn = plots.specificity(table).data[0]
    assert np.isnan(drawn.z).tolist() == [[False, True], [False, False]]
    assert drawn.hoverongaps is False
    assert (drawn.customdata[1][0] == table.set_index(["circuit", "target"]).loc[("b", "a"), ["low", "high"]]).all()
    with pytest.raises(DataError, match="several rows for the circuit of 'b' and the target 'b'; give the rows of one"):
        plots.specificity(pd.concat([table, table.iloc[-1:]]))


MATRICES = {
    "overlap_matrix": lambda names: plots.overlap_matrix(dict.fromkeys(names, circuit())),
    "specificity": lambda names: plots.specificity(grid(names)),
    "emotion_similarity": lambda names: plots.emotion_similarity(directions_of(names), -1),
}


def directions_of(names) -> EmotionDirections:
    """`directions` for any labels."""
    held, e = directions(), [i % len(EKMAN) for i in range(len(names))]
    return replace(
        held, emotions=tuple(names), vectors=held.vectors[:, :, e], norms=held.norms[..., e],
        split_half=held.split_half[..., e],
    )  # fmt: skip


@pytest.mark.parametrize("name", MATRICES)
def test_matrices_grow_with_their_labels_and_print_only_what_can_be_read(name):
    small, ten, big = (MATRICES[name](names) for names in (EKMAN, MANY[:10], MANY))
    assert small.layout.height == {"overlap_matrix": 440, "specificity": 460, "emotion_similarity": 430}[name]
    # Names are 12 pixels high.
    assert (big.layout.height - big.layout.margin.t - big.layout.margin.b) / len(MANY) > 16
    assert all(trace.texttemplate == "%{z:.2f}" for trace in (*small.data, *ten.data))
    assert not any(trace.texttemplate for trace in big.data)


def test_a_long_legend_stands_beside_the_figure():
    h, e = influence(), [i % len(EKMAN) for i in range(len(MANY))]
    many = Influence(MANY, h.values[..., e], h.std[..., e], h.by_strength[..., e], h.strengths, 96, PROVENANCE)
    layout = plots.influence_profile(many).layout
    assert (layout.legend.orientation, layout.legend.xanchor, layout.legend.yanchor) == ("v", "left", "top")
    assert layout.legend.x > 1
    assert layout.legend.y == 1
    # An entry takes 19 pixels, and a legend that is higher than the axes scrolls.
    assert (layout.height - layout.margin.t - layout.margin.b) / len(MANY) > 19
    few = plots.influence_profile(influence()).layout
    assert (few.legend.orientation, few.height) == ("h", 430)
    printed = plots.theme("paper")(plots.influence_profile(many), 2).layout
    assert (printed.legend.orientation, printed.legend.x) == ("h", 0)


def test_two_matrices_stand_above_each_other_in_one_column_of_a_paper():
    one, two = (plots.theme("paper")(MATRICES["overlap_matrix"](MANY[:8]), columns).layout for columns in (1, 2))
    assert one.xaxis.domain == one.xaxis2.domain == (0, 1)
    assert one.yaxis2.domain[1] < one.yaxis.domain[0]
    assert one.yaxis2.showticklabels
    assert [heading.y for heading in one.annotations] == [one.yaxis.domain[1], one.yaxis2.domain[1]]
    assert two.xaxis.domain[1] < two.xaxis2.domain[0]
    six = plots.theme("paper")(MATRICES["overlap_matrix"](EKMAN), 1).layout
    assert six.xaxis.domain[1] < six.xaxis2.domain[0]
    many = plots.theme("paper")(MATRICES["overlap_matrix"](MANY), 1).layout
    assert (many.height - many.margin.t - many.margin.b) * 0.47 / len(MANY) > 8 / 72 * 96


@pytest.mark.parametrize(
    ("function", "frame"),
    [("dose_sweep", sweep().assign(change=np.nan)), ("dose_sweep", sweep().assign(change=np.inf)),
     ("pareto", doses("method").assign(accuracy=np.nan)), ("pareto", doses("method").assign(perplexity=None)),
     ("validation_curves", validation().assign(effect_end=np.nan)),
     ("circuit_curves", growing().assign(necessity=np.nan)), ("specificity", removals().assign(removed=np.nan)),
     ("trace_heatmap", trace().assign(layer=3, projection=np.nan))],
)  # fmt: skip
def test_a_table_without_a_number_is_refused(function, frame):
    with pytest.raises(DataError, match=rf"{function}.* got no row with a finite \w+.*; there is nothing to draw"):
        getattr(plots, function)(frame)


def test_missing_projections_do_not_decide_the_scale():
    table = trace().assign(layer=3)
    largest = table["projection"].abs().max()
    table.loc[table["position"] == 0, "projection"] = np.nan
    drawn = plots.trace_heatmap(table).data[0]
    assert drawn.zmax == -drawn.zmin == pytest.approx(table["projection"].abs().max())
    assert drawn.zmax <= largest


def test_circuit_graph_groups_many_neurons_and_opens_them():
    figure = plots.circuit_graph(circuit(n_neurons=392, n_heads=20))
    grouped, opened = (button.args[0]["visible"] for button in figure.layout.updatemenus[0].buttons)
    names = ["heads", "by layer", "single"]
    assert dict(zip(names, grouped, strict=True)) == {"heads": True, "by layer": True, "single": False}
    assert dict(zip(names, opened, strict=True)) == {"heads": True, "by layer": False, "single": True}
    assert [trace.visible for trace in figure.data] == grouped
    assert len(figure.data[1].x) == DIMS.n_layers
    assert len(figure.data[2].x) == 392


def test_circuit_graph_sizes_follow_scores_and_edges_outside_are_left_out():
    figure = plots.circuit_graph(circuit(), edges())
    heads = next(trace for trace in figure.data if trace.name == "attention heads")
    scores = circuit().to_frame().query("kind == 'head'")["score"].to_numpy()
    assert np.argmax(heads.marker.size) == np.argmax(scores)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert lines
    assert all(y is None or y < DIMS.n_layers for trace in lines for y in trace.y)
    assert {trace.line.dash for trace in lines} == {"solid", "dot"}


def test_circuit_graph_of_an_empty_circuit_and_without_influence():
    held = circuit()
    empty = Circuit("anger", NodeSet.empty(DIMS), DIMS, held.scores)
    assert "0 neurons and 0 heads" in plots.circuit_graph(empty).layout.title.subtitle.text


def test_overlap_is_jaccard():
    first, second = circuit("anger"), circuit("fear")
    figure = plots.overlap_matrix({"anger": first, "fear": second})
    for trace, kind in zip(figure.data, ("neuron", "head"), strict=True):
        a, b = (set(c.nodes.only(kind).names()) for c in (first, second))
        assert trace.z[0][1] == pytest.approx(len(a & b) / len(a | b))
        assert trace.z[0][0] == 1
    with pytest.raises(DataError, match="two or more"):
        plots.overlap_matrix({"anger": first})


def test_projection_plays_over_layers_only_when_there_are_several(drawn):
    assert len(drawn["sample_projection"].frames) == 3
    assert drawn["sample_projection"].layout.sliders
    assert not drawn["sample_projection of one layer"].frames


def test_tidy_and_wide_traces_are_the_same(drawn):
    tidy, wide = drawn["emotion_trace"], drawn["emotion_trace of a wide table"]
    assert [list(a.y) for a in tidy.data] == [list(b.y) for b in wide.data]


def test_text_from_data_is_never_markup(drawn):
    assert "&lt;b&gt;laughed" in drawn["emotion_trace"].to_json()
    assert "<b>laughed" not in drawn["emotion_trace"].to_json()


def test_dose_response_shows_regimes_bounds_and_what_was_chosen():
    held = calibration()
    drawn = plots.dose_response(held, "fear").data
    curve, other = (next(t for t in drawn if t.name == name) for name in ("chosen candidate", "other candidates"))
    points = held.curve("fear")
    assert {p.regime for p in points} >= {"too weak", "controlled"}
    by_regime = dict(zip((p.regime for p in points), curve.marker.symbol, strict=True))
    assert len(set(by_regime.values())) == len(by_regime)
    assert set(other.marker.symbol) == {"x"}
    rings = [t for t in drawn if t.marker.symbol == "circle-open" and t.hoverinfo == "skip" and t.x[0] is not None]
    assert [(t.x[0], t.y[0]) for t in rings] == [
        (held.chosen["fear"].strength, y)
        for y in (100 * held.chosen["fear"].accuracy, held.chosen["fear"].perplexity_ratio)
    ]
    lines = plots.dose_response(held).layout.shapes
    assert [line.y0 for line in lines] == [100 * held.bounds.accuracy, held.bounds.perplexity_ratio]
    with pytest.raises(EmotionError, match="awe"):
        plots.dose_response(held, "awe")


def test_animations_have_short_numbers_and_texts():
    table = samples().assign(x=np.pi * 1e-3, text="word " * 100)
    points = plots.sample_projection(table).data[0]
    assert set(points.x) == {0.003142}
    assert max(map(len, points.text)) <= 90


def test_front_is_never_beaten(drawn):
    front = drawn["pareto"].data[0]
    assert list(front.x) == sorted(front.x)
    assert list(front.y) == sorted(front.y)


def test_accuracy_bars_have_the_wilson_interval():
    held = comparison()
    row = held.by_emotion().query("method == 'circuit' and emotion == 'overall'").iloc[0]
    bar = next(trace for trace in plots.accuracy_bars(held).data if trace.name == "circuit")
    assert bar.x[0] == "overall"
    assert bar.y[0] + bar.error_y.array[0] == pytest.approx(100 * row["high"])
    assert bar.y[0] - bar.error_y.arrayminus[0] == pytest.approx(100 * row["low"])


@pytest.mark.parametrize(
    ("function", "frame"),
    [("pareto", doses()), ("validation_curves", doses()), ("dose_sweep", doses()),
     ("circuit_curves", doses()), ("specificity", doses()), ("sample_projection", doses()), ("emotion_trace", doses())],
)  # fmt: skip
def test_missing_columns_are_named(function, frame):
    with pytest.raises(DataError, match=rf"{function} needs the columns? .* (is|are) missing from \w"):
        getattr(plots, function)(frame)


def test_messages_about_columns_agree_in_number():
    with pytest.raises(DataError, match=r"emotion_trace needs the column token; token is missing from a, b$"):
        plots.emotion_trace(pd.DataFrame({"a": [1], "b": [2]}))
    with pytest.raises(
        DataError, match=r"needs the columns strength, .*; strength, low, high are missing from change$"
    ):
        plots.dose_sweep(pd.DataFrame({"change": [1]}))
    with pytest.raises(DataError, match=r"needs the columns strength, .* and got an empty table; there is nothing to"):
        plots.dose_sweep(pd.DataFrame())


def test_empty_table_is_an_error():
    with pytest.raises(DataError, match="without rows"):
        plots.pareto(doses("method").iloc[:0])


# Captions -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        circuit,
        attribution,
        influence,
        directions,
        comparison,
        circuits,
        calibration,
        lambda: selected()["fear"],
        traded,
    ],
)
def test_caption_is_balanced_latex_with_provenance(make):
    result = make()
    text = plots.caption(result)
    assert text.startswith(r"\caption{")
    assert text.count("{") == text.count("}")
    assert not getattr(result, "provenance", {}) or r"tiny\_demo" in text
    bare = text.replace(r"\%", "").replace(r"\_", "").replace(r"\&", "")
    assert not set("%_&#$") & set(bare)


def test_caption_refuses_what_it_does_not_know():
    with pytest.raises(DataError, match="no caption for int"):
        plots.caption(3)


# Files ----------------------------------------------------------------------------------------------------------------


def browser() -> str | None:
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


needs_browser = pytest.mark.skipif(browser() is None, reason="no Chromium or Chrome is installed")


def test_html_needs_no_network(tmp_path):
    path = plots.save_figure(plots.head_heatmap(attribution()), tmp_path / "heads.html")
    assert "<script src=" not in path.read_text(encoding="utf-8")


def test_unknown_ending_is_an_error(tmp_path):
    with pytest.raises(ArtefactError, match=r"use one of \.html, \.pdf"):
        plots.save_figure(go.Figure(), tmp_path / "figure.bmp")


def test_missing_kaleido_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "kaleido", None)
    with pytest.raises(DeviceError, match=r"pip install 'emotion-circuits\[figures\]'"):
        plots.save_figure(go.Figure(), tmp_path / "figure.pdf")
    assert not list(tmp_path.iterdir())


def test_missing_chromium_says_what_to_install(tmp_path, monkeypatch):
    kaleido = pytest.importorskip("kaleido")
    from choreographer.errors import ChromeNotFoundError

    def absent(*_, **__):
        raise ChromeNotFoundError("none")

    monkeypatch.setattr(kaleido, "write_fig_sync", absent)
    with pytest.raises(DeviceError, match="needs Chrome or Chromium, and none was found"):
        plots.save_figure(go.Figure(), tmp_path / "figure.svg")
    assert not list(tmp_path.iterdir())


@needs_browser
@pytest.mark.slow
def test_png_has_the_size_that_was_asked_for(tmp_path):
    pytest.importorskip("kaleido")
    path = plots.save_figure(plots.head_heatmap(attribution()), tmp_path / "a.png", width=300, height=200, scale=2)
    header = path.read_bytes()[:24]
    assert (int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")) == (600, 400)


@pytest.fixture(scope="module")
def one_browser():
    """One Chromium for all exports: starting it takes most of the time."""
    kaleido = pytest.importorskip("kaleido")
    kaleido.start_sync_server(mathjax=False, silence_warnings=True)
    yield
    kaleido.stop_sync_server(silence_warnings=True)


@needs_browser
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The kopts argument is ignored")
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_written_whole_as_pdf_and_svg(drawn, one_browser, name, tmp_path):
    figure = plots.theme("paper")(drawn[name], columns=2)
    pdf, svg = (plots.save_figure(figure, tmp_path / f"figure.{kind}") for kind in ("pdf", "svg"))
    assert pdf.read_bytes().startswith(b"%PDF")
    assert svg.read_text(encoding="utf-8").startswith("<svg")
    if shutil.which("pdffonts") is None or shutil.which("pdftotext") is None:
        pytest.skip("poppler-utils is not installed, so that fonts and margins cannot be checked")
    fonts = poppler("pdffonts", pdf).splitlines()[2:]
    assert fonts
    # Columns from the end: emb, sub, uni, object id (two numbers).
    assert all(line.split()[-5] == "yes" for line in fonts)
    (width, height), words = words_of(poppler("pdftotext", "-bbox", pdf, "-"))
    assert (width, height) == pytest.approx((figure.layout.width * 0.75, figure.layout.height * 0.75), abs=1)
    cut = [word for word, (left, top, right, bottom) in words
           if left < 0 or top < 0 or right > width or bottom > height]  # fmt: skip
    assert not cut
    # What lies outside a page altogether is in the SVG and not among the PDF's words.
    assert letters("".join(word for word, _ in words)) == letters(" ".join(texts_of(svg)))


def poppler(tool: str, *arguments: object) -> str:
    return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=True).stdout


def words_of(page: str) -> tuple[tuple[float, float], list[tuple[str, tuple[float, ...]]]]:
    """Size of the page and every word with its box, in points."""
    root = ElementTree.fromstring(page)
    (sheet,) = root.iter("{http://www.w3.org/1999/xhtml}page")
    boxes = [
        (word.text or "", tuple(float(word.attrib[k]) for k in ("xMin", "yMin", "xMax", "yMax")))
        for word in root.iter("{http://www.w3.org/1999/xhtml}word")
    ]
    return (float(sheet.attrib["width"]), float(sheet.attrib["height"])), boxes


def texts_of(svg: Path) -> list[str]:
    root = ElementTree.parse(svg).getroot()
    return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]


def letters(text: str) -> Counter[str]:
    """Letters and digits, ligatures taken apart."""
    return Counter(c for c in unicodedata.normalize("NFKC", text) if c.isalnum())
