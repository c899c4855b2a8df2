"""``python -m benchmarks.regressions BASELINE NOW``: what got slower, in Markdown; exit code 1 if anything did.

A benchmark that has no result now got worse too: it crashed.

Ratios are compared, not times: each was measured against a rival in the same run, so that it does not depend on the
machine as times do. They are still noisy, so only a loss of more than a quarter counts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

TOLERANCE = 0.25


def main() -> int:
    """Print the table; 1 if a ratio got worse by more than the tolerance or a target is no longer met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("baseline", type=Path)
    parser.add_argument("now", type=Path)
    options = parser.parse_args()
    before, now = _read(options.baseline), _read(options.now)
    rows = [_row(name, before.get(name), now.get(name)) for name in sorted(before | now)]
    worse = [row for row in rows if row[-1]]
    print(
        f"### Benchmarks: {len(worse)} of {len(rows)} got worse\n" if worse else "### Benchmarks: nothing got worse\n"
    )
    print("| benchmark | baseline | now | target | |\n|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return int(bool(worse))


def _row(name: str, before: dict[str, Any] | None, now: dict[str, Any] | None) -> tuple[str, ...]:
    if before is None or now is None:
        held = before or now or {}
        return name, _number(before), _number(now), held["target"], "missing now" if now is None else ""
    # A target like "<= 1.15" means that less is better.
    change = now["ratio"] / before["ratio"]
    loss = change - 1 if now["target"].startswith("<") else 1 - change
    verdict = "target missed" if before["met"] and not now["met"] else "worse" if loss > TOLERANCE else ""
    return name, _number(before), _number(now), now["target"], verdict


def _number(result: dict[str, Any] | None) -> str:
    return "–" if result is None else f"{result['ratio']:.3g}"


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    held = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    # `benchmarks.load`, which is run by hand, keeps counts there and no ratio.
    return {name: result for name, result in held.items() if "ratio" in result}


if __name__ == "__main__":
    raise SystemExit(main())
