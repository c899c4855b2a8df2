"""Comparison: several methods on the same items, judged alike (method.md, stage 8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emotion_circuits.control.methods import Method
from emotion_circuits.data.sev import SEV, Item
from emotion_circuits.evaluation.accuracy import Evaluation, evaluate
from emotion_circuits.evaluation.judges import Judge
from emotion_circuits.evaluation.text_quality import Fluency, fluency
from emotion_circuits.generation import GenerationConfig, generate, relabelled
from emotion_circuits.intervals import mcnemar
from emotion_circuits.model import HookedModel
from emotion_circuits.replies import Replies, join
from emotion_circuits.types import EKMAN, NEUTRAL

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """Every method's replies, scores and fluency.

    Attributes:
        evaluations: by method.
        fluencies: by method.
    """

    evaluations: Mapping[str, Evaluation]
    fluencies: Mapping[str, Fluency]

    def table(self) -> pd.DataFrame:
        """One row per method: accuracy with interval, unscored and neutral shares, fluency."""
        import pandas as pd

        rows = []
        for name, evaluation in self.evaluations.items():
            overall = evaluation.accuracy().iloc[0].to_dict()
            neutral = {"neutral": evaluation.share(NEUTRAL)}
            rows.append({"method": name, **overall, **neutral, **vars(self.fluencies[name])})
        return pd.DataFrame(rows)

    def by_emotion(self) -> pd.DataFrame:
        """One row per method and emotion: accuracy with interval."""
        import pandas as pd

        parts = [evaluation.accuracy("emotion").assign(method=name) for name, evaluation in self.evaluations.items()]
        return pd.concat(parts, ignore_index=True)

    def paired(self, first: str, second: str) -> dict[str, float]:
        """McNemar's test of two methods on the items that both answered."""
        only_first, only_second, p = mcnemar(self.evaluations[first].hits, self.evaluations[second].hits)
        return {"only_first": only_first, "only_second": only_second, "p": p}

    @property
    def replies(self) -> Replies:
        """All replies of all methods."""
        return join(evaluation.replies for evaluation in self.evaluations.values())


def run_method(
    model: HookedModel,
    method: Method,
    items: Sequence[Item],
    emotions: Sequence[str] = EKMAN,
    config: GenerationConfig | None = None,
    *,
    batch_size: int | None = None,
) -> Replies:
    """Replies to every item under every emotion, by one method.

    Emotions whose prompts and patches are the same (a method that does nothing) are generated once.
    """
    parts: list[Replies] = []
    same: Replies | None = None
    for emotion in emotions:
        prompts, patches = method.prepare(items, emotion)
        untouched = not patches and all(prompt.emotion is None for prompt in prompts)
        if untouched and same is not None:
            new = same
        else:
            new = generate(model, prompts, patches, config, batch_size=batch_size)
            same = new if untouched else same
        parts.append(relabelled(new, emotion=emotion, method=method.name))
    return join(parts)


def compare(
    model: HookedModel,
    methods: Sequence[Method],
    data: SEV,
    judge: Judge,
    emotions: Sequence[str] = EKMAN,
    config: GenerationConfig | None = None,
    *,
    batch_size: int | None = None,
    on_method: Callable[[str, Replies], None] | None = None,
) -> Comparison:
    """Run, judge and score several methods on the same items.

    Args:
        model: the model.
        methods: what to compare; see `emotion_circuits.control`.
        data: held-out items.
        judge: asked the strict question.
        emotions: emotions to aim at.
        config: how to decode, the same for all.
        batch_size: rows in a batch.
        on_method: called with each method's name and replies as soon as they are there.
    """
    evaluations, fluencies = {}, {}
    for method in methods:
        replies = run_method(model, method, data.items, emotions, config, batch_size=batch_size)
        if on_method:
            on_method(method.name, replies)
        evaluations[method.name] = evaluate(replies, judge)
        fluencies[method.name] = fluency(model, replies, batch_size=batch_size)
    return Comparison(evaluations, fluencies)
