"""What the pipeline runs, stage by stage, as a list of jobs of four kinds.

read       sequences through all layers, e.g. to record activations; no logits
score      the same, with logits for every token of a reply
generate   prompts, then one token at a time
suffix     variants of the last token through half of the layers on average, after reading the prompts

With N training, V validation and T test items (an item is a scenario with one event) and E emotions:

elicit       generate (E + 1) N
directions   read E N prompts, and twice (E + 1) N prompts with replies (at the prompt's end, over the reply)
attribute    read E N prompts twice: direct attribution, head importance
influence    suffix on N prompts, 2 x layers x E x strengths variants each
circuit      for each candidate and emotion a few doses on V / 6 items, the finalists' on all V: generate and score;
             read E N prompts, scenario by scenario, for the circuits' stability
generate     E T for each of the seven methods, once per decoding
evaluate     score each of these replies
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from emotion_circuits.planning.shapes import ModelShape

Kind = Literal["read", "score", "generate", "suffix"]

METHODS = 7
CANDIDATES = {"circuit": 6, "steering": 6}
DOSES = 3.0
"""Strengths tried on a candidate's curve before one is controlled, on average."""
REFINED, FINALISTS = 4.0, 2
"""Strengths tried to find both edges of a finalist's controlled part; finalists per kind and emotion."""
STRENGTHS = 4  # of the influence table


@dataclass(frozen=True)
class Scale:
    """How much data.

    Attributes:
        train: items of the training split.
        validation: items of the validation split.
        test: items of the test split.
        emotions: how many.
        decodings: 2 with the sampled table, 1 without.
    """

    train: int
    validation: int
    test: int
    emotions: int = 6
    decodings: int = 2

    @classmethod
    def split(cls, items: int, emotions: int = 6, decodings: int = 2) -> Scale:
        """Items split 50 : 20 : 30, as a file of the user's own is."""
        train, validation = items * 5 // 10, items * 2 // 10
        return cls(train, validation, items - train - validation, emotions, decodings)

    @property
    def items(self) -> int:
        """All items."""
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class Lengths:
    """Tokens of a sequence.

    Attributes:
        prompt: of a prompt with its chat template.
        reply: of a reply.
    """

    prompt: int = 80
    reply: int = 60


@dataclass(frozen=True)
class Job:
    """Work of one kind on many sequences.

    Attributes:
        stage: of the pipeline.
        kind: what is done.
        n: sequences.
        tokens: read of each.
        new: tokens generated or scored after them.
        variants: single-token variants of each sequence.
        heads: whether every head's removal is worked out beside.
        calls: batches are not shared between this many calls.
        rows: most rows of a batch, where the work itself limits them.
    """

    stage: str
    kind: Kind
    n: int
    tokens: int
    new: int = 0
    variants: int = 0
    heads: bool = False
    calls: int = 1
    rows: int = 1_000_000


def workload(shape: ModelShape, scale: Scale, lengths: Lengths) -> list[Job]:
    """Every job of a run, in the stages' order."""
    e, n, v, t = scale.emotions, scale.train, scale.validation, scale.test
    p, r, both = lengths.prompt, lengths.reply, lengths.prompt + lengths.reply
    methods = METHODS * scale.decodings
    few = min(v, max(4, v // 6))
    tried, confirmed, needed = _calibration(e)
    return [
        Job("elicit", "generate", (e + 1) * n, p, r, calls=e + 1),
        Job("directions", "read", e * n, p),
        *[Job("directions", "read", (e + 1) * n, both)] * 2,
        Job("attribute", "read", e * n, p),
        Job("attribute", "read", e * n, p, heads=True),
        Job("influence", "suffix", n, p, variants=2 * shape.dims.n_layers * e * STRENGTHS),
        Job("circuit", "generate", round(tried * few), p, r, calls=14),
        Job("circuit", "score", round(tried * few), p, r, calls=14),
        Job("circuit", "generate", confirmed * v, p, r, calls=2),
        Job("circuit", "score", confirmed * v, p, r, calls=2),
        Job("circuit", "generate", needed * few, p, r),
        Job("circuit", "read", e * n, p, rows=3 * e),
        Job("generate", "generate", methods * e * t, p, r, calls=methods),
        Job("evaluate", "score", methods * e * t, p, r, calls=methods),
    ]


def _calibration(emotions: int) -> tuple[float, int, int]:
    """Doses on a few items, doses on all, and removals on a few: of circuits and of steering together."""
    curves, finalists = sum(CANDIDATES.values()) * emotions, len(CANDIDATES) * FINALISTS * emotions
    return curves * DOSES + finalists * REFINED, finalists, 2 * CANDIDATES["circuit"] * emotions
