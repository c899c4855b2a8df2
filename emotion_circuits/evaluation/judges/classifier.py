"""`ClassifierJudge`: any Hugging Face text classifier as a judge.

1. Its labels are mapped to emotions: by ``label_map``, or by their names and common synonyms (joy -> happiness).
2. Texts run in batches of similar length; probabilities of labels that map to one emotion are added (softmax), or
   the largest counts (multi-label classifiers with a sigmoid).
3. An emotion must reach ``threshold``. If none does, the answer is "neutral" where the classifier can mean that
   (its neutral label is on top, it has none, or it is multi-label), and unscored otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from emotion_circuits.errors import ModelError
from emotion_circuits.evaluation.judges.base import NEUTRAL, Score, check_emotions, check_texts
from emotion_circuits.types import EKMAN

SYNONYMS: dict[str, str] = {
    word: emotion
    for emotion, words in {
        "anger": "anger angry annoyance disapproval rage irritation frustration mad fury hostility",
        "sadness": "sadness sad grief disappointment remorse sorrow depression unhappy loneliness",
        "happiness": "happiness happy joy joyful love amusement excitement gratitude optimism pride relief admiration "
        "approval caring enthusiasm fun contentment delight",
        "fear": "fear afraid scared nervousness worry anxiety anxious terror panic horror",
        "surprise": "surprise surprised amazement astonishment shock realization",
        "disgust": "disgust disgusted revulsion contempt aversion",
        NEUTRAL: "neutral none no-emotion noemo no_emotion neutrality other",
    }.items()
    for word in words.split()
}


class ClassifierJudge:
    """Judges with a text-classification model.

    Args:
        model: A Hub name or folder, or a loaded sequence-classification model (then give its tokenizer too).
        tokenizer: The model's tokenizer; loaded from ``model`` if that is a name.
        label_map: The model's label -> an emotion, "neutral", or None to ignore the label. Labels that it leaves out
            are looked up by name.
        device: Where to run; by default where a given model is, or CUDA if there is one.
        threshold: Smallest probability at which an emotion is answered.
        batch_size: Texts per forward pass.

    Raises:
        ModelError: labels of the model can be mapped to no emotion; the message lists them.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        label_map: Mapping[str, str | None] | None = None,
        device: str | None = None,
        threshold: float = 0.5,
        batch_size: int = 32,
    ) -> None:
        self.model, self.tokenizer = _load(model, tokenizer, device)
        self.name = f"classifier:{model if isinstance(model, str) else self.model.config.name_or_path or 'model'}"
        self.threshold, self.batch_size = threshold, batch_size
        id2label = self.model.config.id2label
        self.targets = map_labels([id2label[i] for i in range(len(id2label))], label_map or {})
        found = set(self.targets) - {None, NEUTRAL}
        self.labels = (*[e for e in EKMAN if e in found], *sorted(str(e) for e in found if e not in EKMAN))
        self.has_neutral = NEUTRAL in self.targets
        self.multi_label = self.model.config.problem_type == "multi_label_classification"

    def __call__(self, texts: Sequence[str]) -> list[Score]:
        """The most probable label of each text."""
        return [self._classify(p) if p else Score(None, "empty: no words") for p in self._scores(check_texts(texts))]

    def match(self, texts: Sequence[str], emotions: Sequence[str] | str) -> list[Score]:
        """The emotion asked for where its probability reaches the threshold.

        Raises:
            EmotionError: the classifier has no label for an emotion.
        """
        texts = check_texts(texts)
        emotions = check_emotions(texts, emotions, self.labels)
        out = []
        for score, emotion in zip(self(texts), emotions, strict=True):
            p = score.scores.get(emotion, 0.0)
            if p >= self.threshold:
                score = Score(emotion, f"p({emotion}) = {p:.2f}", score.scores)
            elif score.label is None and score.scores:  # torn between others, but surely not this one
                score = Score(NEUTRAL, f"p({emotion}) = {p:.2f} is below {self.threshold}", score.scores)
            out.append(score)
        return out

    def _classify(self, scores: dict[str, float]) -> Score:
        best = max(self.labels, key=lambda label: scores[label])
        reason = f"p({best}) = {scores[best]:.2f}"
        if scores[best] >= self.threshold and scores[best] >= scores.get(NEUTRAL, 0.0):
            return Score(best, reason, scores)
        if self.multi_label or not self.has_neutral or scores[NEUTRAL] >= scores[best]:
            return Score(NEUTRAL, f"{reason}, which is not enough", scores)
        return Score(None, f"unsure: {reason} is below {self.threshold}", scores)

    def _scores(self, texts: list[str]) -> Iterator[dict[str, float]]:
        """Yields the probability per emotion of each text, and {} for an empty one."""
        order = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: len(texts[i]))
        found: dict[int, dict[str, float]] = {}
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            found.update(zip(batch, self._forward([texts[i] for i in batch]), strict=True))
        for i in range(len(texts)):
            yield found.get(i, {})

    def _forward(self, texts: list[str]) -> list[dict[str, float]]:
        import torch

        limit = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 512) - 2)
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=limit)
        with torch.inference_mode():
            logits = self.model(**inputs.to(self.model.device)).logits.float()
        rows = (logits.sigmoid() if self.multi_label else logits.softmax(-1)).tolist()
        return [self._merge(row) for row in rows]

    def _merge(self, row: list[float]) -> dict[str, float]:
        scores: dict[str, float] = dict.fromkeys((*self.labels, *([NEUTRAL] if self.has_neutral else [])), 0.0)
        for target, p in zip(self.targets, row, strict=True):
            if target is not None:
                scores[target] = max(scores[target], p) if self.multi_label else scores[target] + p
        return scores


def map_labels(labels: Sequence[str], given: Mapping[str, str | None]) -> list[str | None]:
    """What each of a classifier's labels stands for (None: ignored).

    Raises:
        ModelError: a label is unknown, or ``given`` names a label that the classifier does not have.
    """
    strangers = [label for label in given if label not in labels]
    if strangers:
        raise ModelError(f"label_map names {strangers}, but the classifier's labels are {list(labels)}: correct these")
    out: list[str | None] = []
    unknown = []
    for label in labels:
        if label in given:
            out.append(given[label])
        else:
            out.append(SYNONYMS.get(label.strip().lower()))
            if out[-1] is None:
                unknown.append(label)
    if unknown:
        raise ModelError(
            f"no emotion is known for the classifier's labels {unknown} (all labels: {list(labels)}): give "
            f"label_map={{{unknown[0]!r}: 'anger', ...}} with an emotion, 'neutral', or None to ignore a label"
        )
    if not set(out) - {None, NEUTRAL}:
        raise ModelError(f"label_map leaves no emotion among {out}: map at least one label to an emotion")
    return out


def _load(model: Any, tokenizer: Any, device: str | None) -> tuple[Any, Any]:
    import torch

    if isinstance(model, str):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(model, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(model, trust_remote_code=False)
        except (OSError, ValueError) as error:  # ValueError: the model wants to run code of its own
            raise ModelError(
                f"the classifier {model!r} cannot be loaded: {error}. Give the folder or the Hub name of a "
                "sequence-classification model; offline, download it first"
            ) from error
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if tokenizer is None:
        raise ModelError(f"{type(model).__name__} came without a tokenizer: give tokenizer=... beside a loaded model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return (model.to(device) if device else model).eval(), tokenizer
