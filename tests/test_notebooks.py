"""The notebooks are short, were run from top to bottom, and kept what they showed; `make notebooks` runs them."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*.ipynb"))]


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_eight() -> None:
    assert len(NOTEBOOKS) == 8


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_notebook_is_short_and_begins_with_what_it_is_about(path: Path) -> None:
    assert len(code_cells(path)) < 15
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_outputs_are_kept_and_hold_no_error_and_no_place_of_a_machine(path: Path) -> None:
    cells, text = code_cells(path), path.read_text(encoding="utf-8")
    ran = nbformat.read(path, as_version=4).metadata.get("emotion_circuits") != "not run"
    assert ran == any(cell.outputs for cell in cells)
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    if ran:
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert "/home/" not in text
    assert "/tmp/" not in text
