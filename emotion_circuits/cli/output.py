"""What the command line prints: tables and progress on a terminal, or JSON for other programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from emotion_circuits.evaluation import Comparison

console = Console()
errors = Console(stderr=True)


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
        console.print_json(frame.to_json(orient="records"))
        return
    table = Table(title=title, title_justify="left")
    for column in frame.columns:
        table.add_column(str(column), justify="right" if frame[column].dtype.kind in "fiu" else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row))
    console.print(table)


def print_comparison(comparison: Comparison, title: str) -> None:
    """The table that a run ends with: accuracy by emotion with intervals, fluency, topic."""
    table = Table(title=title, title_justify="left", caption=_CAPTION, caption_justify="left")
    by_emotion = comparison.by_emotion()
    emotions = [e for e in dict.fromkeys(by_emotion["emotion"]) if e != "overall"]
    table.add_column("method")
    for name in ("accuracy [95 %]", *emotions, "neutral", "unscored", "perplexity", "on topic"):
        table.add_column(name, justify="right")
    for row in comparison.table().to_dict("records"):
        part = by_emotion[by_emotion["method"] == row["method"]].set_index("emotion")
        cells = [f"{100 * _number(part.loc[e, 'accuracy']):.0f}" for e in emotions]
        overall = f"{_percent(row['accuracy'])} [{_percent(row['low'])}, {_percent(row['high'])}]"
        shares = (_percent(row["neutral"]), str(int(row["unscored"])))
        table.add_row(
            str(row["method"]), overall, *cells, *shares, f"{row['perplexity']:.2f}", _percent(row["on_topic"])
        )
    console.print(table)


_CAPTION = (
    "Accuracy in % of scored replies, strict question, Wilson intervals. Perplexity under the unmodulated model, after\n"
    "the prompt that asks for the emotion. On topic: replies that mention their scenario."
)


def comparison_json(comparison: Comparison) -> str:
    """Both tables as JSON."""
    tables = {"methods": comparison.table(), "by_emotion": comparison.by_emotion()}
    return json.dumps({name: json.loads(frame.to_json(orient="records")) for name, frame in tables.items()}, indent=2)


def _percent(value: Any) -> str:
    return f"{100 * float(value):.1f}"


def _number(value: Any) -> float:
    return float(value)
