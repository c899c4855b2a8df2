"""Make the pictures of the README and the documentation from a finished run: ``make figures``."""

from __future__ import annotations

import sys
from pathlib import Path

from emotion_circuits import plots
from emotion_circuits.pipeline import Settings, comparison, read_manifest, run_pipeline

IMAGES = Path(__file__).parent / "images"


def main(folder: str) -> None:
    """Write every picture of the run in ``folder``."""
    settings = read_manifest(folder)["settings"]
    run = run_pipeline(Settings(**(settings | {"emotions": tuple(settings["emotions"])})), folder)
    IMAGES.mkdir(exist_ok=True)
    circuits, attributions = run.circuits(), run.attributions()
    first = run.emotions[0]
    figures = {
        "accuracy": plots.accuracy_bars(comparison(run)),
        "circuit": plots.circuit_graph(circuits[first]),
        "long_tail": plots.neuron_long_tail(attributions[first]),
        "influence": plots.influence_profile(run.influence()),
        "overlap": plots.overlap_matrix(circuits),
    }
    for name, figure in figures.items():
        plots.save_figure(figure, IMAGES / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
