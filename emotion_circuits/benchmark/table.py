"""The discovery benchmark's table: one row per method, the splits of the grid side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (("node", "recall", "recall"), ("node", "average_precision", "AP"), ("edge", "recall", "edge recall"))
"""Kind, measure, and what a column is called."""


def side_by_side(table: pd.DataFrame, by: str = "half") -> pd.DataFrame:
    """What `summary` gave as text: ``value [low, high]`` of every measure, for every value of one column.

    Methods that score heads alone come last, with their heads' scores.

    Args:
        table: of `summary`, split by ``by`` alone.
        by: the column.

    Returns:
        One row per method, in the order of the first split's recall.
    """
    import pandas as pd

    # Low noise comes first, and orders the methods.
    splits, cells = list(dict.fromkeys(table[by]))[::-1], _cells(table, by)
    nodes: Any = table[table["kind"] == "node"]
    nodes = nodes.sort_values("recall", ascending=False, kind="stable")
    best = dict.fromkeys([*nodes[nodes[by] == splits[0]]["method"], *nodes["method"]])
    heads_only = [name for name in dict.fromkeys(table["method"]) if name not in best]
    rows: list[dict[str, Any]] = []
    for method in (*best, *heads_only):
        kind = "head" if method in heads_only else "node"
        row = {"method": f"{method} (heads only)" if kind == "head" else method}
        for split in splits:
            for of, measure, title in COLUMNS:
                shown = cells.get((split, kind if of == "node" else of, method, measure), "")
                row[f"{title}, {split}"] = shown
        rows.append(row)
    return pd.DataFrame(rows)


def ladder_table(table: pd.DataFrame, order: Sequence[str], methods: Sequence[str] | None = None) -> pd.DataFrame:
    """What `summary` gave for the ladder, as text: ``recall / average precision``, one row per difficulty.

    Args:
        table: of `summary`, split by ``"difficulty"``.
        order: of the difficulties.
        methods: which; all that score both kinds of node by default.
    """
    import pandas as pd

    held: Any = table[(table["kind"] == "node") & table["average_precision"].notna()]
    chosen = list(methods or dict.fromkeys(held["method"]))
    shown = {
        (row["difficulty"], row["method"]): f"{row['recall']:.2f} / {row['average_precision']:.2f}"
        for row in held.to_dict("records")
    }
    rungs = [rung for rung in order if any((rung, method) in shown for method in chosen)]
    return pd.DataFrame([{"difficulty": rung} | {m: shown.get((rung, m), "") for m in chosen} for rung in rungs])


def _cells(table: pd.DataFrame, by: str) -> dict[tuple, str]:
    cells = {}
    for row in table.to_dict("records"):
        for measure in ("recall", "average_precision"):
            value, low, high = (row[f"{measure}{end}"] for end in ("", "_low", "_high"))
            if value == value:
                cells[row[by], row["kind"], row["method"], measure] = f"{value:.2f} [{low:.2f}, {high:.2f}]"
    return cells


def to_markdown(table: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
