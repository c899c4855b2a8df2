"""What the command line prints: tables and progress on a terminal, or JSON for other programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from emotion_circuits.evaluation import Comparison

# No markup: results hold names of files, models and labels, in which brackets and colons are nothing but themselves.
console = Console(markup=False, emoji=False)
errors = Console(stderr=True, emoji=False)


@contextmanager
def progress_bars(quiet: bool) -> Iterator[None]:
    """Show progress bars on a terminal, unless ``quiet``; keeps the libraries below from talking in between."""
    import logging
    import os

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging as transformers_logging

    from emotion_circuits.progress import shown

    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if quiet:
        yield
    else:
        with shown(errors):
            yield


def print_frame(frame: pd.DataFrame, title: str, *, as_json: bool = False) -> None:
    """A data frame as a table, or as JSON records."""
    if as_json:
        console.print_json(frame.to_json(orient="records") or "[]")
        return
    table = Table(title=title, title_justify="left")
    for column in frame.columns:
        table.add_column(str(column), justify="right" if frame[column].dtype.kind in "fiu" else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row))
    console.print(table)


def print_comparison(comparison: Comparison, title: str) -> None:
    """The tables that a run ends with: accuracy with intervals, fluency and topic; then accuracy by emotion."""
    methods = Table(title=title, title_justify="left", **_TIGHT)
    for column in ("method", "accuracy [95 %]", "neutral", "unscored", "ppl", "topic"):
        methods.add_column(column, justify="left" if column == "method" else "right")
    for row in comparison.table().to_dict("records"):
        accuracy = f"{_percent(row['accuracy'])} [{_percent(row['low'])}, {_percent(row['high'])}]"
        methods.add_row(
            str(row["method"]), accuracy, _percent(row["neutral"]), str(row["unscored"]),
            f"{row['perplexity']:.2f}", _percent(row["on_topic"]),
        )  # fmt: skip
    console.print(methods)
    by_emotion = comparison.by_emotion()
    emotions = [e for e in dict.fromkeys(by_emotion["emotion"]) if e != "overall"]
    each = Table(title="accuracy by emotion, %", title_justify="left", **_TIGHT)
    for column in ("method", *emotions):
        each.add_column(column, justify="left" if column == "method" else "right")
    for method, part in by_emotion.groupby("method", sort=False):
        values = dict(zip(part["emotion"], part["accuracy"], strict=True))
        each.add_row(str(method), *(_percent(values[e]) for e in emotions))
    console.print(each)
    console.print(_EXPLANATION, style="dim", highlight=False)


# The tables fit into 80 columns.
_TIGHT: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1), "pad_edge": False, "collapse_padding": True}
_EXPLANATION = """\
accuracy: share of scored replies in %, strict question, Wilson interval.
ppl: perplexity under the unmodulated model, after the prompt that asks for
the emotion. topic: share of replies that mention their scenario."""


def print_costs(comparison: Comparison, reference: str) -> None:
    """What methods cost: the text, and what has nothing to do with emotion."""
    costs = Table(title="what it costs", title_justify="left", **_TIGHT)
    for column in ("method", "p", "dist2", "rep", "words", "lang", "KL", "same", "answers"):
        costs.add_column(column, justify="left" if column == "method" else "right")
    for row in comparison.table(reference).to_dict("records"):
        costs.add_row(
            str(row["method"]), _p_value(row["p"]), f"{row['distinct_2']:.2f}", _percent(row["repetition"]),
            f"{row['n_words']:.1f}", _percent(row["in_language"]), f"{row['kl']:.3f}", _percent(row["same_token"]),
            f"{_percent(row['answered'])} {100 * row['answered_change']:+.1f}",
        )  # fmt: skip
    console.print(costs)
    n = next(iter(comparison.side_effects.values()))
    console.print(
        _COSTS.format(reference=reference, requests=n.n_requests, questions=n.n_questions), style="dim", highlight=False
    )


_COSTS = """\
p: McNemar's exact test of accuracy against {reference}, same items.
dist2, rep: distinct-2; % of words that repeat one of the three before.
lang: % of replies in the language wanted. KL (nats per token) and same (% of
tokens with the same first choice): against the unmodulated model, on {requests}
unrelated requests. answers: % of {questions} plain questions answered, and the
change from the unmodulated model."""


def _p_value(p: float) -> str:
    return "" if p != p else "<0.001" if p < 0.001 else f"{p:.3f}"


def comparison_json(comparison: Comparison, reference: str | None = None) -> str:
    """Both tables as JSON."""
    tables = {"methods": comparison.table(reference), "by_emotion": comparison.by_emotion()}
    return json.dumps(
        {name: json.loads(frame.to_json(orient="records") or "[]") for name, frame in tables.items()}, indent=2
    )


def _percent(value: Any) -> str:
    return f"{100 * float(value):.1f}"
