"""Every example runs as it stands, in an empty folder, and is short."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("example", [pytest.param(path, id=path.stem) for path in EXAMPLES])
def test_an_example_runs(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip(), "an example shows something"


def test_examples_are_short_and_say_what_they_do() -> None:
    assert len(EXAMPLES) >= 10
    for example in EXAMPLES:
        lines = example.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith('"""'), example.name
        assert len(lines) <= 60, example.name
