"""A benchmark that crashes is not one that misses its target, and never one that got no worse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as command
from benchmarks import regressions


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the fake benchmarks report, by name."""
    reported: list[str] = []

    def fake(name: str) -> SimpleNamespace:
        def run(n_pairs: int):
            if name == "growth":
                raise ZeroDivisionError(name)
            yield SimpleNamespace(met=name != "patching", report=lambda: reported.append(name))

        return SimpleNamespace(run=run)

    monkeypatch.setattr(command.importlib, "import_module", lambda name: fake(name.removeprefix("benchmarks.")))
    return reported


@pytest.mark.parametrize(
    ("names", "code", "expected"),
    [
        ("head_table plan", 0, ["head_table", "plan"]),
        ("patching plan", 3, ["patching", "plan"]),
        ("growth patching", 1, ["patching"]),
    ],
)
def test_exit_codes(names: str, code: int, expected: list[str], outcomes, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--threads", "1", *names.split()])
    assert command.main() == code
    assert outcomes == expected
    assert ("growth: CRASHED" in capsys.readouterr().out) == (code == 1)


@pytest.mark.parametrize(
    ("ratios", "code", "words"),
    [
        ({"a": 2.0, "b": 1.0}, 0, "nothing got worse"),
        ({"a": 1.4, "b": 1.0}, 1, "| a | 2 | 1.4 | >= 1 | worse |"),
        ({"b": 1.0}, 1, "| a | 2 | – | >= 1 | missing now |"),
        ({}, 1, "2 of 2 got worse"),
    ],
)
def test_what_got_worse(ratios, code: int, words: str, tmp_path: Path, monkeypatch, capsys) -> None:
    for folder, held in (("before", {"a": 2.0, "b": 1.0}), ("now", ratios)):
        (tmp_path / folder).mkdir()
        for name, ratio in held.items():
            content = {"ratio": ratio, "target": ">= 1" if name == "a" else "<= 1.5", "met": True}
            (tmp_path / folder / f"{name}.json").write_text(json.dumps(content))
    # `benchmarks.load` is run by hand, and keeps no ratio.
    (tmp_path / "before" / "load.json").write_text('{"stages": [], "killed": 10}')
    monkeypatch.setattr(sys, "argv", ["regressions", str(tmp_path / "before"), str(tmp_path / "now")])
    assert regressions.main() == code
    assert words in capsys.readouterr().out
