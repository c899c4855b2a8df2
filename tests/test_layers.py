"""The package's shape: imports go down only, importing is cheap, and the library is silent."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import emotion_circuits

ROOT = Path(emotion_circuits.__file__).parent
# design.md's picture, except that `pipeline` stands beside `report`, since a run ends with one. A longer name goes
# before a shorter one. `demo` makes the model that ships; the wrapper knows its folder.
LEVELS = {
    "types": 0, "errors": 0, "intervals": 0, "progress": 0, "artefacts": 0, "distributed": 0,
    "checked": 0, "records": 0, "endpoint": 0,
    "nodes": 1, "activations": 1, "interventions": 1, "data": 1, "replies": 1, "provenance": 1, "journal": 1,
    "model": 2, "demo": 2,
    "elicitation": 3, "directions": 3, "targets": 3, "measurement": 3, "tracing": 3, "attribution": 3, "generation": 3,
    "evaluation.judges": 3, "planted": 3, "backends": 3,
    "circuits": 4, "presets": 4, "control": 4, "evaluation": 4, "benchmark": 4, "affect": 4,
    "cli": 5, "__main__": 5, "planning": 4, "pipeline": 5, "report": 5, "explorer": 5, "plots": 5,
    "interop": 5,
}  # fmt: skip
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def level(module: str) -> int:
    for name in sorted(LEVELS, key=len, reverse=True):
        if module == name or module.startswith(f"{name}."):
            return LEVELS[name]
    raise AssertionError(f"module {module} has no level; give it one in LEVELS, as low as it can be")


def imports(path: Path) -> set[str]:
    """Modules of this package that ``path`` imports when it is run; not those for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "emotion_circuits":
            package = (node.module or "").removeprefix("emotion_circuits").lstrip(".")
            for alias in node.names:
                longer = f"{package}.{alias.name}".lstrip(".")
                place = ROOT / longer.replace(".", "/")
                found.add(longer if place.with_suffix(".py").exists() or place.is_dir() else package)
        elif isinstance(node, ast.Import):
            found |= {
                a.name.removeprefix("emotion_circuits.") for a in node.names if a.name.startswith("emotion_circuits.")
            }
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: imports are absolute"
    return found - {""}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    mine = name_of(path)
    wrong = {other for other in imports(path) if level(other) > level(mine)}
    assert not wrong, f"{mine} (level {level(mine)}) imports {', '.join(sorted(wrong))} from above"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_library_is_silent(path: Path) -> None:
    if name_of(path).split(".")[0] in ("cli", "__main__"):
        return
    calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    assert not [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]


def test_only_the_wrapper_knows_transformer_lens() -> None:
    for path in MODULES:
        if name_of(path).split(".")[0] != "model":
            assert not [
                n.lineno for n in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("transformer_lens")
            ], path  # fmt: skip


def run(code: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env, cwd=ROOT.parent
    ).stdout


def test_import_is_cheap() -> None:
    code = (
        "import sys, time; start = time.process_time(); import emotion_circuits;"
        "print(time.process_time() - start);"
        "print(sorted({'torch', 'transformers', 'transformer_lens', 'pandas', 'plotly'} & set(sys.modules)))"
    )
    outputs = [run(code).splitlines() for _ in range(3)]
    assert min(float(seconds) for seconds, _ in outputs) < 0.3
    assert {loaded for _, loaded in outputs} == {"[]"}


def test_a_judge_needs_no_torch() -> None:
    code = "import sys, emotion_circuits as ec; ec.LexiconJudge()(['I am furious']); print('torch' in sys.modules)"
    assert run(code).split() == ["False"]


def test_every_name_of_the_inventory_is_there() -> None:
    for name in emotion_circuits.__all__:
        assert getattr(emotion_circuits, name) is not None
    assert set(emotion_circuits.__all__) <= set(dir(emotion_circuits))
    with pytest.raises(AttributeError):
        emotion_circuits.no_such_name  # noqa: B018
