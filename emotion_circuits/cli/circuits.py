"""Commands that look at saved circuits: ``circuit compare``, ``circuit metrics``, ``circuit export``, and ``bake``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from emotion_circuits.cli import options as o
from emotion_circuits.cli import output

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


def metrics(
    circuit: CircuitFile,
    run: RunOption = Path("runs/demo"),
    n_random: Annotated[int, typer.Option("--random", min=0, help="Random circuits beside it.")] = 20,
    n_shuffled: Annotated[int, typer.Option("--shuffled", min=0, help="Circuits of shuffled labels beside it.")] = 3,
    trust_remote_code: o.TrustRemoteCode = False,
    json: o.Json = False,
) -> None:
    """Faithfulness and completeness on the test scenarios, beside random circuits and circuits of shuffled labels."""
    import pandas as pd

    from emotion_circuits.circuits import Circuit, Controls, completeness, faithfulness, shuffled_scores
    from emotion_circuits.interventions import MeanAblation
    from emotion_circuits.pipeline import load_run

    opened = load_run(run, trust_remote_code=trust_remote_code)
    rows = []
    with output.progress_bars(json):
        loaded = Circuit.load(circuit, opened.model)
        means = opened.attributions()[loaded.emotion].means
        assert means is not None, "attributions of a run hold means"
        target, ablation = opened.directions().target(loaded.emotion), MeanAblation(means)
        accepted = opened.evaluation().accepted() if n_shuffled else ()
        shuffled = shuffled_scores(opened.model, accepted, loaded.emotion, opened.preset.ranking, n=n_shuffled)
        controls = Controls(n_random, shuffled, opened.settings.seed)
        for metric in (faithfulness, completeness):
            rows.append(metric(opened.model, loaded, opened.test, target, ablation, controls=controls).to_frame())
    table = pd.concat(rows, ignore_index=True)
    title = f"{loaded!r}, under {table['ablation'][0]}, {table['n_samples'][0]} prompts"
    shown = table if json else table.drop(columns=["ablation", "n_nodes", "n_samples"])
    output.print_frame(shown, title, as_json=json)


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
    trust_remote_code: o.TrustRemoteCode = False,
) -> None:
    """Write a plain Llama checkpoint that holds the modulation as biases: no hooks, served by anything."""
    from emotion_circuits.circuits import Circuit
    from emotion_circuits.errors import PatchError
    from emotion_circuits.interop import bake as write_checkpoint
    from emotion_circuits.interventions import Enhancement
    from emotion_circuits.pipeline import load_run

    opened = load_run(run, trust_remote_code=trust_remote_code)
    loaded = Circuit.load(circuit, opened.model)
    if loaded.contrast is None or phase not in ("prompt", "reply"):
        raise PatchError(f"{circuit} has no contrast, or phase {phase!r} is neither 'prompt' nor 'reply'")
    path = write_checkpoint(opened.model, loaded, Enhancement(loaded.contrast, strength), folder, phase=phase)
    output.console.print(f"written: {path}", highlight=False, soft_wrap=True)
