"""Verify and diff of runs that are not whole, were made in another way, or hold what nobody lists."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from emotion_circuits.cli.app import app
from emotion_circuits.data.sev import SEV, load_sev
from emotion_circuits.endpoint import AnswerCache
from emotion_circuits.errors import DataError, RunError
from emotion_circuits.evaluation.judges import LexiconJudge, Score
from emotion_circuits.model import HookedModel
from emotion_circuits.pipeline import STAGES, Settings, judging, read_manifest, run_pipeline, search
from emotion_circuits.pipeline.diff import diff
from emotion_circuits.pipeline.difference import distance
from emotion_circuits.pipeline.manifest import write_manifest
from emotion_circuits.pipeline.verify import TOLERANCE, verify

SMALL = Settings(emotions=("anger", "happiness"), limit=2, max_new_tokens=8, temperature=None, size=60)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An undisturbed run, of a small search."""
    out = tmp_path_factory.mktemp("verify") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "STRENGTHS", search.Range(0.7, 1.0))
        patch.setattr(search, "PLACES", search.PLACES[:1])
        run_pipeline(SMALL, out)
        yield out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture(scope="module")
def elicited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which only replies are there, which are quickly made again."""
    out = tmp_path_factory.mktemp("verify") / "elicited"
    run_pipeline(SMALL, out, until="elicit")
    return out


def forget(out: Path, which: Callable[[str], bool], **stages: str) -> None:
    """Take files out of the manifest, but leave them where they are; set stages' statuses."""
    manifest = read_manifest(out)
    for name in filter(which, list(manifest["files"])):
        del manifest["files"][name]
    for name, status in stages.items():
        manifest["stages"][name]["status"] = status
    write_manifest(out, manifest)


# Verify


def test_only_what_the_run_has_made_is_made_again(copy: Path) -> None:
    """As after SIGKILL: a stage in which the run was killed is not done, whatever it has made."""
    later = ("generate/greedy/prompting-minus", "evaluate/", "report")
    forget(copy, lambda name: name.startswith(later), elicit="running", generate="running", evaluate="running")
    table = verify(copy).to_frame()
    assert set(table["verdict"]) == {"same"}
    assert list(dict.fromkeys(table["stage"])) == list(STAGES)[:7]  # up to generate
    assert not table["sample"].str.startswith(later).any()


def test_a_run_is_verified_with_its_own_threads_and_batches(elicited: Path, tmp_path: Path) -> None:
    out, seen = Path(shutil.copytree(elicited, tmp_path / "run")), set()
    assert read_manifest(out)["ran_with"]["threads"] == torch.get_num_threads()
    batches, before = HookedModel.batches, torch.get_num_threads()

    def watched(self: HookedModel, prompts: Any, batch_size: int | None = None, **rest: Any) -> Any:
        seen.add((torch.get_num_threads(), batch_size))
        return batches(self, prompts, batch_size, **rest)

    def verified(ran_with: Any, **given: Any) -> set[Any]:
        seen.clear()
        write_manifest(out, read_manifest(out) | {"ran_with": ran_with})
        verify(out, **given)
        assert torch.get_num_threads() == before
        return set(seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HookedModel, "batches", watched)
        assert verified({"threads": before + 1, "batch_size": 5, "device": None}) == {(before + 1, 5)}
        assert verified({"threads": before + 1, "batch_size": 5, "device": None}, batch_size=3) == {(before + 1, 3)}
        # An older run does not say, and a forged one may say anything.
        for ran_with in (None, {}, {"threads": "all", "batch_size": -1}, {"threads": 10**9, "batch_size": 1.5}):
            assert verified(ran_with) == {(before, None)}


@pytest.mark.parametrize("other", ["versions", "processor", "batch size", "nothing"])
def test_bits_are_asked_for_only_where_they_can_be_the_same(
    other: str, elicited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(elicited, tmp_path / "run"))
    manifest = read_manifest(out)
    if other == "versions":
        manifest["versions"]["pandas"] = "0.0"
    elif other == "processor":
        manifest["ran_with"]["processor"] = "a machine of cogwheels"
    write_manifest(out, manifest)
    found = verify(out, batch_size=3 if other == "batch size" else None)
    assert found.ok
    assert found.exact == (other == "nothing")


def test_the_same_content_in_another_layout_is_the_same(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when pandas writes another version of itself into a table's header."""
    whole = pd.DataFrame.to_parquet
    monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda frame, path, **how: whole(frame, path, compression="gzip"))
    table = verify(copy, files=3).to_frame()
    tables = table[table["sample"].str.endswith(".parquet")]
    assert set(table["verdict"]) == {"same"}
    assert tables["got"].str.endswith("the same content").all()
    assert len(tables) >= 3


def test_other_scenarios_are_not_taken_for_the_runs(tmp_path: Path) -> None:
    data, out = tmp_path / "sev.jsonl", tmp_path / "run"
    scenarios = load_sev("demo")[0].limit(20)
    scenarios.to_jsonl(data)
    run_pipeline(replace(SMALL, data=str(data)), out, until="elicit")
    assert verify(out).ok
    SEV(scenarios.records[::-1]).to_jsonl(data)
    with pytest.raises(RunError, match=r"other train data .* put back the scenarios"):
        verify(out)
    assert diff(out, Path(shutil.copytree(out, tmp_path / "copy"))).same  # which needs none
    data.unlink()
    with pytest.raises(DataError, match="there is no such file"):
        verify(out)
    data.mkdir()
    with pytest.raises(DataError, match="no plain file"):
        verify(out)
    if hasattr(os, "mkfifo"):
        data.rmdir()
        os.mkfifo(data)
        with pytest.raises(DataError, match="no plain file"):
            verify(out)


class Endpoint(LexiconJudge):
    """In place of a judge at an endpoint: keeps what it says as that does, and notes where it was asked."""

    name = "llm:toy"
    urls: list[str | None] = []

    def __init__(self, what: str, base_url: str | None, labels: Any, cache: Path) -> None:
        super().__init__()
        self.urls.append(base_url)
        self._cache = AnswerCache(cache)

    def __call__(self, texts: Any) -> list[Score]:
        for text in texts:
            self._cache.add(f"{len(self.urls)}: {text}", "{}")
        return super().__call__(texts)


def test_an_endpoints_new_answers_are_not_kept_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "LLMJudge", Endpoint)
    monkeypatch.setattr(Endpoint, "urls", [])
    run_pipeline(replace(SMALL, judge="llm:toy", judge_url="http://one/v1"), tmp_path, until="judge")
    answers, Endpoint.urls[:] = (tmp_path / "judge/answers.jsonl").read_bytes(), []
    result = CliRunner().invoke(app, ["verify", str(tmp_path), "--judge-url", "http://two/v1", "--json"])
    assert result.exit_code == 0, result.output
    assert "judge/scores.jsonl" in {row["sample"] for row in json.loads(result.output)}
    assert Endpoint.urls == ["http://two/v1"]
    assert (tmp_path / "judge/answers.jsonl").read_bytes() == answers


def test_what_cannot_be_copied_is_named(elicited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Path(shutil.copytree(elicited, tmp_path / "run"))
    (out / "stray").symlink_to(out / "nowhere")  # no part of the run
    (out / "elicit/anger.jsonl").unlink()
    (out / "elicit/anger.jsonl").symlink_to(out / "nowhere")
    bad = {row.what: row.got for row in verify(out).samples if row.verdict != "same"}
    assert bad == {"elicit/anger.jsonl": "it is missing"}
    copyfile = shutil.copyfile

    def refused(source: Path, target: Path) -> None:
        if source.name == "happiness.jsonl":
            raise PermissionError(13, "Permission denied")
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", refused)
    with pytest.raises(RunError, match=r"cannot copy .*happiness\.jsonl.*Permission denied"):
        verify(out)


# How far files are apart


def jsons(folder: Path, *held: Any) -> list[Path]:
    paths = [folder / f"{i}.json" for i in range(len(held))]
    for path, content in zip(paths, held, strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_json_that_differs_in_more_than_numbers_is_apart(tmp_path: Path) -> None:
    chosen = {"anger": {"candidate": "reference", "strength": 2.0, "also": [], "n": 3}}
    others = [
        {"anger": {**chosen["anger"], "candidate": "shared"}},
        {"anger": {**chosen["anger"], "strength": None}},
        {"anger": {**chosen["anger"], "also": {}}},
        {"anger": {"candidate": "reference", "strength": 2.0, "also": []}},
        {"fear": chosen["anger"]},
    ]
    first, close, *apart = jsons(tmp_path, chosen, {"anger": {**chosen["anger"], "strength": 2.00001}}, *others)
    assert 0 < distance(first, close).largest < TOLERANCE
    assert [distance(first, path).largest for path in apart] == [np.inf] * len(others)
    assert str(distance(first, apart[0])) == "other /anger/candidate"


def test_tensors_that_differ_in_more_than_rounding_are_apart(tmp_path: Path) -> None:
    held = {"values": torch.tensor([1.0, np.nan, np.inf]), "neurons": torch.tensor([18_000, 18_002])}
    others = [
        {"values": held["values"]},
        {"scores": held["values"], "neurons": held["neurons"]},
        held | {"neurons": torch.tensor([18_000, 18_001])},
        held | {"values": torch.tensor([1.0, np.inf, np.inf])},
        held | {"values": torch.tensor([1.0, np.nan])},
    ]
    paths = [tmp_path / f"{i}.safetensors" for i in range(len(others) + 2)]
    for path, tensors in zip(paths, (held, held | {"values": held["values"] * (1 + 1e-6)}, *others), strict=True):
        save_file(tensors, path)
    assert 0 < distance(paths[0], paths[1]).largest < TOLERANCE
    assert [distance(paths[0], path).largest for path in paths[2:]] == [np.inf] * len(others)
    assert str(distance(paths[0], paths[2])) == "only one of the files has neurons"


def test_tables_that_differ_in_more_than_numbers_are_apart(tmp_path: Path) -> None:
    held = pd.DataFrame({"method": ["circuit", None], "accuracy": [0.5, np.nan], "n": [3, 4]})
    others = [
        held.assign(method=["steering", None]),
        held.assign(method=["circuit", "None"]),
        held.rename(columns={"accuracy": "share"}),
        held.drop(columns="n"),
        held.assign(n=[3, 5]),
        held.iloc[:1],
    ]
    paths = [tmp_path / f"{i}.parquet" for i in range(len(others) + 2)]
    for path, frame in zip(paths, (held, held.assign(accuracy=held["accuracy"] * (1 + 1e-6)), *others), strict=True):
        frame.to_parquet(path)
    assert 0 < distance(paths[0], paths[1]).largest < TOLERANCE
    assert [distance(paths[0], path).largest for path in paths[2:]] == [np.inf] * len(others)


def test_another_choice_is_no_rounding(copy: Path) -> None:
    """What a circuit was built from is a word in the calibration."""
    path, other = copy / "circuit/calibration.json", copy / "other.json"
    other.write_text(path.read_text().replace('"candidate": "', '"candidate": "not ', 1))
    assert distance(path, other).largest == np.inf


# Diff


def test_diff_reads_only_what_the_manifest_lists(finished: Path, copy: Path) -> None:
    """Files that were dropped lie there still, and their stages may say that they are done."""
    for path in [copy / "directions/directions.safetensors", *copy.glob("evaluate/greedy/*.scores.jsonl")]:
        path.write_bytes(b"of another time")
    forget(copy, lambda name: not name.startswith(("elicit/", "judge/")))
    result = diff(finished, copy)
    assert result.same, result.to_frame().to_string()
    assert {d.part for d in result.differences} >= {"settings", "judge"}
    assert not {d.part for d in result.differences} & {"directions", "circuit", "generate", "evaluate"}


@pytest.mark.parametrize("gone", [False, True])
def test_diff_names_what_is_damaged(gone: bool, finished: Path, copy: Path) -> None:
    name = "generate/greedy/circuit.jsonl"
    (copy / name).unlink()
    if not gone:  # whole records, but not those that were written here
        shutil.copy(copy / "generate/greedy/steering.jsonl", copy / name)
    (found,) = diff(finished, copy).changed
    assert (found.part, found.what) == ("evaluate", "cannot be compared")
    assert f"{copy / name} is damaged (" in found.difference


def test_diff_compares_a_run_that_was_killed_in_a_stage(finished: Path, copy: Path) -> None:
    forget(copy, lambda name: name == "report.html", directions="running", report="running")
    assert {d.part for d in diff(finished, copy).differences} == {d.part for d in diff(copy, finished).differences}
    parts = {d.part for d in diff(finished, copy).differences}
    assert {"judge", "circuit", "evaluate"} <= parts
