"""The stages of a run, in their order. Each reads what earlier ones left and writes files of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emotion_circuits.activations import Baseline, Contrast
from emotion_circuits.attribution import DirectAttribution, HeadImportance, attribute_each, sublayer_influence
from emotion_circuits.circuits import Circuit
from emotion_circuits.control import (
    CircuitModulation,
    CircuitRemoval,
    Method,
    Prompting,
    Unmodulated,
    calibrate,
)
from emotion_circuits.control.methods import PerEmotion
from emotion_circuits.directions import ConditionMeans, fit_directions
from emotion_circuits.errors import DataError
from emotion_circuits.evaluation import Comparison, evaluate, fluency, run_method
from emotion_circuits.generation import generate
from emotion_circuits.pipeline import search
from emotion_circuits.pipeline.run import BASELINES, Run, contrast_file, elicited, load_scores, save_scores, write_json
from emotion_circuits.replies import Replies
from emotion_circuits.types import Position

Stage = Callable[[Run], None]


def elicit(run: Run) -> None:
    """Ask for each emotion by instruction, and for none, on the training scenarios."""
    for emotion in (*run.emotions, None):
        prompts = run.train.prompts(emotion)

        def make(path: Path, prompts: Any = prompts) -> None:
            method = "prompting" if prompts[0].emotion else "none"
            generate(run.model, prompts, None, run.config(), method=method, batch_size=run.settings.batch_size).save(
                path
            )

        run.folder.unit(elicited(emotion), make)


def judge(run: Run) -> None:
    """Judge the elicited replies; only those that express their emotion go on."""

    def make(path: Path) -> None:
        replies = Replies(tuple(reply for emotion in run.emotions for reply in run.replies(emotion)))
        save_scores(path, evaluate(replies, run.judge).scores)

    run.folder.unit("judge/scores.jsonl", make)
    run.folder.unit("judge/accuracy.csv", lambda path: run.evaluation().accuracy("emotion").to_csv(path, index=False))


def directions(run: Run) -> None:
    """Fit the emotions' directions, and the contrasts against both baselines."""
    accepted, batch_size = run.evaluation().accepted(), run.settings.batch_size
    missing = [emotion for emotion in run.emotions if not len(accepted.of(emotion))]
    if missing:
        raise DataError(
            f"the judge accepted no reply for {', '.join(missing)}: the model does not express it when asked, or the "
            f"judge ({run.judge.name}) does not know it. Look at {run.folder.path / elicited(missing[0])}, use another "
            "model or judge, or leave the emotion out with --emotions"
        )
    run.folder.unit(
        "directions/directions.safetensors",
        lambda path: fit_directions(
            run.model, accepted, run.emotions, batch_size=batch_size, seed=run.settings.seed
        ).save(path),
    )
    fitted: dict[Baseline, dict[str, Contrast]] = {}

    def save(path: Path, baseline: Baseline, emotion: str) -> None:
        if not fitted:
            means = ConditionMeans.measure(
                run.model, accepted, run.replies(None), emotions=run.emotions, batch_size=batch_size
            )
            fitted.update({name: means.contrasts(name) for name in BASELINES})
        fitted[baseline][emotion].save(path)

    for baseline in BASELINES:
        for emotion in run.emotions:
            run.folder.unit(contrast_file(baseline, emotion), lambda path, b=baseline, e=emotion: save(path, b, e))


def attribute(run: Run) -> None:
    """Score every neuron and head for every emotion."""
    for prefix, method in (("", DirectAttribution()), ("heads-", HeadImportance())):
        scored: dict[str, Any] = {}

        def make(path: Path, emotion: str, method: Any = method, scored: dict[str, Any] = scored) -> None:
            if not scored:
                accepted = run.evaluation().accepted()
                targets = run.directions().targets()
                scored |= attribute_each(
                    run.model, accepted.prompts, targets, method, batch_size=run.settings.batch_size
                )
            scored[emotion].save(path)

        for emotion in run.emotions:
            run.folder.unit(
                f"attribute/{prefix}{emotion}.safetensors", lambda path, e=emotion, make=make: make(path, e)
            )


def influence(run: Run) -> None:
    """Weigh every sublayer by what a push there does to the end."""
    run.folder.unit(
        "influence/influence.safetensors",
        lambda path: sublayer_influence(
            run.model, run.train.prompts(), run.directions(), batch_size=run.settings.batch_size
        ).save(path),
    )


def circuit(run: Run) -> None:
    """Build candidate circuits, choose make-up and strength on the validation split, and tune steering alike."""
    recipes = {recipe.name: recipe for recipe in search.circuit_recipes()}

    def candidates() -> dict[str, dict[str, Circuit]]:
        contrasts = run.all_contrasts()
        scores, weights = run.attributions(), run.influence()
        return {
            name: {e: recipe.build(scores[e], weights, contrasts, run.size) for e in run.emotions}
            for name, recipe in recipes.items()
        }

    def choose(path: Path) -> None:
        positions: dict[str, Position] = {name: recipe.positions for name, recipe in recipes.items()}
        circuits = candidates()
        families = {
            "circuit": search.circuit_families(circuits, positions),
            "steering": search.steering_families(run.all_contrasts(), run.directions()),
        }
        # Random nodes of the same make-up: what their removal does is no evidence for the circuit.
        drawn = {
            name: {e: c.random_like(run.settings.seed) for e, c in held.items()} for name, held in circuits.items()
        }
        removals = {
            name: (family, search.removal_families(drawn, positions)[name])
            for name, family in search.removal_families(circuits, positions).items()
        }
        content: dict[str, Any] = {}
        for kind, held in families.items():
            result = calibrate(
                run.model, held, run.validation, run.judge, run.emotions,
                removals=removals if kind == "circuit" else None, strengths=search.STRENGTHS,
                config=run.config(), batch_size=run.settings.batch_size,
            )  # fmt: skip
            content[kind] = {emotion: asdict(point) for emotion, point in result.chosen.items()}
            content[f"{kind} points"] = [asdict(point) for point in result.points]
        write_json(path, content)

    run.folder.unit("circuit/calibration.json", choose)
    chosen = run.calibration()["circuit"]
    built: dict[str, dict[str, Circuit]] = {}

    def save(path: Path, emotion: str) -> None:
        if not built:
            built.update(candidates())
        built[chosen[emotion]["candidate"]][emotion].save(path)

    for emotion in run.emotions:
        run.folder.unit(f"circuit/{emotion}.safetensors", lambda path, e=emotion: save(path, e))


METHODS = (
    "none", "prompting", "steering", "circuit", "random circuit", "prompting - circuit", "prompting - random",
)  # fmt: skip
"""Names of the methods that are compared, in the order of the tables."""


def methods(run: Run) -> dict[str, Method]:
    """The methods that are compared, with what calibration chose for each emotion."""
    calibration, circuits = run.calibration(), run.circuits()
    recipes = {recipe.name: recipe for recipe in search.circuit_recipes()}
    steering = search.steering_families(run.all_contrasts(), run.directions())

    def modulation(emotion: str) -> CircuitModulation:
        point = calibration["circuit"][emotion]
        return CircuitModulation({emotion: circuits[emotion]}, point["strength"], recipes[point["candidate"]].positions)

    def steer(emotion: str) -> Method:
        point = calibration["steering"][emotion]
        return steering[point["candidate"]](emotion, point["strength"])

    circuit = {emotion: modulation(emotion) for emotion in run.emotions}
    drawn = {e: m.random_like(run.settings.seed + 1 + i) for i, (e, m) in enumerate(circuit.items())}
    held: list[Method] = [
        Unmodulated(),
        Prompting(),
        PerEmotion({emotion: steer(emotion) for emotion in run.emotions}, "steering"),
        PerEmotion(circuit, "circuit"),
        PerEmotion(drawn, "random circuit"),
        PerEmotion({emotion: CircuitRemoval(m) for emotion, m in circuit.items()}, "prompting - circuit"),
        PerEmotion({emotion: CircuitRemoval(m) for emotion, m in drawn.items()}, "prompting - random"),
    ]
    assert tuple(method.name for method in held) == METHODS
    return {method.name: method for method in held}


def generate_replies(run: Run) -> None:
    """Let every method reply to the test items: greedily, and sampled if the settings say so."""
    compared = methods(run)
    for label, temperature in decodings(run):
        for name, method in compared.items():

            def make(path: Path, method: Method = method, temperature: float = temperature) -> None:
                run_method(
                    run.model, method, run.test.items, run.emotions, run.config(temperature),
                    batch_size=run.settings.batch_size,
                ).save(path)  # fmt: skip

            run.folder.unit(_replies_file(label, name), make)


def evaluate_replies(run: Run) -> None:
    """Judge the test replies and score their fluency; write the tables."""
    for label, _ in decodings(run):
        for name in METHODS:

            def scores(path: Path, label: str = label, name: str = name) -> None:
                replies = Replies.load(run.folder.path / _replies_file(label, name))
                save_scores(path, evaluate(replies, run.judge).scores)

            def text(path: Path, label: str = label, name: str = name) -> None:
                replies = Replies.load(run.folder.path / _replies_file(label, name))
                write_json(path, asdict(fluency(run.model, replies, batch_size=run.settings.batch_size)))

            run.folder.unit(f"evaluate/{label}/{_slug(name)}.scores.jsonl", scores)
            run.folder.unit(f"evaluate/{label}/{_slug(name)}.fluency.json", text)
        run.folder.unit(f"evaluate/{label}.csv", lambda p, l=label: comparison(run, l).table().to_csv(p, index=False))
        run.folder.unit(
            f"evaluate/{label}-by-emotion.csv",
            lambda p, l=label: comparison(run, l).by_emotion().to_csv(p, index=False),
        )


def comparison(run: Run, label: str = "greedy") -> Comparison:
    """The compared methods, from what the stages wrote."""
    import json

    from emotion_circuits.evaluation import Evaluation, Fluency

    evaluations, fluencies = {}, {}
    for name in METHODS:
        replies = Replies.load(run.folder.path / _replies_file(label, name))
        base = run.folder.path / f"evaluate/{label}"
        evaluations[name] = Evaluation(replies, load_scores(base / f"{_slug(name)}.scores.jsonl"), run.judge.name)
        fluencies[name] = Fluency(**json.loads((base / f"{_slug(name)}.fluency.json").read_text(encoding="utf-8")))
    return Comparison(evaluations, fluencies)


def report(run: Run) -> None:
    """Write the report."""
    from emotion_circuits.pipeline.reporting import report_data
    from emotion_circuits.report import write_report

    run.folder.unit("report.html", lambda path: write_report(path, report_data(run)))


def decodings(run: Run) -> list[tuple[str, float]]:
    """Names and temperatures of the tables."""
    sampled = run.settings.temperature
    return [("greedy", 0.0)] + ([] if sampled is None else [("sampled", sampled)])


STAGES: Mapping[str, Stage] = {
    "elicit": elicit,
    "judge": judge,
    "directions": directions,
    "attribute": attribute,
    "influence": influence,
    "circuit": circuit,
    "generate": generate_replies,
    "evaluate": evaluate_replies,
    "report": report,
}
"""Every stage, in the order in which they run."""


def _replies_file(label: str, name: str) -> str:
    return f"generate/{label}/{_slug(name)}.jsonl"


def _slug(name: str) -> str:
    return name.replace(" - ", "-minus-").replace(" ", "-")
