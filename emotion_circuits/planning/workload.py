"""What the pipeline runs, stage by stage, as a list of jobs of four kinds.

read       sequences through all layers, e.g. to record activations; no logits
score      the same, with logits for every token of a reply
generate   prompts, then one token at a time
suffix     variants of the last token through half of the layers on average, after reading the prompts

With N training, V validation and T test items (an item is a scenario with one event) and E emotions:

elicit       generate (E + 1) N
directions   read E N prompts for the directions, E N for those that no name gave, and twice E N to leave each theme
             out; up to 40 E of them for the animation; E N replies; and twice (E + 1) N replies for the contrasts
attribute    read E N prompts twice: direct attribution, head importance
influence    suffix on N prompts, 2 x layers x E x strengths variants each
circuit      for circuits and for steering: prompted replies to V items; what `calibrate` tries (`_searches`), each
             generated and scored, and read twice more for its share of the residual; removals of what is controlled.
             Read E N prompts, scenario by scenario, for the circuits' stability
generate     E T for each of the seven methods, once per decoding
evaluate     score each of these replies

These are the most there can be, all replies being accepted by the judge. Only the search on the validation items has
no fixed length: it is counted by running it where both edges of control may be anywhere (`expected_search`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from emotion_circuits.control.bisection import Range, Regime, edges, find
from emotion_circuits.control.trials import N_SHARE
from emotion_circuits.planning.shapes import ModelShape

Kind = Literal["read", "score", "generate", "suffix"]

COMPARED = ((1, False, False), (3, False, True), (1, True, False), (2, True, True))
"""How many of the compared methods ask by instruction, and how many patch the model: methods, instructed, patched."""
CANDIDATES, FINALISTS = 6, 2
"""Of circuits, and as many of steering; those that are refined, for every emotion."""
STRENGTHS = 4  # of the influence table
SHOWN = 40
"""Items whose samples the report animates."""
EVENTS = 3
"""Items of a scenario."""


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

    @property
    def few(self) -> int:
        """Validation items that strengths are searched on: a sixth of the scenarios, four at least."""
        return min(self.validation, EVENTS * max(4, self.validation // EVENTS // 6))


@dataclass(frozen=True)
class Lengths:
    """Tokens of a sequence. Rows of a batch are padded to its longest, which is what counts.

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
        repeats: sequences that have the same prompt; all of it but the last token is read once.
        sampled: whether tokens are drawn.
        patched: whether a circuit's patches act.
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
    repeats: int = 1
    sampled: bool = False
    patched: bool = False


def workload(shape: ModelShape, scale: Scale, lengths: Lengths) -> list[Job]:
    """Every job of a run, in the stages' order."""
    e, n, t = scale.emotions, scale.train, scale.test
    p, r, both = lengths.prompt, lengths.reply, lengths.prompt + lengths.reply
    compared = [
        Job(
            "generate", "generate", methods * e * t, p, r, calls=methods, repeats=1 if instructed else e,
            sampled=sampled, patched=patched,
        )
        for sampled in (False, True)[: scale.decodings]
        for methods, instructed, patched in COMPARED
    ]  # fmt: skip
    methods = scale.decodings * sum(n for n, _, _ in COMPARED)
    return [
        Job("elicit", "generate", (e + 1) * n, p, r, calls=e + 1),
        *[Job("directions", "read", e * n, p)] * 4,
        Job("directions", "read", e * min(n, SHOWN), p),
        Job("directions", "read", e * n, both),
        *[Job("directions", "read", (e + 1) * n, both)] * 2,
        Job("attribute", "read", e * n, p),
        Job("attribute", "read", e * n, p, heads=True),
        Job("influence", "suffix", n, p, variants=2 * shape.dims.n_layers * e * STRENGTHS),
        *_searches(scale, lengths),
        Job("circuit", "read", e * n, p, rows=EVENTS * e),
        *compared,
        Job("evaluate", "score", methods * e * t, p, r, calls=methods),
    ]


@dataclass(frozen=True)
class Search:
    """What a bisection asks for, on average over all places of both edges of control.

    Attributes:
        find: strengths until one is controlled, or none can be.
        edges: further strengths until both edges are known.
        controlled: share of the curves on which a controlled strength is found.
        rounds: most strengths that any curve asks for: curves are searched side by side, in so many rounds.
    """

    find: float
    edges: float
    controlled: float
    rounds: int


@lru_cache
def expected_search(span: Range, places: int = 24) -> Search:
    """The search's own steps, run on curves whose control begins and ends at any two of some places of ``span``.

    The places are evenly spaced in ratios, and each pair of them is as likely as any other.
    """
    grid = [span.low * (span.high / span.low) ** ((i + 0.5) / places) for i in range(places)]
    found = [_asked(span, min(a, b), max(a, b)) for a in grid for b in grid]
    refined = [more for _, more in found if more is not None]
    return Search(
        find=sum(first for first, _ in found) / len(found),
        edges=sum(refined) / len(refined),
        controlled=len(refined) / len(found),
        rounds=max(first for first, _ in found) + max(refined),
    )


def _asked(span: Range, begin: float, end: float) -> tuple[int, int | None]:
    """Strengths that both searches ask for; None where the first finds no control."""
    known: dict[float, Regime] = {}

    def run(search):
        try:
            strength = next(search)
            while True:
                known[strength] = "too weak" if strength < begin else "controlled" if strength <= end else "degenerate"
                strength = search.send(known[strength])
        except StopIteration as done:
            return done.value

    strength, first = run(find(span)), len(known)
    if strength is None:
        return first, None
    run(edges(span, dict(known), strength))
    return first, len(known) - first


def _searches(scale: Scale, lengths: Lengths) -> list[Job]:
    """What calibration runs: circuits first, then steering; removals are of circuits alone."""
    e, few, search = scale.emotions, scale.few, expected_search(Range())
    finalists = FINALISTS * e
    tried = round(CANDIDATES * e * search.find + finalists * search.controlled * search.edges)
    removed = round(2 * CANDIDATES * e * search.controlled)
    one = [
        *_trial(e, scale.validation, lengths, 1, 1, patched=False),
        *_trial(tried, few, lengths, search.rounds, max(1, tried // search.rounds)),
        *_trial(finalists, scale.validation, lengths, 1, finalists),
        *_shares(tried * min(few, N_SHARE), lengths, search.rounds),
        *_shares(finalists * min(scale.validation, N_SHARE), lengths, 1),
    ]
    p, r = lengths.prompt, lengths.reply
    removals = Job("circuit", "generate", removed * few, p, r, repeats=2 * CANDIDATES, patched=True)
    return [*one, *one, removals]


def _trial(doses: int, items: int, lengths: Lengths, calls: int, repeats: int, *, patched: bool = True) -> list[Job]:
    n, p, r = doses * items, lengths.prompt, lengths.reply
    return [
        Job("circuit", "generate", n, p, r, calls=calls, repeats=repeats, patched=patched),
        Job("circuit", "score", n, p, r, calls=calls),
    ]


def _shares(n: int, lengths: Lengths, calls: int) -> list[Job]:
    """Read with what is added and without, logits included."""
    both = lengths.prompt + lengths.reply
    return [Job("circuit", "score", n, 0, both, calls=calls, patched=patched) for patched in (True, False)]
