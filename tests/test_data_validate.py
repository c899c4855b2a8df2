"""The shipped sets are clean, and each kind of fault, planted in a copy, is found at its line."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.data import validate
from emotion_circuits.data.validate import CheckReport, check, single, together
from emotion_circuits.errors import DataError

OWN = Path(validate.__file__).parents[1] / "own"
TRAIN, TEST, VIGNETTES = (OWN / f"{name}.jsonl" for name in ("train", "test", "vignettes"))
LINE = 37  # where faults are planted

Record = dict[str, Any]


def records_of(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def found(report: CheckReport, name: str) -> set[tuple[int, str, str]]:
    return {(f.line, f.field, f.severity) for f in report.findings if f.check == name}


@pytest.fixture
def planted(tmp_path: Path) -> Callable[[Callable[[list[Record]], object]], CheckReport]:
    """Checks a copy of the training set after a change."""

    def run(change: Callable[[list[Record]], object]) -> CheckReport:
        records = records_of(TRAIN)
        change(records)
        path = tmp_path / "copy.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return check(path)

    return run


# The shipped sets


def test_shipped_sets_are_clean() -> None:
    report = check([TRAIN, TEST, VIGNETTES])
    assert report.ok
    assert str(report).count("\n") == 0, str(report)
    assert list(report.n_records.values()) == [160, 160, 360]


@pytest.mark.parametrize("path", [TRAIN, TEST], ids=lambda path: path.stem)
def test_shipped_sev_form(path: Path) -> None:
    records = records_of(path)
    assert set(Counter(record["theme"] for record in records).values()) == {20}
    assert len({record["theme"] for record in records}) == 8
    for record in records:
        assert record["scenario"][-1].isalnum()
        assert all(event.endswith(".") and event[0].isupper() for event in record["event"].values())


def test_shipped_sets_share_no_id() -> None:
    ids = [record["skeleton_id"] for path in (TRAIN, TEST) for record in records_of(path)]
    assert len(set(ids)) == len(ids) == 320


def test_shipped_vignettes_do_not_name_their_emotion() -> None:
    records = records_of(VIGNETTES)
    assert Counter(record["emotion"] for record in records) == dict.fromkeys(
        ("anger", "sadness", "happiness", "fear", "surprise", "disgust"), 60
    )
    assert all(record["text"] != record["neutral"] for record in records)


# Each fault, planted


@pytest.mark.parametrize(
    ("sentence", "word", "severity"),
    [
        ("I was overjoyed at the news.", "overjoyed", "error"),
        ("The joyfulness in the room was plain.", "joyfulness", "error"),
        ("It kept worrying me.", "worrying", "error"),
        ("They were hoping for rain.", "hoping", "error"),
        ("Sadly, the bus had left.", "sadly", "error"),
        ("The clerk smiled at the form.", "smiled", "warning"),
    ],
)
def test_emotion_word(planted: Callable[..., CheckReport], sentence: str, word: str, severity: str) -> None:
    report = planted(lambda records: records[LINE - 1]["event"].update(neutral=sentence))
    (finding,) = (f for f in report.findings if f.check == "emotion_word")
    assert (finding.line, finding.field, finding.severity) == (LINE, "event.neutral", severity)
    assert repr(word) in finding.message
    assert report.ok == (severity == "warning")


@pytest.mark.parametrize("word", ["gladiator", "scarf", "hopping", "ragged", "glove", "jubilee", "alarm", "morning"])
def test_innocent_words_pass(word: str) -> None:
    words = single.word_list()
    assert not [root for root in single._roots(word) if root in words and (root == word or words[root][1])]


def test_words_can_be_added_and_allowed() -> None:
    records = records_of(TRAIN)[:1]
    records[0]["event"]["neutral"] = "The shop was called Happy Hour, and it sold zest."
    assert found(check(records), "emotion_word") == {(1, "event.neutral", "error")}
    assert not found(check(records, allow=["Happy"]), "emotion_word")
    report = check(records, allow=["happy"], extra_words=["~zest"])
    assert found(report, "emotion_word") == {(1, "event.neutral", "warning")}


@pytest.mark.parametrize(
    ("change", "field", "given"),
    [
        (lambda record: record.pop("theme"), "theme", "missing"),
        (lambda record: record["event"].pop("negative"), "event.negative", "missing"),
        (lambda record: record.update(event="a text"), "event.positive", "missing"),
        (lambda record: record.update(scenario="  "), "scenario", "empty"),
        (lambda record: record["event"].update(positive=["a", "b"]), "event.positive", "(list)"),
        (lambda record: record.update(skeleton_id=7), "skeleton_id", "7 (int)"),
    ],
)
def test_fields(
    planted: Callable[..., CheckReport], change: Callable[[Record], object], field: str, given: str
) -> None:
    report = planted(lambda records: change(records[LINE - 1]))
    messages = [f.message for f in report.findings if (f.check, f.line, f.field) == ("field", LINE, field)]
    assert len(messages) == 1
    assert given in messages[0]
    assert not report.ok


def test_broken_lines_do_not_stop_the_check(tmp_path: Path) -> None:
    lines = TRAIN.read_text(encoding="utf-8").splitlines()
    lines[4] = lines[4][:-3]
    lines[6] = "[1, 2]"
    lines[8] = ""
    lines[10] = lines[10].replace('"scenario"', '"scene"')
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    report = check(path)
    assert found(report, "json") == {(5, "", "error"), (7, "", "error")}
    assert found(report, "field") == {(11, "scenario", "error")}
    assert report.n_records[str(path)] == 157


def test_missing_and_empty_files_are_findings(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    report = check([tmp_path / "empty.jsonl", tmp_path / "nowhere.jsonl", TRAIN])
    assert [Path(f.file).name for f in report.findings] == ["empty.jsonl", "nowhere.jsonl"]
    assert "holds no record" in report.findings[0].message
    assert "give the path" in report.findings[1].message


def test_duplicate_id(planted: Callable[..., CheckReport]) -> None:
    report = planted(lambda records: records[LINE - 1].update(skeleton_id=records[2]["skeleton_id"]))
    assert found(report, "duplicate_id") == {(LINE, "skeleton_id", "error")}
    (finding,) = report.findings
    assert "copy.jsonl:3;" in finding.message


def test_an_id_shared_by_two_files_is_a_warning() -> None:
    train, test = records_of(TRAIN), records_of(TEST)
    test[LINE - 1]["skeleton_id"] = train[0]["skeleton_id"]
    report = check({"a": train, "b": test})
    assert report.ok
    (finding,) = report.findings
    assert (finding.file, finding.line, finding.check) == ("b", LINE, "duplicate_id")


def test_first_person(planted: Callable[..., CheckReport]) -> None:
    report = planted(lambda records: records[LINE - 1].update(scenario="A man waited for the tram at the corner"))
    assert found(report, "first_person") == {(LINE, "scenario", "warning")}
    assert not found(check([{**records_of(TRAIN)[0], "scenario": "Yesterday I'd a day off"}]), "first_person")


def test_identical_events(planted: Callable[..., CheckReport]) -> None:
    def change(records: list[Record]) -> None:
        event = records[LINE - 1]["event"]
        event["negative"] = event["neutral"].upper()

    assert found(planted(change), "identical_events") == {(LINE, "event.negative", "error")}


def test_near_duplicate_within_a_file(planted: Callable[..., CheckReport]) -> None:
    def change(records: list[Record]) -> None:
        records[LINE - 1]["scenario"] = records[9]["scenario"] + " today"
        records[LINE]["event"]["positive"] = records[1]["event"]["positive"]

    report = planted(change)
    assert found(report, "near_duplicate") == {(LINE, "scenario", "error"), (LINE + 1, "event.positive", "error")}
    assert "copy.jsonl:10;" in next(f.message for f in report.findings if f.line == LINE)


def test_near_duplicate_between_files() -> None:
    train, test = records_of(TRAIN), records_of(TEST)
    test[LINE - 1]["scenario"] = train[4]["scenario"].replace(" the ", " a ")
    report = check({"train": train, "test": test})
    (finding,) = report.findings
    assert (finding.file, finding.line, finding.check, finding.severity) == ("test", LINE, "near_duplicate", "error")
    assert "train:5;" in finding.message


def test_similar_equals_comparing_every_pair() -> None:
    """The index finds what a comparison of all pairs finds."""
    draw = random.Random(0)
    words = "the a tram shop green letter came went left desk friend paid".split()
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(200)]
    texts += [*texts[:5], "x", "x", "7 8", "7 8"]
    owners = [i // 2 for i in range(len(texts))]
    pieces = [together._pieces(text) for text in texts]
    for least in (0.2, 0.5, 0.6, 1.0):
        expected = {}
        for i in range(len(texts)):
            others = [j for j in range(i) if owners[j] != owners[i]]
            scores = [len(pieces[i] & pieces[j]) / len(pieces[i] | pieces[j]) for j in others]
            if scores and max(scores) >= least:
                expected[i] = max(scores)
        assert {i: jaccard for i, _, jaccard in together.similar(texts, owners, least)} == pytest.approx(expected)


def test_length_balance(planted: Callable[..., CheckReport]) -> None:
    def change(records: list[Record]) -> None:
        for record in records[20:40]:  # the second theme
            record["event"]["negative"] = record["event"]["negative"][:-1] + " that day again."
        records[LINE - 1]["event"]["negative"] += " It was the end of the street, and the bus had left."

    report = planted(change)
    assert found(report, "length_balance") == {(LINE, "event.negative", "warning")}
    assert "in family, event.negative" in report.findings[0].message
    assert report.ok


def test_theme_balance(planted: Callable[..., CheckReport]) -> None:
    report = planted(lambda records: records[LINE - 1]["event"].pop("positive"))
    assert found(report, "theme_balance") == {(LINE, "theme", "error")}
    fewer = check(records_of(TRAIN)[:150])
    assert found(fewer, "theme_balance") == {(150, "theme", "warning")}
    other = check({"train": records_of(TRAIN), "test": records_of(TEST)[20:]})
    (finding,) = (f for f in other.findings if f.check == "theme_balance")
    assert finding.file == "test"
    assert "no record of theme 'work'" in finding.message


def test_a_word_that_marks_a_valence_in_one_theme(planted: Callable[..., CheckReport]) -> None:
    def change(records: list[Record]) -> None:
        for record in records[40:54]:
            record["event"]["positive"] = record["event"]["positive"][:-1] + " accordingly."

    report = planted(change)
    assert found(report, "valence_leak") == {(54, "event.positive", "warning")}
    assert "'accordingly' stands in 14 of 20 events of theme 'friendship'" in report.findings[0].message


def test_chance_words_are_not_called_markers() -> None:
    """Events shuffled over the valences: no word can mark one."""
    draw = random.Random(1)
    records = records_of(TRAIN)
    for record in records:
        events = list(record["event"].values())
        draw.shuffle(events)
        record["event"] = dict(zip(record["event"], events, strict=True))
    report = check({"shuffled": records})
    assert not found(report, "valence_leak")
    assert report.measures["shuffled"]["valence_from_words"] == pytest.approx(1 / 3, abs=0.1)


def test_a_file_whose_valence_is_in_the_wording(planted: Callable[..., CheckReport]) -> None:
    def change(records: list[Record]) -> None:
        for record in records:
            for valence, event in record["event"].items():
                end = {"positive": "to my gain", "neutral": "as is usual", "negative": "at my cost"}[valence]
                record["event"][valence] = f"{event[:-1]}, {end}."

    report = planted(change)
    assert max(m["valence_from_words"] for m in report.measures.values()) > 0.95
    assert any(f.field == "event" and "bag of words" in f.message for f in report.findings)


def test_vignettes(tmp_path: Path) -> None:
    records = records_of(VIGNETTES)
    records[4]["text"] = "I was furious when the tram left."
    records[5].pop("neutral")
    records[6]["id"] = records[0]["id"]
    report = check({"v": records})
    assert found(report, "emotion_word") == {(5, "text", "error")}
    assert found(report, "field") == {(6, "neutral", "error")}
    assert found(report, "duplicate_id") == {(7, "id", "error")}


# The interface


def test_report_as_frame_and_text(planted: Callable[..., CheckReport]) -> None:
    report = planted(lambda records: records[LINE - 1].update(scenario="I was glad about the tram"))
    frame = report.to_frame()
    assert list(frame.columns) == ["check", "file", "line", "field", "message", "severity"]
    assert frame.line.tolist() == [LINE]
    head, line = str(report).splitlines()
    assert head.endswith("copy.jsonl: 160 records; 1 errors, 0 warnings")
    assert f"copy.jsonl:{LINE}: error: scenario: emotion word 'glad'" in line
    assert list(check(TRAIN).to_frame().columns) == list(frame.columns)


def test_kinds_of_source() -> None:
    records = records_of(TRAIN)
    for source in (TRAIN, str(TRAIN), [TRAIN], records, iter(records), {"train": records}, {"train": TRAIN}):
        assert check(source).ok
    assert check(record for record in records).n_records == {"records": 160}


@pytest.mark.parametrize("source", [7, None, [1, 2], records_of(TRAIN)[0], b"train.jsonl"])
def test_wrong_source(source: object) -> None:
    with pytest.raises(DataError, match=r"expected a path, several paths, a list of records"):
        check(source)


@pytest.mark.parametrize(("option", "text"), [({"similarity": 0.0}, "Jaccard"), ({"balance": -1.0}, "mean length")])
def test_wrong_options(option: dict[str, float], text: str) -> None:
    with pytest.raises(DataError, match=text):
        check(TRAIN, **option)


def test_other_valences() -> None:
    records: Iterable[Record] = [
        {
            "skeleton_id": f"x{i}",
            "theme": "t",
            "scenario": s,
            "event": {"good": f"{s} and won.", "bad": f"{s} and lost."},
        }
        for i, s in enumerate(("I sat in the park", "We drove over to Lyon", "My hut has one door"))
    ]
    assert check(records, valences=("good", "bad")).ok
    assert not check(records).ok


# The command


def longer(records: list[Record]) -> None:
    for record in records[20:40]:
        record["event"]["negative"] = record["event"]["negative"][:-1] + " that day again."
    records[LINE - 1]["event"]["negative"] += " It was the end of the street, and the bus had left."


def marked(records: list[Record]) -> None:
    for record in records[LINE - 14 : LINE]:
        record["event"]["positive"] = record["event"]["positive"][:-1] + " accordingly."


FAULTS: dict[str, Callable[[list[Record]], object]] = {
    "field": lambda records: records[LINE - 1].update(scenario=""),
    "duplicate_id": lambda records: records[LINE - 1].update(skeleton_id=records[3]["skeleton_id"]),
    "emotion_word": lambda records: records[LINE - 1].update(scenario="I was furious about the tram"),
    "first_person": lambda records: records[LINE - 1].update(scenario="The tram came late to the square"),
    "identical_events": lambda records: records[LINE - 1]["event"].update(
        negative=records[LINE - 1]["event"]["neutral"]
    ),
    "near_duplicate": lambda records: records[LINE - 1].update(scenario=records[9]["scenario"] + " today"),
    "length_balance": longer,
    "theme_balance": lambda records: records[LINE - 1]["event"].pop("positive"),
    "valence_leak": marked,
}


@pytest.mark.parametrize("check_name", [*FAULTS, "json"])
def test_the_command_fails_with_the_line(check_name: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from emotion_circuits.cli.app import app

    records = records_of(TRAIN)
    FAULTS.get(check_name, lambda _: None)(records)
    lines = [json.dumps(record) for record in records]
    if check_name == "json":
        lines[LINE - 1] = lines[LINE - 1][:40]
    path = tmp_path / "copy.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["data", "check", str(path)])
    assert result.exit_code == 1
    named = [line for line in result.stdout.splitlines() if f"[{check_name}]" in line]
    assert any(f"copy.jsonl:{LINE}:" in line for line in named), result.stdout
    lenient = CliRunner().invoke(app, ["data", "check", "--allow-warnings", str(path)])
    assert lenient.exit_code == (0 if check_name in ("first_person", "length_balance", "valence_leak") else 1)


def test_the_command_passes_the_shipped_sets() -> None:
    from typer.testing import CliRunner

    from emotion_circuits.cli.app import app

    result = CliRunner().invoke(app, ["data", "check", str(TRAIN), str(TEST), str(VIGNETTES)])
    assert result.exit_code == 0, result.stdout
    assert "0 errors, 0 warnings" in result.stdout
