"""Comparison: several methods on the same items, judged alike (method.md, stage 8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from emotion_circuits.control.methods import Method
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.data.sev import SEV, Item
from emotion_circuits.errors import DataError
from emotion_circuits.evaluation.accuracy import Evaluation, evaluate
from emotion_circuits.evaluation.judges import Judge
from emotion_circuits.evaluation.text_quality import Fluency, fluency
from emotion_circuits.generation import GenerationConfig, generate
from emotion_circuits.intervals import mcnemar
from emotion_circuits.interventions import Patch
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
            (overall,) = evaluation.accuracy().to_dict("records")
            neutral = {"neutral": evaluation.share(NEUTRAL)}
            rows.append({"method": name, **overall, **neutral, **vars(self.fluencies[name])})
        return pd.DataFrame(rows)

    def by_emotion(self) -> pd.DataFrame:
        """One row per method and emotion: accuracy with interval."""
        import pandas as pd

        parts = [evaluation.accuracy("emotion").assign(method=name) for name, evaluation in self.evaluations.items()]
        return pd.concat(parts, ignore_index=True)

    def paired(self, first: str, second: str) -> dict[str, float | int]:
        """McNemar's exact test of two methods on the items that both answered and the judge could score.

        Returns:
            ``only_first, only_second`` (hits of one method alone), ``p``, ``n`` pairs compared, ``unscored`` pairs left
            out.
        """
        one, other = self.evaluations[first], self.evaluations[second]
        verdicts = zip(one.scores, other.scores, one.hits, other.hits, strict=True)
        pairs = [(a, b) for s, t, a, b in verdicts if s.label is not None and t.label is not None]
        only_first, only_second, p = mcnemar([a for a, _ in pairs], [b for _, b in pairs])
        unscored = len(one.scores) - len(pairs)
        return {"only_first": only_first, "only_second": only_second, "p": p, "n": len(pairs), "unscored": unscored}

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

    All emotions are generated together, each on rows of its own, so that what their prompts share is computed once.
    """
    prompts: list[Prompt] = []
    patches: list[Patch] = []
    for emotion in emotions:
        new, acting = method.prepare(items, emotion)
        patches += [patch.on(range(len(prompts), len(prompts) + len(new))) for patch in acting]
        prompts += new
    replies = generate(model, prompts, patches, config, batch_size=batch_size)
    wanted = [emotion for emotion in emotions for _ in items]
    return Replies(tuple(replace(r, emotion=e, method=method.name) for r, e in zip(replies, wanted, strict=True)))


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
    names = [method.name for method in methods]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"two methods are called {', '.join(repeated)}; give each a name of its own")
    evaluations, fluencies = {}, {}
    for method in methods:
        replies = run_method(model, method, data.items, emotions, config, batch_size=batch_size)
        if on_method:
            on_method(method.name, replies)
        evaluations[method.name] = evaluate(replies, judge)
        fluencies[method.name] = fluency(model, replies, batch_size=batch_size)
    return Comparison(evaluations, fluencies)
