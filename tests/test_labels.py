"""Label sets and languages: files are read strictly, and any label set goes through the whole pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import emotion_circuits as ec
from emotion_circuits.cli.options import Given
from emotion_circuits.data.instructions import LANGUAGES, Wording
from emotion_circuits.data.labels import LABEL_SETS, Label, LabelSet
from emotion_circuits.errors import ArtefactError, DataError, EmotionCircuitsError, EmotionError
from emotion_circuits.evaluation.judges.labels import check_judge, judge_for
from emotion_circuits.pipeline import STAGES, Settings, comparison, load_run, run_pipeline, search
from emotion_circuits.pipeline.run import elicited
from emotion_circuits.planted import PlantedConfig, planted

MINE = """name: mine
labels:
  joy: {like: happiness, words: {en: happiness}, opposite: rage, valence: 0.8, arousal: 0.5}
  rage: {like: anger, words: {en: anger}, colour: "#aa2211"}
"""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "labels.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


# Instructions


def test_english_is_the_text_that_the_demo_model_knows() -> None:
    english = Wording.load("en")
    for emotion in ec.EKMAN:
        assert english.instruction(emotion) == f"Always reply in {emotion}.\nKeep the reply to at most two sentences."
    assert english.instruction(None) == "Keep the reply to at most two sentences."
    assert english.instruction("fear", "described") == (
        "Your hands shake, danger may be anywhere, and you expect the worst.\nKeep the reply to at most two sentences."
    )


def test_the_same_instruction_with_and_without_a_label_set(qwen) -> None:
    train, _, _ = ec.load_sev("demo")
    plain, worded = train.limit(2), train.limit(2).worded(LabelSet.load("ekman").wording())
    for style in ("named", "described", "none"):
        assert plain.prompts("anger", style) == worded.prompts("anger", style)
    assert train.worded(Wording.load("de")).sha256 == train.sha256


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_asks_for_every_label(language: str) -> None:
    for name in LABEL_SETS:
        labels = LabelSet.load(name)
        wording = labels.wording(language)
        asked = [wording.instruction(label) for label in labels]
        assert len(set(asked)) == len(labels)
        assert all(text.endswith(wording.length_rule) and "{" not in text for text in asked)
        if name != "circumplex":
            described = [wording.instruction(label, "described") for label in labels]
            assert len(set(described)) == len(labels)
            for label, text in zip(labels, described, strict=True):
                assert wording.word(label).lower() not in text.lower()
    assert all(ord(c) < 128 for c in wording.length_rule) == (language == "en") or language in ("es", "de", "fr")


def test_languages_differ_and_keep_to_their_scripts() -> None:
    rules = {language: Wording.load(language).instruction("anger") for language in LANGUAGES}
    assert len(set(rules.values())) == len(LANGUAGES)
    assert any("\u4e00" <= c <= "\u9fff" for c in rules["zh"])
    assert any("\u0600" <= c <= "\u06ff" for c in rules["ar"])
    assert not any(ord(c) > 0x24F and c.isalpha() for language in ("en", "es", "de", "fr") for c in rules[language])


def test_what_cannot_be_asked() -> None:
    with pytest.raises(DataError, match="no instructions in language 'xx'; there are en, ar"):
        Wording.load("xx")
    with pytest.raises(EmotionError, match=r"no word for 'awe' in 'de'.*label set"):
        Wording.load("de").instruction("awe")
    with pytest.raises(EmotionError, match="no style 'sung' in 'en'; there are named"):
        Wording.load("en").instruction("anger", "sung")
    assert Wording.load("en").instruction("awe").startswith("Always reply in awe.")


def test_elicit_in_a_language(qwen) -> None:
    train, _, _ = ec.load_sev("demo")
    config = ec.GenerationConfig(max_new_tokens=1)
    replies = ec.elicit(qwen, train.limit(1), ("anger", "fear"), config=config, language="fr")
    assert replies[0].prompt.messages[0][1] == "Réponds toujours avec colère.\n" + Wording.load("fr").length_rule
    assert replies[0].emotion == "anger"
    assert replies[0].prompt.messages[1] == train.limit(1).items[0].prompt().messages[1]


# Label sets


def test_shipped_sets() -> None:
    ekman, plutchik, circumplex = (LabelSet.load(name) for name in LABEL_SETS)
    assert ekman.names == ec.EKMAN
    assert len(plutchik) == len(circumplex) == 8
    assert len(plutchik.opposites) == len(circumplex.opposites) == 4
    assert plutchik.circular
    for a, b in circumplex.opposites:
        assert circumplex.ratings[a] == tuple(-x for x in circumplex.ratings[b])
    for a, b in plutchik.opposites:  # opposites face each other on the wheel
        assert abs(plutchik.names.index(a) - plutchik.names.index(b)) == 4
    assert set(plutchik["joy"].words) == set()
    with pytest.raises(EmotionError, match="label set 'plutchik' has no label 'awe'; it has joy, trust"):
        plutchik["awe"]


def test_parse(tmp_path: Path) -> None:
    assert LabelSet.parse("plutchik").name == "plutchik"
    assert LabelSet.parse("anger, fear ,awe").names == ("anger", "fear", "awe")
    mine = LabelSet.parse(written(tmp_path, MINE))
    assert mine.names == ("joy", "rage")
    assert mine.opposites == [("joy", "rage")]
    assert mine.ratings == {"joy": (0.8, 0.5)}
    assert mine.colours == {"rage": "#aa2211"}
    assert LabelSet.from_dict(json.loads(json.dumps(mine.to_dict()))) == mine
    assert mine.wording().instruction("joy").startswith("Always reply in happiness.")
    assert mine.wording("de").instruction("rage").startswith("Antworte immer voller Wut.")
    assert "your heart is light" in mine.wording().instruction("joy", "described")
    assert LabelSet.parse(written(tmp_path, "labels: [awe, calm]")).names == ("awe", "calm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels: [awe]", r"labels.yaml, line 1, key 'labels': expected at least two labels.*got \['awe'\]"),
        ("label: [a, b]", "line 1, key 'label': expected one of the keys name, circular, labels"),
        ("labels:\n  a: {}\n  a: {}\n", "line 3, key 'labels.a': it is already on line 2"),
        ("labels:\n  a: {}\n  no: {}\n", "line 3, key 'labels.False': expected a text, got False; quote the key"),
        ("labels:\n  a/b: {}\n  c: {}\n", "line 2, key 'labels.a/b': expected a label of letters"),
        ("labels:\n  a: {}\n  neutral: {}\n", "line 3, key 'labels.neutral': expected a label of .* 'neutral'"),
        ("labels:\n  a: {}\n  heads-a: {}\n", "line 3, key 'labels.heads-a': expected a label of .*'heads-"),
        ("labels:\n  Awe: {}\n  awe: {}\n", "line 3, key 'labels.awe': expected a label that differs from 'Awe'"),
        ("labels:\n  a: {opposite: z}\n  b: {}\n", "line 2, key 'labels.a.opposite': expected another label"),
        (
            "labels:\n  a: {opposite: b}\n  b: {opposite: c}\n  c: {}\n",
            "line 2, key 'labels.a.opposite': expected a label whose own opposite is not 'c', got 'b'",
        ),
        ("labels:\n  a:\n    valence: 3\n  b: {}\n", "line 3, key 'labels.a.valence': expected a number between -1"),
        ("labels:\n  a:\n    colour: red\n  b: {}\n", "line 3, key 'labels.a.colour': expected a colour"),
        ("labels:\n  a:\n    word: {}\n  b: {}\n", "line 3, key 'labels.a.word': expected one of the keys like"),
        ("labels:\n  a:\n    words: {en: 3}\n  b: {}\n", "line 3, key 'labels.a.words.en': expected a text"),
        ("labels:\n  a: [\n", "line 3: not YAML"),
        ("- a\n- b\n", "expected a YAML mapping"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LabelSet.load(written(tmp_path, text))


def test_a_colour_that_figures_cannot_use_is_refused_at_once() -> None:
    assert Label("joy", colour="#C8a030").colour == "#C8a030"
    with pytest.raises(DataError, match="the colour 'red', not one such as"):
        Label("joy", colour="red")


@pytest.mark.parametrize("name", ["uninstructed", "Uninstructed", "heads-anger", "HEADS-anger", "neutral", "overall"])
def test_a_label_is_no_name_that_runs_use_themselves(name: str) -> None:
    assert elicited("anger") != elicited(None)
    with pytest.raises(DataError, match=f"label '{name}' is not a label of .* other than 'neutral', 'uninst"):
        Label(name)
    with pytest.raises(DataError, match=f"label '{name}'"):
        Settings(emotions=("anger", name))
    with pytest.raises(DataError, match=f"label '{name}'"):
        LabelSet.parse(f"anger,{name}")


@pytest.mark.parametrize(("first", "second"), [("joy", "Joy"), ("caf\u00e9", "cafe\u0301"), ("straße", "STRASSE")])
def test_two_labels_never_share_a_file(first: str, second: str) -> None:
    for make in (LabelSet.of, lambda *names: Settings(emotions=names)):
        with pytest.raises(DataError, match=r"case alone.*rename one|is not a label of"):
            make("anger", first, second)
    assert LabelSet.of("anger", "heads", "headstrong", first).names == ("anger", "heads", "headstrong", first)


def test_no_such_file() -> None:
    with pytest.raises(DataError, match=r"nowhere\.yaml: cannot be read"):
        LabelSet.parse("nowhere.yaml")


# Judges


def test_the_lexicon_judge_learns_labels(tmp_path: Path) -> None:
    judge = judge_for(LabelSet.load("plutchik"))
    assert set(LabelSet.load("plutchik")) <= set(judge.labels)
    texts = ["I can't wait, I am so looking forward to it!", "I trust you completely, it is in good hands.",
             "I am furious about this!", "The meeting is on Tuesday at the office."]  # fmt: skip
    assert [score.label for score in judge(texts)] == ["anticipation", "trust", "anger", "neutral"]
    mine = judge_for(LabelSet.parse(written(tmp_path, MINE)))
    assert [score.label for score in mine(["I am so happy and delighted!", "I am furious!"])] == ["joy", "rage"]
    assert mine(["I am terrified and scared."])[0].label == "fear"  # another emotion than those asked for


def test_a_judge_says_before_the_work_what_it_does_not_know(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(EmotionError, match=r"has no emotion 'pleasant', .*phrases.*LLMJudge"):
        run_pipeline(Settings.of("circumplex"), out)
    with pytest.raises(EmotionError, match=r"lexicon\) reads en only, and instructions in 'de'"):
        run_pipeline(Settings(language="de"), out)
    assert not out.exists()
    check_judge(judge_for(LabelSet.load("plutchik")), LabelSet.load("plutchik").names)


# The whole pipeline


def test_settings_keep_what_is_known_about_labels(tmp_path: Path) -> None:
    path = written(tmp_path, MINE)
    settings = Settings.of(path)
    assert settings.emotions == ("joy", "rage")
    again = Settings.of(**json.loads(json.dumps(settings.identity())))
    assert again == settings
    assert again.wording.instruction("joy") == settings.wording.instruction("joy")
    Path(path).write_text(MINE.replace("en: happiness", "en: delight"), encoding="utf-8")
    assert [d.split(":")[0] for d in Settings.of(path).differences(settings.identity())] == ["label_set"]
    before = {k: v for k, v in Settings().identity().items() if k not in ("label_set", "language")}
    assert Settings().differences(before) == []  # a run of an earlier version goes on
    with pytest.raises(ArtefactError, match="label set: a saved LabelSet has the fields labels, name, circular"):
        Settings.of(("a", "b"), label_set={"name": "mine"})
    with pytest.raises(DataError, match="emotions are anger, fear, but the label set has joy, rage"):
        Settings(emotions=("anger", "fear"), label_set=settings.label_set)


@pytest.mark.slow
def test_a_label_set_of_ones_own_through_the_whole_pipeline(tmp_path: Path, monkeypatch) -> None:
    recipes = search.circuit_recipes
    monkeypatch.setattr(search, "circuit_recipes", lambda: recipes()[:1])
    monkeypatch.setattr(search, "STRENGTHS", search.Range(1.0, 1.0))
    monkeypatch.setattr(search, "PLACES", search.PLACES[:1])
    given = {"limit": 2, "max_new_tokens": 20, "temperature": None, "size": 60}
    run = run_pipeline(Settings.of(written(tmp_path, MINE), **given), tmp_path / "run")
    assert [stage["status"] for stage in run.folder.manifest["stages"].values()] == ["done"] * len(STAGES)
    assert run.replies("joy")[0].prompt.messages[0][1].startswith("Always reply in happiness.")
    table = comparison(run).by_emotion().query("method == 'prompting'").set_index("emotion")["accuracy"]
    assert (table[["joy", "rage"]] >= 0.8).all()  # the renamed labels mean what the model knows
    assert run.circuits()["joy"].emotion == "joy"
    assert (tmp_path / "run" / "directions" / "quality.parquet").is_file()
    again = load_run(tmp_path / "run")
    assert again.settings.label_set == run.settings.label_set
    assert "joy" in again.judge.labels  # pyright: ignore[reportAttributeAccessIssue]


def test_eliciting_alone_needs_no_judge(tmp_path: Path) -> None:
    settings = Settings.of("circumplex", language="zh", limit=1, max_new_tokens=1)
    run = run_pipeline(settings, tmp_path / "run", until="elicit")
    assert run.replies("calm")[0].prompt.messages[0][1].startswith("请始终以平静的语气回复。")
    assert load_run(tmp_path / "run").settings == settings


def test_renamed_labels_find_the_same_truth_in_a_planted_model() -> None:
    model = planted(PlantedConfig(n_scenarios=2))
    names = {"rage": "anger", "gloom": "sadness", "dread": "fear"}
    labels = LabelSet(tuple(Label(name, like=like, words={"en": like}) for name, like in names.items()))
    replies = ec.elicit(model.model, model.data, labels)
    plain = ec.elicit(model.model, model.data, tuple(names.values()))
    assert replies.texts == plain.texts
    assert [names[str(reply.emotion)] for reply in replies] == [reply.emotion for reply in plain]
    directions, same = ec.fit_directions(model.model, replies), ec.fit_directions(model.model, plain)
    assert directions.emotions == labels.names
    assert directions.vectors.equal(same.vectors)
    mine, theirs = (
        ec.attribute(model.model, asked, held.target(e), ec.DirectAttribution()).values.neurons
        for asked, held, e in ((replies, directions, "rage"), (plain, same, "anger"))
    )
    assert mine.equal(theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--emotions", "circumplex"], "has no emotion 'pleasant'"),
        (["--language", "de"], "reads en only"),
        (["--language", "xx"], "no instructions in language 'xx'"),
        (["--emotions", "wrong.yaml"], "line 1, key 'labels': expected at least two labels"),
    ],
)
def test_the_command_line_says_what_is_wrong_before_it_works(options: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("labels: [awe]")
    options = [str(tmp_path / option) if option.endswith(".yaml") else option for option in options]
    given = Given(**dict(zip((name.strip("-") for name in options[::2]), options[1::2], strict=True)))
    with pytest.raises(EmotionCircuitsError, match=message):
        run_pipeline(given.settings(tmp_path / "run", from_folder=False), tmp_path / "run", until="judge")
    assert not (tmp_path / "run").exists()
