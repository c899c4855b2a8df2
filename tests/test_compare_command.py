"""``emotion-circuits compare``: on a run's circuits, with files that say what the table says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from emotion_circuits.cli.app import app
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.errors import DataError, ModelError, RunError
from emotion_circuits.evaluation.judges import Judge, LexiconJudge, LLMJudge
from emotion_circuits.journal import Call
from emotion_circuits.pipeline import Settings, load_run, run_pipeline, search
from emotion_circuits.pipeline.comparing import JOURNAL, ComparedRun, choose_methods, compare_run
from emotion_circuits.pipeline.judging import cost, judge_of
from emotion_circuits.replies import Replies, Reply

SMALL = Settings(emotions=("anger", "happiness"), limit=3, max_new_tokens=14, temperature=None, size=60)
METHODS = ["none", "prompting", "prompting:described", "circuit", "random circuit"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "PLACES", search.PLACES[:1])
        run_pipeline(SMALL, out, until="circuit")
    return out


def compare(*arguments: str):
    return CliRunner().invoke(app, ["compare", *arguments])


@pytest.mark.slow
def test_a_run_is_compared(run: Path) -> None:
    result = compare("--run", str(run), "--methods", ",".join(METHODS), "--scenarios", "2", "--strengths", "1.5")
    assert result.exit_code == 0, result.exception
    folder = run / "compare"
    names = {"compare.csv", "by-emotion.csv", "by-valence.csv", "by-theme.csv", "labels.csv", "pareto.csv",
             "pareto.html", "replies.jsonl", "settings.json"}  # fmt: skip
    assert {path.name for path in folder.iterdir()} == names
    table = pd.read_csv(folder / "compare.csv").set_index("method")
    assert table.index.tolist() == METHODS
    labels = pd.read_csv(folder / "labels.csv")
    for method, part in labels.groupby("method"):
        assert table.loc[method, "n"] == len(part) == 2 * 3 * 2
        assert table.loc[method, "at_least"] == pytest.approx((part["label"] == part["emotion"]).mean())
    assert table["p"].isna().tolist() == [name == "prompting" for name in METHODS]
    assert table.loc["none", "kl"] == pytest.approx(0, abs=1e-6)
    points = pd.read_csv(folder / "pareto.csv")
    strengths = [(m, 1.0) for m in METHODS] + [("circuit", 1.5), ("random circuit", 1.5)]
    assert list(zip(points["method"], points["strength"], strict=True)) == strengths
    assert json.loads((folder / "settings.json").read_text())["settings"]["judge"] == "lexicon"
    assert "6 test items x 2 emotions" in result.stdout
    assert result.stdout.rstrip().endswith("change from the unmodulated model.")


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_with_what_it_has(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, made, keep = load_run(run), [], Call.add
    monkeypatch.setattr(Call, "add", lambda self, i, reply: (made.append(i), keep(self, i, reply))[1])

    def compared(on_method: Callable[[str, Replies], None] | None = None) -> ComparedRun:
        made.clear()
        names, options = ["prompting", "circuit"], {"scenarios": 1, "factors": (1.5,)}
        return compare_run(opened, names, LexiconJudge(), **options, on_method=on_method)

    def stop(name: str, replies: Replies) -> None:
        if name == "circuit":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compared(on_method=stop)
    n_first = len(made)
    interrupted = compared()
    n_second = len(made)
    interrupted.save(run / "compare")
    assert not (run / "compare" / JOURNAL).exists()
    undisturbed = compared()
    assert n_first > 0 < n_second and n_first + n_second == len(made)
    assert interrupted.comparison.replies == undisturbed.comparison.replies
    pd.testing.assert_frame_equal(interrupted.trade_off.to_frame(), undisturbed.trade_off.to_frame())
    (run / "compare" / JOURNAL).unlink()


@pytest.mark.slow
def test_json_is_json(run: Path) -> None:
    result = compare("--run", str(run), "--methods", "none,prompting", "--scenarios", "1", "--strengths", "", "--json")
    rows = json.loads(result.stdout)["methods"]
    assert [row["method"] for row in rows] == ["none", "prompting"]
    assert {"n", "unscored", "p", "kl", "answered_change", "in_language"} <= set(rows[0])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--judge", "oracle"], DataError, "no judge is called 'oracle'; use lexicon, classifier:NAME"),
        (["--judge", "llm:"], DataError, "no judge is called 'llm:'"),
        (["--methods", "none,magic"], DataError, "no method is called magic; there are none, prompting"),
        (["--reference", "magic"], DataError, "the reference 'magic' is not compared"),
        (["--strengths", "1,two"], DataError, "--strengths '1,two' is no list of numbers"),
        (["--strengths", "-1"], DataError, "every multiple must be above 0"),
        (["--run", "nowhere"], RunError, "nowhere is no run folder"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(arguments, error, words, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = compare(*arguments)
    assert isinstance(result.exception, error)
    assert words in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_judges_by_name(qwen, tmp_path: Path) -> None:
    def named(name: str, *endpoint) -> Judge:
        return judge_of(name, SMALL.labels, lambda: qwen, *endpoint)

    assert named("lexicon").name == "lexicon"
    assert named("self").name.startswith("self:")
    endpoint = named("llm:some/model", "http://127.0.0.1:9/v1", tmp_path / "answers.jsonl")
    assert isinstance(endpoint, LLMJudge)
    assert (endpoint.model, endpoint.base_url) == ("some/model", "http://127.0.0.1:9/v1")
    assert endpoint.labels == SMALL.emotions
    replies = Replies(tuple(Reply(Prompt.user("x"), text, (5,), "anger") for text in ("a", "b", "a")))
    assert cost(endpoint, replies, "match").startswith("; 2 requests of about ")
    assert cost(named("lexicon"), replies, "classify") == ""
    with pytest.raises(ModelError, match="the classifier 'nowhere' cannot be loaded"):
        named("classifier:nowhere")


@pytest.mark.slow
def test_a_run_is_judged_by_the_judge_that_its_settings_name(tmp_path: Path) -> None:
    settings = replace(SMALL, emotions=("anger", "fear"), limit=1, judge="self")
    judged = run_pipeline(settings, tmp_path / "run", until="judge")
    assert judged.judge.name.startswith("self:")
    assert len(judged.evaluation().scores) == len(judged.evaluation().replies)
    with pytest.raises(RunError, match="judge: 'self' then, 'lexicon' now"):
        run_pipeline(replace(settings, judge="lexicon"), tmp_path / "run", until="judge")


def test_styles_without_a_text_for_a_label_are_left_out() -> None:
    chosen = choose_methods(Settings(emotions=("anger", "envy")))
    assert "prompting:described" not in chosen
    assert choose_methods(Settings())[:3] == ["none", "prompting", "prompting:described"]
