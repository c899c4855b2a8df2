"""Make what the documentation shows of a finished run: ``make figures``.

Pictures for the README and the documentation, the table in the README, and the measured figures in the demo model's
card. Nothing is typed in by hand.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from emotion_circuits import plots
from emotion_circuits.cli import output
from emotion_circuits.demo import MODEL_FOLDER
from emotion_circuits.evaluation import Comparison
from emotion_circuits.pipeline import Run, comparison, load_run
from emotion_circuits.pipeline.samples import kept_samples
from emotion_circuits.pipeline.stability import kept_stability

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"


def main(folder: str) -> None:
    """Write everything from the run in ``folder``."""
    run = load_run(folder)
    write_pictures(run)
    replace_block(ROOT / "README.md", "demo-output", f"```text\n{printed(run)}\n```")
    if run.settings.model == "demo":
        replace_block(MODEL_FOLDER / "README.md", "toolkit-figures", card_tables(run))


def write_pictures(run: Run) -> None:
    """The pictures of the README and of the page on figures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    circuits, first = run.circuits(), run.emotions[0]
    figures = {
        "accuracy": plots.accuracy_bars(comparison(run)),
        "circuit": plots.circuit_graph(circuits[first]),
        "long_tail": plots.neuron_long_tail(run.attributions()[first]),
        "influence": plots.influence_profile(run.influence()),
        "overlap": plots.overlap_matrix(circuits),
        "stability": plots.stability(kept_stability(run)),
        "dose_response": plots.dose_response(run.calibration_of("circuit")),
    }
    if (samples := kept_samples(run)) is not None:
        figures["samples"] = plots.sample_projection(samples[samples["layer"] == samples["layer"].max()])
    for name, figure in figures.items():
        plots.save_figure(figure, IMAGES / f"{name}.png")


def printed(run: Run) -> str:
    """What the command line prints at the end of the run."""
    output.console = Console(record=True, width=80, file=io.StringIO())
    title = f"{run.settings.model}: {len(run.test.items)} test items x {len(run.emotions)} emotions, greedy"
    output.print_comparison(comparison(run), title)
    lines = output.console.export_text().splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def card_tables(run: Run) -> str:
    """The model card's tables: greedy and sampled, and the circuits."""
    parts = [
        f"Judge: {run.judge.name}, strict question with neutral as an answer; {len(run.test.items)} held-out items x "
        f"{len(run.emotions)} emotions. Everything was chosen on the validation scenarios. Perplexity is that of the "
        "unmodulated model after the prompt that asks for the emotion, as a multiple of the prompted replies'.",
        f"Greedy:\n\n{_table(comparison(run, 'greedy'))}",
    ]
    if run.settings.temperature is not None:
        parts.append(f"At temperature {run.settings.temperature:g}:\n\n{_table(comparison(run, 'sampled'))}")
    parts.append(_circuits(run))
    return "\n\n".join(parts)


def _table(compared: Comparison) -> str:
    by_emotion = compared.by_emotion()
    reference = compared.fluencies["prompting"].perplexity
    rows = ["| method | accuracy | 95 % interval | lowest emotion | neutral | perplexity ratio | on topic |"]
    rows.append("|---|---|---|---|---|---|---|")
    for row in compared.table().to_dict("records"):
        each = by_emotion[(by_emotion["method"] == row["method"]) & (by_emotion["emotion"] != "overall")]
        cells = (
            row["method"], _percent(row["at_least"]), f"{_percent(row['low'])} to {_percent(row['high'])}",
            _percent(min(each["at_least"])), _percent(row["neutral"]), f"{row['perplexity'] / reference:.2f}",
            _percent(row["on_topic"]),
        )  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _circuits(run: Run) -> str:
    rows = ["| emotion | neurons | heads | share of all nodes | chosen | strength |", "|---|---|---|---|---|---|"]
    chosen = run.calibration()["circuit"]
    for emotion, circuit in run.circuits().items():
        nodes, point = circuit.nodes, chosen[emotion]
        cells = (
            emotion, f"{nodes.n_neurons} of {circuit.dims.n_neurons}",
            f"{nodes.n_heads} of {circuit.dims.n_layers * circuit.dims.n_heads}", _percent(circuit.share),
            point["candidate"], f"{point['strength']:g}",
        )  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "The circuits:\n\n" + "\n".join(rows)


def replace_block(path: Path, name: str, content: str) -> None:
    """Replace what stands between ``<!-- name ... -->`` and ``<!-- end of name -->``."""
    text = path.read_text(encoding="utf-8")
    pattern = rf"(<!-- {name}[^>]*-->).*?(<!-- end of {name} -->)"
    new, n = re.subn(pattern, lambda m: f"{m[1]}\n{content}\n\n{m[2]}", text, flags=re.DOTALL)
    if n != 1:
        raise ValueError(f"{path} should have one block {name!r}, found {n}")
    path.write_text(new, encoding="utf-8")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
