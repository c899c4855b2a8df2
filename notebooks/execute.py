"""``python -m notebooks.execute [name ...]``: run the notebooks on the demo model, in place, keeping their outputs.

Each runs in an empty folder. Figures become pictures, which any viewer shows. What changes from run to run without
saying anything (times, widget ids) is not kept, so that a diff shows what changed. A notebook that says ``not run`` in
its metadata is left alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def main() -> int:
    """Run them and print the time of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of file names; all by default")
    names = tuple(parser.parse_args().names)
    # The demo model's matrices are too small to share: threads would wait for each other more than they work.
    os.environ |= {"HF_HUB_OFFLINE": "1", "PLOTLY_RENDERER": "png", "OMP_NUM_THREADS": "1"}
    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and not path.name.startswith(names):
            continue
        start = time.perf_counter()
        ran = execute(path)
        print(f"{path.name}: {f'{time.perf_counter() - start:.1f} s' if ran else 'not run'}", flush=True)
    return 0


def execute(path: Path) -> bool:
    """Run one notebook and write it back; False if it is marked as one that cannot be run here."""
    notebook = nbformat.read(path, as_version=4)
    if notebook.metadata.get("emotion_circuits") == "not run":
        return False
    with tempfile.TemporaryDirectory() as empty:
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": empty}})
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_noise(output)]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)
    return True


def _is_noise(output: nbformat.NotebookNode) -> bool:
    """Whether this is a progress bar or a warning of a library below."""
    is_bar = "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    return is_bar or (output.output_type == "stream" and output.name == "stderr")


if __name__ == "__main__":
    sys.exit(main())
