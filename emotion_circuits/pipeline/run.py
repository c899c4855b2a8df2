"""A run: its settings, folder, model, data and judge, and what earlier stages left for later ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from emotion_circuits import artefacts, records
from emotion_circuits.activations import Baseline, Contrast
from emotion_circuits.attribution import Attribution, Influence
from emotion_circuits.checked import build
from emotion_circuits.circuits import Circuit
from emotion_circuits.control import Calibration, CircuitModulation
from emotion_circuits.control.calibrate import Point
from emotion_circuits.control.circuits import Positions
from emotion_circuits.data.sev import SEV, load_sev
from emotion_circuits.directions import EmotionDirections
from emotion_circuits.errors import ArtefactError, EmotionCircuitsError, RunError
from emotion_circuits.evaluation import Evaluation
from emotion_circuits.evaluation.accuracy import Question
from emotion_circuits.evaluation.judges import Judge, Score
from emotion_circuits.generation import Backend, GenerationConfig
from emotion_circuits.model import HookedModel
from emotion_circuits.pipeline.backend import generator_of
from emotion_circuits.pipeline.folder import RunFolder, read_manifest
from emotion_circuits.pipeline.judging import judge_of
from emotion_circuits.pipeline.manifest import place
from emotion_circuits.pipeline.presets import RunPreset, run_preset
from emotion_circuits.pipeline.settings import Settings, stored
from emotion_circuits.replies import Replies, join


class Run:
    """What a stage is given.

    Args:
        settings: what to run.
        folder: where.
        data: train, validation and test scenarios; by default those that the settings name, when they are first
            needed.
        judge: of the replies; the one that the settings name by default.
        model: if it is loaded already.
    """

    def __init__(
        self,
        settings: Settings,
        folder: RunFolder,
        data: Sequence[SEV] | None = None,
        judge: Judge | None = None,
        model: HookedModel | None = None,
    ) -> None:
        self.settings, self.folder = settings, folder
        self._data, self._judge, self._model = data, judge, model
        self._checked = False  # that the model is the one that the run was started with

    @property
    def emotions(self) -> tuple[str, ...]:
        """The labels."""
        return self.settings.emotions

    @cached_property
    def _worded(self) -> list[SEV]:
        if self._data is None:
            self._data = load_data(self.settings)
            for name, value in data_facts(self._data).items():
                self.folder.check_fact(name, value, "put back the scenarios that it was made with")
        return [part.worded(self.settings.wording) for part in self._data]

    @property
    def train(self) -> SEV:
        """Scenarios that directions and circuits are made from.

        Raises:
            DataError: they are no longer where they were.
            RunError: they are others than those that the run was made with.
        """
        return self._worded[0]

    @property
    def validation(self) -> SEV:
        """Scenarios that strengths are chosen on; raises as `train`."""
        return self._worded[1]

    @property
    def test(self) -> SEV:
        """Scenarios that methods are compared on; raises as `train`."""
        return self._worded[2]

    @property
    def preset(self) -> RunPreset:
        """What the stages do."""
        return run_preset(self.settings.preset)

    @property
    def question(self) -> Question:
        """What the judge is asked."""
        return self.preset.stages.evaluate["question"]

    @property
    def judge(self) -> Judge:
        """Of the replies; made when a stage first needs it."""
        if self._judge is None:
            settings, cache = self.settings, place(self.folder.path, "judge/answers.jsonl")
            self._judge = judge_of(settings.judge, settings.labels, lambda: self.model, settings.judge_url, cache)
        self.folder.check_fact("judge", self._judge.name, "give the same one, or another --out")
        return self._judge

    @property
    def judged_by(self) -> str:
        """Name of the judge whose scores the run holds."""
        return self.folder.manifest["facts"].get("judge") or self.judge.name

    @property
    def model(self) -> HookedModel:
        """The model, loaded when a stage first needs it."""
        if self._model is None:
            self._model = load_model(self.settings)
        if not self._checked:
            advice = "the model has changed under its name; choose another --out, or the --revision of then"
            self.folder.check_fact("weights", self._model.fingerprint(), advice)
            self._checked = True
        return self._model

    def generator(self) -> HookedModel | Backend:
        """What elicits: the model, or the backend that the settings name, started anew."""
        return generator_of(self.settings, lambda: self.model)

    def config(self, temperature: float = 0.0) -> GenerationConfig:
        """How methods' replies are decoded, the same for every method."""
        return self._config(self.preset.stages.generate["config"], temperature)

    def elicitation_config(self) -> GenerationConfig:
        """How elicited replies are decoded."""
        return self._config(self.preset.stages.elicit["config"])

    def _config(self, held: GenerationConfig, temperature: float = 0.0) -> GenerationConfig:
        settings = self.settings
        return replace(held, max_new_tokens=settings.max_new_tokens, temperature=temperature, seed=settings.seed)

    @property
    def size(self) -> int:
        """Nodes in a circuit."""
        return self.settings.size or min(self.preset.stages.circuit["size"], self.model.dims.n_nodes // 20)

    # What stages left behind

    def replies(self, emotion: str | None) -> Replies:
        """Elicited replies on the training split; None gives the uninstructed ones."""
        return Replies.load(self.folder.file(elicited(emotion)))

    def evaluation(self) -> Evaluation:
        """The judged replies of the training split, all emotions."""
        replies = join(self.replies(emotion) for emotion in self.emotions)
        return Evaluation(replies, load_scores(self.folder.file("judge/scores.jsonl")), self.judged_by, self.question)

    def directions(self) -> EmotionDirections:
        """The fitted directions."""
        return EmotionDirections.load(self.folder.file("directions/directions.safetensors"))

    def contrasts(self, baseline: Baseline) -> dict[str, Contrast]:
        """The fitted contrasts against one baseline."""
        return {e: Contrast.load(self.folder.file(contrast_file(baseline, e))) for e in self.emotions}

    def all_contrasts(self) -> dict[Baseline, dict[str, Contrast]]:
        """The fitted contrasts, by baseline and emotion."""
        return {baseline: self.contrasts(baseline) for baseline in self.preset.baselines}

    def attributions(self) -> dict[str, Attribution]:
        """Every emotion's scores that nodes are ranked by."""
        return {e: Attribution.load(self.folder.file(f"attribute/{e}.safetensors")) for e in self.emotions}

    def head_importances(self) -> dict[str, Attribution]:
        """Head importance of every emotion."""
        return {e: Attribution.load(self.folder.file(f"attribute/heads-{e}.safetensors")) for e in self.emotions}

    def influence(self) -> Influence:
        """The sublayers' influence."""
        return Influence.load(self.folder.file("influence/influence.safetensors"))

    def circuits(self) -> dict[str, Circuit]:
        """The calibrated circuits."""
        return {e: Circuit.load(self.folder.file(f"circuit/{e}.safetensors")) for e in self.emotions}

    def calibration(self) -> dict[str, Any]:
        """What was chosen on the validation split, by kind of method and emotion."""
        path = self.folder.file("circuit/calibration.json")
        held = read_json(path)
        for kind in ("circuit", "steering"):
            points = held.get(kind)
            for emotion in self.emotions:
                point = points.get(emotion) if isinstance(points, dict) else None
                build(Point, f"{path}, {kind}, {emotion}", point)
        return held

    def calibration_of(self, kind: str) -> Calibration:
        """Everything that was tried on the validation split for one kind of method, with its dose-response curves."""
        held = self.calibration()
        search = held.get(f"{kind} search")
        return Calibration.from_dict({"chosen": held[kind], **(search if isinstance(search, dict) else {})})

    def modulations(self) -> dict[str, CircuitModulation]:
        """Each emotion's calibrated circuit, with the strength and the positions that were chosen for it."""
        chosen, circuits = self.calibration()["circuit"], self.circuits()
        positions: dict[str, Positions] = {recipe.name: recipe.positions for recipe in self.preset.choice.recipes()}
        return {
            e: CircuitModulation({e: circuits[e]}, chosen[e]["strength"], positions[chosen[e]["candidate"]])
            for e in self.emotions
        }


def load_run(folder: str | Path, model: HookedModel | None = None, *, trust_remote_code: bool = False) -> Run:
    """A run as far as it has come, to read its results from; nothing is run or written.

    Args:
        folder: the run folder.
        model: if it is loaded already; else it is when it is first needed.
        trust_remote_code: let the model's repository run code of its own. What the folder says about it does not
            count: a folder may come from anybody.

    Raises:
        RunError: there is no run, or its settings are damaged.
    """
    manifest = read_manifest(folder)
    try:
        held: dict[str, Any] = stored(manifest["settings"]) | {"trust_remote_code": trust_remote_code}
        settings = build(Settings, folder, vars(Settings.of(**held)))
    except (KeyError, TypeError, AttributeError, EmotionCircuitsError) as error:
        raise RunError(f"{folder} has damaged settings in its manifest.json ({error})") from error
    return Run(settings, RunFolder(Path(folder), manifest), model=model)


def elicited(emotion: str | None) -> str:
    """Where the replies to one instruction are kept."""
    return f"elicit/{emotion or 'uninstructed'}.jsonl"


def contrast_file(baseline: Baseline, emotion: str) -> str:
    """Where a contrast is kept."""
    return f"directions/contrast-{baseline}-{emotion}.safetensors"


def load_model(settings: Settings) -> HookedModel:
    """The model that the settings name."""
    if settings.model == "demo":
        return HookedModel.demo(dtype=settings.dtype or "float32", device=settings.device or "cpu")
    return HookedModel.from_pretrained(
        settings.model,
        dtype=settings.dtype or "bfloat16",
        device=settings.device,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )


def load_data(settings: Settings) -> tuple[SEV, SEV, SEV]:
    """Disjoint train, validation and test scenarios; a file of the user's own is split 50 : 20 : 30 by theme."""
    if settings.data in ("demo", "own"):
        parts = load_sev(settings.data)
    else:
        train, validation, test = SEV.from_jsonl(settings.data).split(5, 2, 3)
        parts = (train, validation, test)
    train, validation, test = (part.limit(settings.limit) for part in parts)
    return train, validation, test


def data_facts(data: Sequence[SEV]) -> dict[str, str]:
    """Hashes of the scenarios, as a run's manifest keeps them."""
    return {f"{name} data": part.sha256 for name, part in zip(("train", "validation", "test"), data, strict=True)}


def save_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write one record per score."""
    records.write(path, (vars(score) for score in scores))


def load_scores(path: Path) -> tuple[Score, ...]:
    """Read what `save_scores` wrote.

    Raises:
        DataError: a line is damaged.
        ArtefactError: a line is no score.
    """
    return tuple(build(Score, f"{path}, line {line}", fields) for line, fields in records.read(path))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that people can read too."""
    artefacts.write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        ArtefactError: the file is missing, damaged, or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} cannot be read as JSON ({error}); run the stage that makes it again") from error
    if not isinstance(content, dict):
        raise ArtefactError(f"{path} holds a {type(content).__name__} instead of a JSON object")
    return content
