"""What CONTRIBUTING.md promises: a new language is one file, a new judge one line, a new tiny model one entry."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest
import tiny

from emotion_circuits.data import instructions
from emotion_circuits.data.labels import LabelSet
from emotion_circuits.errors import DataError
from emotion_circuits.evaluation.judges import LexiconJudge
from emotion_circuits.pipeline import judging


def test_a_language_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(instructions.__file__)
    shutil.copy(source, tmp_path)
    shutil.copytree(source.with_suffix(""), tmp_path / "instructions")
    (tmp_path / "instructions" / "aa.yaml").write_text(
        "language: Afar\nlength_rule: two.\nwords: {anger: rage}\nstyles: {named: 'Say {emotion}.'}\n"
    )
    spec = importlib.util.spec_from_file_location("copied_instructions", tmp_path / source.name)
    assert spec is not None
    assert spec.loader is not None
    copied = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, copied)
    spec.loader.exec_module(copied)
    assert list(copied.LANGUAGES) == ["en", "aa", *instructions.LANGUAGES[1:]]
    assert copied.Wording.load("aa").instruction("anger") == "Say rage.\ntwo."


def test_a_judge_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Toy(LexiconJudge):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    labels = LabelSet.load("ekman")
    with pytest.raises(DataError, match=r"no judge is called 'toy'; use lexicon, .* or self$"):
        judging.check_name("toy")
    monkeypatch.setitem(judging.JUDGES, "toy", lambda wanted: Toy("toy"))
    monkeypatch.setitem(judging.JUDGES, "toys:NAME", lambda wanted: Toy(f"toy {wanted.what}"))
    judging.check_name("toy")
    made = [judging.judge_of(name, labels, pytest.fail).name for name in ("toy", "toys:a:b")]
    assert made == ["toy", "toy a:b"]
    for wrong in ("toy:", "toy:a", "toys", "toys:", "", ":", "lexicon:x", "classifier"):
        with pytest.raises(DataError, match=r"use lexicon, .*, toy or toys:NAME"):
            judging.check_name(wrong)


def test_a_tiny_model_is_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}
    asks = SimpleNamespace(
        fixturenames=["any_model", "plain_model"],
        parametrize=lambda name, values, indirect: given.update({name: values}),
    )
    monkeypatch.setitem(tiny.ARCHITECTURES, "new", tiny.ARCHITECTURES["qwen2"])
    conftest.pytest_generate_tests(asks)  # type: ignore[arg-type]
    assert given["any_model"] == list(tiny.ARCHITECTURES)
    assert set(given["any_model"]) - set(given["plain_model"]) == {"gemma2", "gemma3"}
