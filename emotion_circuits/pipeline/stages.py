"""The stages of a run, in their order. Each reads what earlier ones left and writes files of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from emotion_circuits import artefacts
from emotion_circuits.activations import Baseline, Contrast
from emotion_circuits.attribution import HeadImportance, attribute_each, sublayer_influence
from emotion_circuits.checked import build
from emotion_circuits.circuits import Circuit
from emotion_circuits.control import CircuitRemoval, Method, PerEmotion, Prompting, Unmodulated
from emotion_circuits.control.circuits import Positions
from emotion_circuits.directions import ConditionMeans, check_directions
from emotion_circuits.errors import DataError
from emotion_circuits.evaluation import Comparison, evaluate, fluency, run_method
from emotion_circuits.generation import generate
from emotion_circuits.pipeline import samples, search
from emotion_circuits.pipeline.run import (
    Run,
    contrast_file,
    elicited,
    load_scores,
    read_json,
    save_scores,
    write_json,
)
from emotion_circuits.pipeline.stability import keep_stability
from emotion_circuits.provenance import prompts_hash
from emotion_circuits.replies import Replies

Stage = Callable[[Run], None]


def elicit(run: Run) -> None:
    """Ask for each emotion by instruction, and for none, on the training scenarios."""
    generator = cache(run.generator)  # started when a file is missing, and gone with this stage
    for emotion in (*run.emotions, None):
        prompts = run.train.prompts(emotion)

        def make(path: Path, prompts: Any = prompts, name: str = elicited(emotion)) -> None:
            method = "prompting" if prompts[0].emotion else "none"
            with run.folder.journal(name) as journal:
                generate(
                    generator(), prompts, None, run.elicitation_config(),
                    method=method, batch_size=run.settings.batch_size, journal=journal,
                ).save(path)  # fmt: skip

        run.folder.unit(elicited(emotion), make)


def judge(run: Run) -> None:
    """Judge the elicited replies; only those that express their emotion go on."""

    def make(path: Path) -> None:
        replies = Replies(tuple(reply for emotion in run.emotions for reply in run.replies(emotion)))
        save_scores(path, evaluate(replies, run.judge, run.question).scores)

    run.folder.unit("judge/scores.jsonl", make)
    run.folder.unit(
        "judge/accuracy.parquet", lambda path: artefacts.save_frame(path, run.evaluation().accuracy("emotion"))
    )


def directions(run: Run) -> None:
    """Fit the emotions' directions and test their quality; fit the contrasts."""
    accepted, batch_size = run.evaluation().accepted(), run.settings.batch_size
    missing = [emotion for emotion in run.emotions if not len(accepted.of(emotion))]
    if missing:
        raise DataError(
            f"the judge accepted no reply for {', '.join(missing)}: the model does not express it when asked, or the "
            f"judge ({run.judge.name}) does not know it. Look at {run.folder.path / elicited(missing[0])}, use another "
            "model or judge, or leave the emotion out with --emotions"
        )
    wording = run.settings.wording
    unnamed = None
    if wording.covers("described", run.emotions):
        unnamed = [prompt.instructed(prompt.emotion, "described", wording) for prompt in accepted.prompts]

    def fit(path: Path) -> None:
        held = check_directions(run.model, accepted, unnamed=unnamed, batch_size=batch_size, seed=run.settings.seed)
        held.save(path)

    run.folder.unit("directions/directions.safetensors", fit)
    run.folder.unit(
        "directions/quality.parquet",
        lambda path: artefacts.save_frame(path, run.directions().quality.to_frame()),
    )
    run.folder.unit(samples.FILE, lambda path: artefacts.save_frame(path, samples.project_accepted(run)))
    baselines, options = run.preset.baselines, run.preset.stages.contrasts
    fitted: dict[Baseline, dict[str, Contrast]] = {}

    def save(path: Path, baseline: Baseline, emotion: str) -> None:
        if not fitted:
            means = ConditionMeans.measure(
                run.model, accepted, run.replies(None).answered if "uninstructed" in baselines else None,
                emotions=run.emotions, match_positions=options["match_positions"], batch_size=batch_size,
            )  # fmt: skip
            unit = options["unit_heads"]
            fitted.update({name: means.contrasts(name, unit_heads=unit) for name in baselines})
        fitted[baseline][emotion].save(path)

    for baseline in baselines:
        for emotion in run.emotions:
            run.folder.unit(contrast_file(baseline, emotion), lambda path, b=baseline, e=emotion: save(path, b, e))


def attribute(run: Run) -> None:
    """Score every neuron and head for every emotion."""
    for prefix, method in (("", run.preset.ranking), ("heads-", HeadImportance())):
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
    prompts, options = run.train.prompts(), run.preset.stages.influence
    run.folder.unit(
        "influence/influence.safetensors",
        lambda path: sublayer_influence(
            run.model, prompts, run.directions(), batch_size=run.settings.batch_size, **options
        ).save(path),
    )


def circuit(run: Run) -> None:
    """Build candidate circuits, and come by make-up and strength as the preset says; by those of steering alike."""
    choice = run.preset.choice
    recipes = {recipe.name: recipe for recipe in choice.recipes()}

    def candidates() -> dict[str, dict[str, Circuit]]:
        contrasts = run.all_contrasts()
        scores, weights = run.attributions(), run.influence()
        return {
            name: {e: recipe.build(scores[e], weights, contrasts, run.size) for e in run.emotions}
            for name, recipe in recipes.items()
        }

    def choose(path: Path) -> None:
        positions: dict[str, Positions] = {name: recipe.positions for name, recipe in recipes.items()}
        circuits = candidates()
        families = {
            "circuit": search.circuit_families(circuits, positions),
            "steering": choice.steering(run),
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
        with run.folder.journal("circuit/calibration.json") as journal:
            for kind, held in families.items():
                result = choice.choose(run, kind, held, removals if kind == "circuit" else None, journal)
                tried = result.to_dict()
                content[kind] = tried.pop("chosen")
                content[f"{kind} search"] = tried
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
    keep_stability(run)


METHODS = (
    "none", "prompting", "steering", "circuit", "random circuit", "prompting - circuit", "prompting - random",
)  # fmt: skip
"""Names of the methods that are compared, in the order of the tables."""


def methods(run: Run) -> dict[str, Method]:
    """The methods that are compared, with what was chosen for each emotion."""
    calibration, circuit = run.calibration(), run.modulations()
    steering = run.preset.choice.steering(run)

    def steer(emotion: str) -> Method:
        point = calibration["steering"][emotion]
        return steering[point["candidate"]](emotion, point["strength"])

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
            file = replies_file(label, name)

            def make(path: Path, method: Method = method, heat: float = temperature, file: str = file) -> None:
                with run.folder.journal(file) as journal:
                    run_method(
                        run.model, method, run.test.items, run.emotions, run.config(heat),
                        batch_size=run.settings.batch_size, journal=journal,
                    ).save(path)  # fmt: skip

            run.folder.unit(file, make)


def evaluate_replies(run: Run) -> None:
    """Judge the test replies and score their fluency; write the tables."""
    for label, _ in decodings(run):
        for name in METHODS:

            def scores(path: Path, label: str = label, name: str = name) -> None:
                replies = Replies.load(run.folder.file(replies_file(label, name)))
                save_scores(path, evaluate(replies, run.judge, run.question).scores)

            def text(path: Path, label: str = label, name: str = name) -> None:
                replies = Replies.load(run.folder.file(replies_file(label, name)))
                held = fluency(run.model, replies, wording=run.settings.wording, batch_size=run.settings.batch_size)
                write_json(path, asdict(held))

            run.folder.unit(f"evaluate/{label}/{_slug(name)}.scores.jsonl", scores)
            run.folder.unit(f"evaluate/{label}/{_slug(name)}.fluency.json", text)
        run.folder.unit(
            f"evaluate/{label}.parquet", lambda p, l=label: artefacts.save_frame(p, comparison(run, l).table())
        )
        run.folder.unit(
            f"evaluate/{label}-by-emotion.parquet",
            lambda p, l=label: artefacts.save_frame(p, comparison(run, l).by_emotion()),
        )


def comparison(run: Run, label: str = "greedy") -> Comparison:
    """The compared methods, from what the stages wrote."""
    from emotion_circuits.evaluation import Evaluation, Fluency

    evaluations, fluencies = {}, {}
    for name in METHODS:
        replies = Replies.load(run.folder.file(replies_file(label, name)))
        base = f"evaluate/{label}/{_slug(name)}"
        scores = load_scores(run.folder.file(f"{base}.scores.jsonl"))
        evaluations[name] = Evaluation(replies, scores, run.judged_by, run.question)
        held = run.folder.file(f"{base}.fluency.json")
        fluencies[name] = build(Fluency, held, read_json(held))
    return Comparison(evaluations, fluencies, provenance=_compared_by(run, label))


def _compared_by(run: Run, label: str) -> dict[str, Any]:
    prompts, config = run.test.prompts(), run.config(dict(decodings(run))[label])
    settings = {"judge": run.judged_by, "question": run.question, "emotions": list(run.emotions), **asdict(config)}
    made_by = {"n_prompts": len(prompts), "prompts_sha256": prompts_hash(prompts), "settings": settings}
    return {**run.directions().provenance, **made_by}


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


def replies_file(label: str, name: str) -> str:
    """Where a method's replies to the test items are kept."""
    return f"generate/{label}/{_slug(name)}.jsonl"


def _slug(name: str) -> str:
    return name.replace(" - ", "-minus-").replace(" ", "-")
