"""README and documentation: their Python runs as it stands, their commands parse, their pictures are there.

A block marked ```python notest is not run: it needs a GPU, the hub, or a server that is not here. Blocks of one page
share their names, in order, and run in an empty folder.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import emotion_circuits as ec

ROOT = Path(__file__).resolve().parents[1]
FIRST = [ROOT / "README.md", ROOT / "docs" / "index.md"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The page's code blocks in a language, but those marked notest."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [code for name, about, code in found if name == language and "notest" not in about]


def named(pages: list[Path]):
    return [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages]


@pytest.mark.slow
@pytest.mark.parametrize("page", named([page for page in PAGES if blocks(page, "python")]))
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "__page__"}
    for number, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page.name}, block {number}", "exec"), scope)
    if page in FIRST:
        scored = ec.evaluate(scope["replies"], ec.LexiconJudge())
        assert scored.accuracy()["accuracy"].iloc[-1] >= 0.9, "the circuit that newcomers see does not control replies"


@pytest.mark.parametrize("page", named(PAGES))
def test_the_commands_of_a_page_parse(page: Path) -> None:
    import typer

    from emotion_circuits.cli.app import app

    for line in _commands(page):
        words = shlex.split(line, comments=True)[1:]
        command, name = typer.main.get_command(app), "emotion-circuits"
        # Down to the command that is meant; only the parser runs, so that no option's callback does.
        while hasattr(command, "commands") and words and words[0] in command.commands:  # type: ignore[attr-defined]
            name, *words = words
            command = command.commands[name]  # type: ignore[attr-defined]
        command.make_parser(command.context_class(command, info_name=name)).parse_args(words)


def _commands(page: Path) -> list[str]:
    lines: list[str] = []
    for language in ("sh", "bash", "console"):
        for block in blocks(page, language):
            lines += block.replace("\\\n", " ").splitlines()
    lines = [line.removeprefix("$ ").strip() for line in lines]
    return [line for line in lines if line.startswith("emotion-circuits ")]


def test_the_reference_has_every_public_name() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    modules = set(re.findall(r"^::: (\S+)", text, flags=re.MULTILINE))
    homes = {name: getattr(getattr(ec, name), "__module__", None) for name in ec.__all__}
    constants = {name for name, home in homes.items() if home is None}
    assert constants == {"EKMAN", "VALENCES"}  # of `emotion_circuits.types`
    missing = {name: home for name, home in homes.items() if home not in modules and name not in constants}
    assert not missing, f"add these modules to a page of docs/api: {missing}"


@pytest.mark.parametrize("page", named(PAGES))
def test_the_pictures_of_a_page_are_there(page: Path) -> None:
    for picture in re.findall(r"!\[[^\]]*\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / picture).is_file(), f"{picture} is missing; make it with: make figures"
