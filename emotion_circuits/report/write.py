"""Writing the report: results in, one HTML file out.

1. Tables, headline, sample replies and figures are made from the results (`tables`, `headline`, `replies`, `figures`).
2. A Jinja2 template with autoescape sets them: whatever a model wrote is text, never markup.
3. Style sheet, script and Plotly are put into the page itself; a content security policy forbids the page every
   request, so that it works, and says the same, offline and years later.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from emotion_circuits.artefacts import write_text
from emotion_circuits.plots.themes import DARK, LIGHT, SANS, THEMES, label_looks, style_of
from emotion_circuits.report import tables
from emotion_circuits.report.data import ReportData
from emotion_circuits.report.figures import all_figures
from emotion_circuits.report.headline import headline
from emotion_circuits.report.replies import MAX_ITEMS, n_items, sample_replies

_PACKAGE = "emotion_circuits.report"


def write_report(path: str | Path, run: ReportData) -> Path:
    """Write a run as one HTML file that needs nothing else.

    Args:
        path: the file; its folder must exist.
        run: the results.

    Returns:
        The path.

    Raises:
        ArtefactError: the file cannot be written.
    """
    write_text(path, render_report(run))
    return Path(path)


def render_report(run: ReportData) -> str:
    """The report's HTML."""
    # An emotion looks the same wherever it appears on the page.
    with label_looks(run.emotions, run.colours):
        results, figures = _results(run), all_figures(run)
    return _environment().get_template("report.html.j2").render(
        run=run, **_page(), **results, figures=figures, headline=headline(run.comparison),
        settings=tables.setting_rows(run.settings), provenance=tables.setting_rows(run.directions.provenance),
        timings=tables.timing_rows(run.timings),
    )  # fmt: skip


def _page() -> dict[str, Any]:
    """What every report has: looks and behaviour."""
    return {
        "style": _style(), "script": _static("report.js"), "plotly": Markup(get_plotlyjs()),
        "swaps": THEMES["dark"].swaps(),
    }  # fmt: skip


def _results(run: ReportData) -> dict[str, Any]:
    """Tables, replies and the few numbers that stand in the text."""
    return {
        "comparisons": _comparisons(run), "replies": sample_replies(run.comparison),
        "n_items": n_items(run.comparison), "n_shown": MAX_ITEMS, "methods": list(run.comparison.evaluations),
        "judge": next(iter(run.comparison.evaluations.values()), None),
        "nodes": {e: tables.node_rows(c, run.stability.get(e)) for e, c in run.circuits.items()},
        "summaries": {e: tables.layer_summary(c) for e, c in run.circuits.items()},
        "stabilities": {e: tables.stability_summary(run.circuits[e], s) for e, s in run.stability.items()},
        "stable": run.directions.stable_layers(), "split_half": float(run.directions.split_half.mean()),
        "quality": tables.quality_rows(run.directions.quality),
        "calibrations": {kind: tables.calibration_rows(held) for kind, held in run.calibrations.items()},
        "dots": {e: _dot(e) for e in run.emotions},
    }  # fmt: skip


def _dot(emotion: str) -> str:
    """An emotion's colour: the style sheet's variable, which is another one in the dark, or a colour of its own."""
    colour = style_of(emotion).colour
    return f"var(--emotion-{LIGHT.emotions.index(colour)})" if colour in LIGHT.emotions else colour


def _comparisons(run: ReportData) -> list[dict[str, Any]]:
    """The greedy comparison, and the sampled one if there is one."""
    held = [("greedy", "Greedy decoding", run.comparison)]
    if run.sampled is not None:
        held.append(("sampled", f"Sampled at temperature {run.temperature:g}", run.sampled))
    result = []
    for key, name, comparison in held:
        emotions, by_emotion = tables.emotion_rows(comparison)
        result.append(
            {"key": key, "name": name, "rows": tables.method_rows(comparison), "emotions": emotions,
             "by_emotion": by_emotion}
        )  # fmt: skip
    return result


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(_PACKAGE, "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["script"] = _in_script
    environment.filters["number"] = _number
    return environment


def _static(name: str) -> Markup:
    return Markup(files(_PACKAGE).joinpath("static", name).read_text(encoding="utf-8"))


def _style() -> Markup:
    """The style sheet, after the figures' colours as variables for light and dark."""

    def variables(palette) -> str:
        named = {k: getattr(palette, k) for k in ("ink", "muted", "grid", "surface", "low", "high")}
        named |= {f"emotion-{i}": colour for i, colour in enumerate(palette.emotions)}
        named["circuit"] = palette.methods[3]
        return "".join(f"--{k}:{v};" for k, v in named.items())

    light, dark = variables(LIGHT), variables(DARK)
    head = f":root{{{light}--sans:{SANS};}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    return Markup(head) + _static("report.css")


def _number(value: float | int, digits: int = 1) -> str:
    return "–" if value != value else f"{value:,.{digits}f}"


def _in_script(text: str) -> Markup:
    """JSON that can stand inside a script element: nothing in it can end the element."""
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return Markup(text.translate(str.maketrans(escapes)))
