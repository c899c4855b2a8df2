"""The discovery benchmark: which method finds the circuit that was planted?

1. Build every model of a grid; ask whether it still obeys its language.
2. Rank its nodes by every method, and choose circuits by every builder, for every emotion.
3. Score against the truth; average over the emotions of a model.
4. `summary` averages over models, with bootstrap intervals over models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from emotion_circuits.benchmark.grid import LOW_NOISE, GridName, grid, rung_of
from emotion_circuits.benchmark.methods import CHOICES, RANKINGS, Case, found_edges
from emotion_circuits.benchmark.scores import edge_recall, of_ranking, of_set
from emotion_circuits.elicitation import elicit
from emotion_circuits.generation import GenerationConfig
from emotion_circuits.intervals import clustered
from emotion_circuits.nodes import NodeSet
from emotion_circuits.planted import PlantedConfig, PlantedModel, planted
from emotion_circuits.progress import progress
from emotion_circuits.types import EKMAN

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("recall", "precision", "average_precision")


def discovery(configs: Sequence[PlantedConfig] | GridName = "development", methods: Sequence[str] | None = None
) -> pd.DataFrame:  # fmt: skip
    """Score every method on every planted model.

    Args:
        configs: the models, or a grid's name.
        methods: names from `RANKINGS` and `CHOICES`; all of them by default.

    Returns:
        One row per model, method and kind (``neuron``, ``head``, ``node`` for both, and ``edge`` for choices):
        ``model, half, difficulty, obeys, method, kind, recall, precision, average_precision`` and the
        configuration's fields. Scores are means over emotions.

    Raises:
        ValueError: a method is unknown.
    """
    import pandas as pd

    names = list(methods) if methods is not None else [*RANKINGS, *CHOICES]
    unknown = [name for name in names if name not in RANKINGS and name not in CHOICES]
    if unknown:
        raise ValueError(f"no method {unknown[0]!r}; there are {', '.join([*RANKINGS, *CHOICES])}")
    configs = grid(configs) if isinstance(configs, str) else configs
    rows = []
    with progress("discovery", len(configs) * len(names)) as advance:
        for i, config in enumerate(configs):
            case = Case(planted(config))
            half = "low noise" if config.noise <= LOW_NOISE else "high noise"
            about = {"model": i, "half": half, "difficulty": rung_of(config), "obeys": obedience(case.planted)}
            about |= config.to_dict()
            for name in names:
                rows += [about | {"method": name} | scored for scored in _score(case, name)]
                advance(1)
    return pd.DataFrame(rows)


def obedience(planted_model: PlantedModel) -> float:
    """Share of instructed replies in the emotion asked for, on one scenario."""
    replies = elicit(planted_model.model, planted_model.data.limit(1), config=GenerationConfig(max_new_tokens=6))
    labels = [score.label for score in planted_model.judge(replies.texts)]
    return sum(label == reply.emotion for label, reply in zip(labels, replies, strict=True)) / len(replies)


def _score(case: Case, name: str) -> Iterator[dict[str, str | float]]:
    truth = case.planted.truth_of
    if name in CHOICES:
        found = CHOICES[name](case)
        per_emotion = [of_set(found[e], truth[e]) | _edges(case, e, found[e]) for e in EKMAN]
    else:
        ranked = RANKINGS[name](case)
        per_emotion = [of_ranking(ranked[e].values, truth[e], ranked[e].kinds) for e in EKMAN]
    for kind in per_emotion[0]:
        means = {m: sum(scores[kind][m] for scores in per_emotion) / len(per_emotion) for m in MEASURES}
        yield {"kind": kind, **means}


def _edges(case: Case, emotion: str, nodes: NodeSet) -> dict[str, dict[str, float]]:
    """At the true number of edges, so that precision equals recall."""
    share = edge_recall(found_edges(case, emotion, nodes), case.planted.edges_of(emotion))
    return {"edge": {"recall": share, "precision": share, "average_precision": float("nan")}}


def summary(frame: pd.DataFrame, by: Sequence[str] = ("half",)) -> pd.DataFrame:
    """Means over models with 95 % bootstrap intervals, models drawn whole.

    Args:
        frame: what `discovery` gave.
        by: further columns to split by, e.g. ``("noise",)``, ``("difficulty",)``; none for the whole grid.

    Returns:
        One row per split, kind and method, best first: ``n_models`` and, per measure, value, ``_low`` and ``_high``.
    """
    import pandas as pd

    rows = []
    for key, part in frame.groupby([*by, "kind", "method"], sort=False):
        values = key if isinstance(key, tuple) else (key,)
        row: dict[str, Any] = dict(zip([*by, "kind", "method"], values, strict=True)) | {
            "n_models": part["model"].nunique()
        }
        for measure in MEASURES:
            held = part.dropna(subset=[measure])
            low, high = clustered(held[measure].tolist(), held["model"].tolist()) if len(held) else (float("nan"),) * 2
            row |= {measure: held[measure].mean(), f"{measure}_low": low, f"{measure}_high": high}
        rows.append(row)
    order = [*by, "kind", "recall"]
    return pd.DataFrame(rows).sort_values(order, ascending=[True] * (len(order) - 1) + [False], ignore_index=True)
