"""What a run puts into its report."""

from __future__ import annotations

from typing import Any

from emotion_circuits.pipeline.run import Run
from emotion_circuits.pipeline.samples import kept_samples
from emotion_circuits.pipeline.stability import kept_stability
from emotion_circuits.pipeline.stages import comparison
from emotion_circuits.report import ReportData

DEMO_NOTE = (
    "This is the small demo model that ships with the package. It was trained on text composed for the purpose, and "
    "its training made the ranking of methods below: that ranking is no evidence about large language models."
)
RANDOM_NOTE = (
    "Random circuits have as many other neurons and heads as the circuit they stand beside, in the same layers where "
    "these have enough of them, and get the same strength."
)


def report_data(run: Run) -> ReportData:
    """Everything that the report shows, read from the run folder."""
    sampled = run.settings.temperature
    notes = [*_quality_notes(run), run.preset.choice.note, _circuit_note(run), RANDOM_NOTE]
    return ReportData(
        title=f"Emotion circuits in {run.settings.model}",
        settings=_settings(run),
        directions=run.directions(),
        attributions=run.attributions(),
        influence=run.influence(),
        circuits=run.circuits(),
        comparison=comparison(run, "greedy"),
        sampled=None if sampled is None else comparison(run, "sampled"),
        notes=[DEMO_NOTE, *notes] if run.settings.model == "demo" else notes,
        # The report stage itself is still running, and its time would change the file from run to run.
        timings={k: v["seconds"] for k, v in run.folder.manifest["stages"].items() if v["status"] == "done"},
        temperature=sampled or 0.7,
        stability=kept_stability(run),
        calibrations={kind: run.calibration_of(kind) for kind in ("circuit", "steering")},
        samples=kept_samples(run),
    )


def _quality_notes(run: Run) -> list[str]:
    """What must be said before anything else if a direction failed a test of its own reliability."""
    return [
        f"The direction of {emotion} failed a test of its own reliability ({'; '.join(flags)}). Whatever is made with "
        "it, its circuit above all, is not to be trusted."
        for emotion, flags in run.directions().quality.flagged.items()
    ]


def _circuit_note(run: Run) -> str:
    circuits = run.circuits()
    biggest = max(circuits.values(), key=lambda circuit: len(circuit.nodes))
    dims = biggest.dims
    return (
        f"The largest circuit has {biggest.nodes.n_neurons} of {dims.n_neurons:,} neurons "
        f"({100 * biggest.nodes.n_neurons / dims.n_neurons:.2f} %) and {biggest.nodes.n_heads} of "
        f"{dims.n_layers * dims.n_heads} heads."
    )


def _settings(run: Run) -> dict[str, Any]:
    calibration = run.calibration()
    chosen = {
        kind: {e: f"{p['candidate']}; strength {p['strength']:g}" for e, p in calibration[kind].items()}
        for kind in ("circuit", "steering")
    }
    manifest = run.folder.manifest
    return {
        **run.settings.identity(),
        "scenarios": {"train": len(run.train), "validation": len(run.validation), "test": len(run.test)},
        "judge": run.judged_by,
        "chosen circuit": chosen["circuit"],
        "chosen steering": chosen["steering"],
        "data": manifest["facts"],
        "versions": manifest["versions"],
    }
