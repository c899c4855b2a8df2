"""A run: its settings, folder, model, data and judge, and what earlier stages left for later ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emotion_circuits import artefacts
from emotion_circuits.activations import Baseline, Contrast
from emotion_circuits.attribution import Attribution, Influence
from emotion_circuits.circuits import Circuit
from emotion_circuits.data.sev import SEV, load_sev
from emotion_circuits.directions import EmotionDirections
from emotion_circuits.evaluation import Evaluation
from emotion_circuits.evaluation.judges import Judge, LexiconJudge, Score
from emotion_circuits.generation import GenerationConfig
from emotion_circuits.model import HookedModel
from emotion_circuits.pipeline.folder import RunFolder
from emotion_circuits.pipeline.settings import Settings
from emotion_circuits.replies import Replies, join

BASELINES: tuple[Baseline, ...] = ("uninstructed", "emotions")


class Run:
    """What a stage is given.

    Args:
        settings: what to run.
        folder: where.
        data: train, validation and test scenarios.
        judge: of the replies; `LexiconJudge` by default.
        model: if it is loaded already.
    """

    def __init__(
        self,
        settings: Settings,
        folder: RunFolder,
        data: Sequence[SEV],
        judge: Judge | None = None,
        model: HookedModel | None = None,
    ) -> None:
        self.settings, self.folder = settings, folder
        self.train, self.validation, self.test = data
        self.judge: Judge = judge or LexiconJudge()
        self._model = model

    @property
    def emotions(self) -> tuple[str, ...]:
        """The labels."""
        return self.settings.emotions

    @property
    def model(self) -> HookedModel:
        """The model, loaded when a stage first needs it."""
        if self._model is None:
            self._model = load_model(self.settings)
        return self._model

    def config(self, temperature: float = 0.0) -> GenerationConfig:
        """How replies are decoded, the same for every method."""
        return GenerationConfig(
            max_new_tokens=self.settings.max_new_tokens, temperature=temperature, seed=self.settings.seed
        )

    @property
    def size(self) -> int:
        """Nodes in a circuit."""
        return self.settings.size or min(560, self.model.dims.n_nodes // 20)

    # What stages left behind

    def replies(self, emotion: str | None) -> Replies:
        """Elicited replies on the training split; None gives the uninstructed ones."""
        return Replies.load(self.folder.path / elicited(emotion))

    def evaluation(self) -> Evaluation:
        """The judged replies of the training split, all emotions."""
        replies = join(self.replies(emotion) for emotion in self.emotions)
        return Evaluation(replies, load_scores(self.folder.path / "judge/scores.jsonl"), self.judge.name)

    def directions(self) -> EmotionDirections:
        """The fitted directions."""
        return EmotionDirections.load(self.folder.path / "directions/directions.safetensors")

    def contrasts(self, baseline: Baseline) -> dict[str, Contrast]:
        """The fitted contrasts against one baseline."""
        return {e: Contrast.load(self.folder.path / contrast_file(baseline, e)) for e in self.emotions}

    def all_contrasts(self) -> dict[Baseline, dict[str, Contrast]]:
        """The fitted contrasts, by baseline and emotion."""
        return {baseline: self.contrasts(baseline) for baseline in BASELINES}

    def attributions(self) -> dict[str, Attribution]:
        """Direct attribution of every emotion."""
        return {e: Attribution.load(self.folder.path / f"attribute/{e}.safetensors") for e in self.emotions}

    def head_importances(self) -> dict[str, Attribution]:
        """Head importance of every emotion."""
        return {e: Attribution.load(self.folder.path / f"attribute/heads-{e}.safetensors") for e in self.emotions}

    def influence(self) -> Influence:
        """The sublayers' influence."""
        return Influence.load(self.folder.path / "influence/influence.safetensors")

    def circuits(self) -> dict[str, Circuit]:
        """The calibrated circuits."""
        return {e: Circuit.load(self.folder.path / f"circuit/{e}.safetensors") for e in self.emotions}

    def calibration(self) -> dict[str, Any]:
        """What was chosen on the validation split, by kind of method and emotion."""
        return json.loads((self.folder.path / "circuit/calibration.json").read_text(encoding="utf-8"))


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


def save_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write one JSON object per score."""
    artefacts.write_text(path, "".join(json.dumps(vars(score), ensure_ascii=False) + "\n" for score in scores))


def load_scores(path: Path) -> tuple[Score, ...]:
    """Read what `save_scores` wrote."""
    return tuple(Score(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that people can read too."""
    artefacts.write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
