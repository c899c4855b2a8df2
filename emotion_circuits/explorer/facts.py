"""What is known about one node: `NodeFacts`, gathered by `Evidence` from a run's results and from the model.

The prompts are the run's own, as attribution has used them: training scenarios under an instruction, where the judge
accepted the reply. Of each emotion an even sample is taken, so that a click takes a moment and not as long as a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from emotion_circuits.attribution import Attribution
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.explorer.writes import NodeWrites, Vocabulary, removal
from emotion_circuits.measurement import Measurement
from emotion_circuits.model import HookedModel
from emotion_circuits.model.writes import SUBLAYER_OF
from emotion_circuits.nodes import Node
from emotion_circuits.pipeline import Run
from emotion_circuits.types import SUBLAYER_SITE

if TYPE_CHECKING:
    import pandas as pd

    from emotion_circuits.directions import EmotionDirections


@dataclass(frozen=True, eq=False)
class NodeFacts:
    """One node in the light of one emotion.

    Attributes:
        node: the node.
        emotion: the emotion.
        scores: one row per emotion, see `Evidence.scores`.
        samples: one row per prompt, see `Evidence.samples`.
        vocabulary: what it writes straight into the next token's logits when asked for the emotion (mean).
        projection: how strongly the emotion is written at the end when it is asked for.
        removal: the change of that when the node is set to zero.
    """

    node: Node
    emotion: str
    scores: pd.DataFrame
    samples: pd.DataFrame
    vocabulary: Vocabulary
    projection: Measurement
    removal: Measurement

    def to_frame(self) -> pd.DataFrame:
        """`scores`."""
        return self.scores

    def __repr__(self) -> str:
        (score,) = (row for row in self.scores.to_dict("records") if row["emotion"] == self.emotion)
        best = self.samples.iloc[0]
        return "\n".join([
            f"NodeFacts({self.node} and {self.emotion})",
            f"  score    {score['score']:.4g}, number {score['rank']} of {score['of']} {self.node.kind}s",
            f"  writes   {self.vocabulary!r}",
            f"  most for {best['text']!r} (asked for {best['emotion']})",
            f"  removed  changes the projection of {self.projection.mean:.4g} by {self.removal!r}",
        ])  # fmt: skip


class Evidence:
    """What a run knows about its nodes; read, or measured, when it is first asked for.

    Args:
        model: the model.
        run: the run.
        samples: most prompts of each emotion that a node is looked at on.
    """

    def __init__(self, model: HookedModel, run: Run, samples: int = 24) -> None:
        self.model, self.run, self._n = model, run, samples

    def facts(self, node: Node, emotion: str) -> NodeFacts:
        """Everything about one node in the light of one emotion."""
        projection, change = self.removal(node, emotion)
        scores, samples = self.scores(node), self.samples(node, emotion)
        return NodeFacts(node, emotion, scores, samples, self.vocabulary(node, emotion), projection, change)

    @cached_property
    def attributions(self) -> dict[str, Attribution]:
        """Every emotion's scores of all nodes."""
        return self.run.attributions()

    @cached_property
    def head_importances(self) -> dict[str, Attribution]:
        """Every emotion's importance of all heads."""
        return self.run.head_importances()

    @cached_property
    def directions(self) -> EmotionDirections:
        """The emotions' directions."""
        return self.run.directions()

    @cached_property
    def writes(self) -> NodeWrites:
        """What nodes write on the prompts."""
        accepted = self.run.evaluation().accepted()
        held = [even_sample(accepted.of(emotion).prompts, self._n) for emotion in self.run.emotions]
        return NodeWrites(self.model, [prompt for part in held for prompt in part])

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts, emotion by emotion."""
        return self.writes.prompts

    def rows(self, emotion: str) -> list[int]:
        """Which of the prompts ask for an emotion."""
        return [i for i, prompt in enumerate(self.prompts) if prompt.emotion == emotion]

    def scores(self, node: Node) -> pd.DataFrame:
        """One row per emotion: ``emotion, score, std, rank, of``, and a head's ``importance``.

        ``rank`` counts from 1 among the ``of`` nodes of its kind.
        """
        import pandas as pd

        rows = []
        for emotion, held in self.attributions.items():
            values = held.values.values(node.kind)
            score = values[node.layer, node.index]
            std = float("nan") if held.std is None else float(held.std.values(node.kind)[node.layer, node.index])
            row = {"emotion": emotion, "score": float(score), "std": std}
            row |= {"rank": 1 + int((values > score).sum()), "of": values.numel()}
            if node.kind == "head":
                row["importance"] = float(self.head_importances[emotion].values.heads[node.layer, node.index])
            rows.append(row)
        return pd.DataFrame(rows)

    def samples(self, node: Node, emotion: str) -> pd.DataFrame:
        """One row per prompt, largest contribution first: ``text, emotion, item, contribution, activation``.

        ``contribution`` is what the node writes along ``emotion``'s direction at its sublayer; the column ``emotion``
        is the one that the prompt asks for.
        """
        import pandas as pd

        along = self.writes.write(node) @ self._local(node, emotion)
        columns = {
            "text": [prompt.messages[-1][1] for prompt in self.prompts],
            "emotion": [prompt.emotion for prompt in self.prompts], "item": [prompt.item for prompt in self.prompts],
            "contribution": along.tolist(), "activation": self.writes.activation(node).tolist(),
        }  # fmt: skip
        return pd.DataFrame(columns).sort_values("contribution", ascending=False, kind="stable", ignore_index=True)

    def vocabulary(self, node: Node, emotion: str) -> Vocabulary:
        """What the node writes into the next token's logits when the emotion is asked for."""
        return self.writes.vocabulary(node, self.rows(emotion))

    def removal(self, node: Node, emotion: str) -> tuple[Measurement, Measurement]:
        """The projection on the emotion where it is asked for, and its change when the node is set to zero."""
        asked = [self.prompts[i] for i in self.rows(emotion)]
        return removal(self.model, node, asked, self.directions.target(emotion))

    def _local(self, node: Node, emotion: str) -> Float[Tensor, " d_model"]:
        target, site = self.directions.target(emotion), SUBLAYER_SITE[SUBLAYER_OF[node.kind]]
        return target.local(self.model, site, node.layer).float().cpu()


def even_sample(prompts: Sequence[Prompt], n: int) -> list[Prompt]:
    """At most ``n`` of the prompts, evenly spread over their order."""
    count = min(n, len(prompts))
    return [prompts[i * len(prompts) // count] for i in range(count)]
