"""Settings of a run: everything that its results depend on, and where it may run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from emotion_circuits.data.instructions import Wording
from emotion_circuits.data.labels import LabelSet
from emotion_circuits.endpoint import check_url
from emotion_circuits.errors import DataError
from emotion_circuits.model.loading import as_dtype
from emotion_circuits.pipeline.presets import run_preset
from emotion_circuits.types import EKMAN

FREE = ("device", "batch_size", "judge_url", "base_url")
"""Settings that may change when a run is taken up again: they decide where and how fast, not what."""

BACKENDS = ("local", "vllm", "openai")
"""What can make the elicited replies."""


def stored(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run folder's settings count for. A folder may come from anybody.

    Where to run, whom to send prompts and a key, and whose code to trust, is for the user alone to say.
    """
    return {name: value for name, value in settings.items() if name not in FREE} | {"trust_remote_code": False}


@dataclass(frozen=True)
class Settings:
    """What to run.

    Attributes:
        model: ``"demo"``, a Hugging Face name or a local folder.
        revision: branch, tag or commit on the hub.
        data: ``"demo"``, ``"own"`` or a SEV JSONL file.
        emotions: labels to elicit; `of` also takes a label set, or its name or file.
        label_set: what is known about these labels beside their names.
        language: of the instructions.
        judge: of the replies: ``"lexicon"``, ``"classifier:NAME"``, ``"llm:MODEL"`` or ``"self"``.
        judge_url: endpoint of an LLM judge; None is the `openai` client's.
        preset: how every stage works: ``"default"``, or ``"paper"`` for what the reference study did.
        dtype: of the weights; None is float32 for the demo model and bfloat16 for others.
        seed: of every random choice.
        limit: at most this many scenarios in each of train, validation and test.
        max_new_tokens: longest reply; None takes the preset's.
        size: nodes in a circuit; None is 560, or 5 % of the model's nodes if that is fewer.
        temperature: of the second, sampled table; None leaves it out.
        trust_remote_code: let the model's repository run code of its own.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``; ``"auto"`` spreads the layers over all GPUs; None picks.
        batch_size: rows in a batch; None picks.
        backend: what elicits: ``"local"`` (the model itself), ``"vllm"``, or ``"openai"``, a server.
        base_url: of that server.
        served_model: the model's name there; None is ``model``.
    """

    model: str = "demo"
    revision: str | None = None
    data: str = "demo"
    emotions: tuple[str, ...] = EKMAN
    label_set: LabelSet | None = None
    language: str = "en"
    judge: str = "lexicon"
    judge_url: str | None = None
    preset: str = "default"
    dtype: str | None = None
    seed: int = 0
    limit: int | None = None
    max_new_tokens: int | None = None
    size: int | None = None
    temperature: float | None = 0.7
    trust_remote_code: bool = False
    device: str | None = None
    batch_size: int | None = None
    backend: str = "local"
    base_url: str | None = None
    served_model: str | None = None

    def __post_init__(self) -> None:
        usual = run_preset(self.preset).max_new_tokens
        object.__setattr__(self, "max_new_tokens", usual if self.max_new_tokens is None else self.max_new_tokens)
        if len(self.emotions) < 2 or len(set(self.emotions)) < len(self.emotions):
            raise DataError(
                f"emotions must be at least two different labels, got {', '.join(self.emotions) or 'none'}; a "
                "direction is what distinguishes one from the others"
            )
        for name in ("limit", "max_new_tokens", "size", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name.replace('_', '-')} must be at least 1, got {value}")
        if self.temperature is not None and not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise DataError(f"temperature must be a finite number of at least 0, got {self.temperature}")
        self._check_texts()
        if self.dtype is not None:
            as_dtype(self.dtype)
        if self.backend not in BACKENDS:
            raise DataError(f"no backend is called {self.backend!r}; use {', '.join(BACKENDS)}")
        if self.labels.names != self.emotions:
            held = ", ".join(self.labels.names)
            raise DataError(f"emotions are {', '.join(self.emotions)}, but the label set has {held}")
        for emotion in self.emotions:
            self.wording.instruction(emotion)

    def _check_texts(self) -> None:
        """Refuse texts that no manifest can hold, and addresses that may hold a secret."""
        for name, value in asdict(self).items():
            try:
                json.dumps(value, ensure_ascii=False, default=str).encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{name.replace('_', '-')} holds characters that are not UTF-8: {value!r:.200}; rename the file or "
                    "folder, or retype the text"
                ) from error
        for name in ("judge_url", "base_url"):
            check_url(getattr(self, name), name.replace("_", "-"))

    @classmethod
    def of(cls, emotions: str | LabelSet | Sequence[str] = EKMAN, **given: Any) -> Settings:
        """Settings from what people write and what JSON keeps.

        Args:
            emotions: a label set, labels, or what `LabelSet.parse` reads: a shipped set's name, a YAML file, labels
                separated by commas.
            given: the other settings; a ``label_set`` may be a mapping, as `identity` has it.
        """
        labels = LabelSet.parse(emotions) if isinstance(emotions, str) else emotions
        if isinstance(labels, LabelSet):
            given["label_set"] = None if labels == LabelSet.of(*labels.names) else labels
        elif isinstance(given.get("label_set"), Mapping):
            given["label_set"] = LabelSet.from_dict(given["label_set"])
        return cls(emotions=tuple(labels), **given)

    @property
    def labels(self) -> LabelSet:
        """The labels with all that is known about them."""
        return self.label_set or LabelSet.of(*self.emotions)

    @property
    def wording(self) -> Wording:
        """How the labels are asked for in the settings' language."""
        return self.labels.wording(self.language)

    def identity(self) -> dict[str, Any]:
        """The settings that results depend on, as JSON has them."""
        held = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in held.items() if name not in FREE}

    def differences(self, other: dict[str, Any]) -> list[str]:
        """What differs from the settings that another run was started with, in words."""
        mine = self.identity()
        # A setting that the other run did not have yet stood at its default.
        then = {f.name: other.get(f.name, f.default) for f in fields(self) if f.name in mine}
        return [f"{n}: {held!r} then, {mine[n]!r} now" for n, held in then.items() if held != mine[n]]
