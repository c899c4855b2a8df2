"""How stable a run's circuits are: each is chosen again, by its own recipe, on resamples of the training scenarios.

The recipe and its strength were chosen once, on the validation scenarios, and are not chosen again; directions and
influence stay those of all the data. So this is the stability of the choice of nodes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from emotion_circuits.circuits.stability import Choose, Stability, stability_each
from emotion_circuits.nodes import NodeSet, NodeValues
from emotion_circuits.pipeline.run import Run


def stability_of(run: Run) -> dict[str, Stability]:
    """Selection frequencies of every circuit's nodes, computed anew from the accepted replies."""
    accepted, targets = run.evaluation().accepted(), run.directions().targets()
    choose = {emotion: _choice(run, emotion) for emotion in run.emotions}
    return stability_each(
        run.model, accepted.prompts, targets, run.preset.ranking, choose,
        seed=run.settings.seed, batch_size=run.settings.batch_size,
    )  # fmt: skip


def keep_stability(run: Run) -> None:
    """Write one file per circuit."""
    found: dict[str, Stability] = {}

    def save(path: Path, emotion: str) -> None:
        if not found:
            found.update(stability_of(run))
        found[emotion].save(path)

    for emotion in run.emotions:
        run.folder.unit(_file(emotion), lambda path, e=emotion: save(path, e))


def kept_stability(run: Run) -> dict[str, Stability]:
    """What `keep_stability` wrote."""
    return {emotion: Stability.load(run.folder.file(_file(emotion))) for emotion in run.emotions}


def _choice(run: Run, emotion: str) -> Choose:
    """The circuit's recipe, as a function of scores."""
    name = run.calibration()["circuit"][emotion]["candidate"]
    recipe = next(recipe for recipe in run.preset.choice.recipes() if recipe.name == name)
    scores, influence, contrasts = run.attributions()[emotion], run.influence(), run.all_contrasts()

    def choose(values: NodeValues) -> NodeSet:
        return recipe.build(replace(scores, values=values), influence, contrasts, run.size).nodes

    return choose


def _file(emotion: str) -> str:
    return f"circuit/stability/{emotion}.safetensors"
