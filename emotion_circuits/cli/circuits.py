"""Commands that look at saved circuits: ``circuit compare``, ``circuit metrics``, ``circuit export``, and ``bake``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emotion_circuits.cli import options as o
from emotion_circuits.cli import output

if TYPE_CHECKING:
    from emotion_circuits.pipeline import Run

CircuitFile = Annotated[Path, typer.Argument(help="A saved circuit, e.g. runs/demo/circuit/anger.safetensors.")]
RunOption = Annotated[Path, typer.Option("--run", help="The run folder that the circuit belongs to.")]


class Format(StrEnum):
    """Formats of ``circuit export``."""

    csv = "csv"
    graphml = "graphml"
    mib = "mib"


def register(circuit_app: typer.Typer, app: typer.Typer) -> None:
    """Add the commands to their groups."""
    circuit_app.command("compare")(compare)
    circuit_app.command("metrics")(metrics)
    circuit_app.command("export")(export)
    app.command("bake")(bake)


def compare(a: CircuitFile, b: CircuitFile, json: o.Json = False) -> None:
    """How much two circuits share: Jaccard by kind and layer, shared core, rank correlation."""
    from emotion_circuits.circuits import Circuit, compare_circuits

    result = compare_circuits(Circuit.load(a), Circuit.load(b))
    output.print_frame(result.to_frame(), f"{a.stem} and {b.stem}", as_json=json)


def metrics(circuit: CircuitFile, run: RunOption = Path("runs/demo"), json: o.Json = False) -> None:
    """Faithfulness and completeness on the test scenarios, beside random circuits of the same make-up."""
    import pandas as pd

    from emotion_circuits.circuits import Circuit, completeness, faithfulness
    from emotion_circuits.interventions import MeanAblation

    opened = _opened(run)
    loaded = Circuit.load(circuit, opened.model)
    means = opened.attributions()[loaded.emotion].means
    assert means is not None, "attributions of a run hold means"
    target, ablation = opened.directions().target(loaded.emotion), MeanAblation(means)
    rows = []
    with output.progress_bars(json):
        for name, metric in (("faithfulness", faithfulness), ("completeness", completeness)):
            score = metric(opened.model, loaded, opened.test, target, ablation)
            rows.append(score.to_frame().assign(metric=name))
    output.print_frame(pd.concat(rows, ignore_index=True), repr(loaded), as_json=json)


def export(
    circuit: CircuitFile,
    to: Annotated[Path, typer.Argument(help="The file to write.")],
    form: Annotated[Format, typer.Option("--format", help="Table, graph, or MIB's circuit JSON.")] = Format.csv,
) -> None:
    """Write a circuit for other tools."""
    from emotion_circuits import interop
    from emotion_circuits.circuits import Circuit

    write = {"csv": interop.write_csv, "graphml": interop.write_graphml, "mib": interop.write_mib_json}[form.value]
    write(Circuit.load(circuit), to)
    output.console.print(f"written: {to}", highlight=False, soft_wrap=True)


def bake(
    circuit: CircuitFile,
    folder: Annotated[Path, typer.Argument(help="Where the checkpoint goes.")],
    run: RunOption = Path("runs/demo"),
    strength: Annotated[float, typer.Option(help="How often the contrast is added.")] = 0.5,
    phase: Annotated[str, typer.Option(help="Which part of the contrast: prompt or reply.")] = "reply",
) -> None:
    """Write a plain Llama checkpoint that holds the modulation as biases: no hooks, served by anything."""
    from emotion_circuits.circuits import Circuit
    from emotion_circuits.errors import PatchError
    from emotion_circuits.interop import bake as write_checkpoint
    from emotion_circuits.interventions import Enhancement

    opened = _opened(run)
    loaded = Circuit.load(circuit, opened.model)
    if loaded.contrast is None or phase not in ("prompt", "reply"):
        raise PatchError(f"{circuit} has no contrast, or phase {phase!r} is neither 'prompt' nor 'reply'")
    path = write_checkpoint(opened.model, loaded, Enhancement(loaded.contrast, strength), folder, phase=phase)
    output.console.print(f"written: {path}", highlight=False, soft_wrap=True)


def _opened(folder: Path) -> Run:
    """The run in ``folder``, as far as it has come; nothing is run."""
    from emotion_circuits.pipeline import Run, Settings, load_data, read_manifest
    from emotion_circuits.pipeline.folder import RunFolder

    manifest = read_manifest(folder)
    held = manifest["settings"]
    settings = Settings(**(held | {"emotions": tuple(held["emotions"])}))
    return Run(settings, RunFolder(folder, manifest), load_data(settings))
