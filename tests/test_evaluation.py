"""Intervals against known values, tables against a recount, perplexity against one reply at a time."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from helpers import Parity, ids_of, instructed, prompts

import emotion_circuits as ec
from emotion_circuits.control import Method
from emotion_circuits.data.sev import Record
from emotion_circuits.errors import DataError, EmotionError
from emotion_circuits.evaluation import perplexity, run_method
from emotion_circuits.evaluation.judges import Judge, Score
from emotion_circuits.evaluation.text_quality import (
    asked_for,
    distinct,
    log_likelihoods,
    mentions,
    repetition,
    words_of,
)
from emotion_circuits.intervals import clustered, mcnemar, wilson
from emotion_circuits.measurement import Measurement

# Intervals


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_by_the_textbook(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


def test_wilson_solves_its_equation() -> None:
    # Its bounds are the p at which the observed share is 1.96 standard errors away.
    for bound in wilson(7, 19):
        assert abs(7 / 19 - bound) / math.sqrt(bound * (1 - bound) / 19) == pytest.approx(1.959964, abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_clustered_is_every_draw_of_whole_clusters() -> None:
    # Three clusters: all 27 draws with equal chance, so the quantiles can be counted.
    values, clusters = [1, 1, 1, 0, 0, 1, 0, 0], ["a", "a", "a", "b", "b", "c", "c", "c"]
    sums, counts = {"a": 3, "b": 0, "c": 1}, {"a": 3, "b": 2, "c": 3}
    means = sorted(sum(sums[c] for c in d) / sum(counts[c] for c in d) for d in itertools.product("abc", repeat=3))
    low, high = clustered(values, clusters, n_draws=20_000)
    assert (low, high) == pytest.approx((means[0], means[-1]), abs=1e-9)  # each has probability 1/27 > 2.5 %
    middle = clustered([0, 1] * 50, list(range(100)))
    assert middle == pytest.approx((0.5 - 1.96 * 0.05, 0.5 + 1.96 * 0.05), abs=0.02)


def test_one_scenario_has_no_interval() -> None:
    one = Measurement(torch.tensor([1.0, 2.0]), ("a", "a"))
    assert repr(one) == "Measurement(1.5 no interval (one scenario), n = 2)"
    two = Measurement(torch.tensor([1.0, 2.0]), ("a", "b"))
    assert repr(two) == "Measurement(1.5 [1, 2], n = 2)"
    assert (two - two).mean == 0
    for other in (one, Measurement(torch.ones(1), ("a",)), Measurement(torch.ones(2), ("b", "a"))):
        with pytest.raises(DataError, match=r"not measured on the same scenarios in the same order .*; measure both"):
            two - other


def test_clusters_widen_the_interval() -> None:
    values = [i % 10 < 5 for i in range(100)]
    alone = clustered(values, range(100))
    together = clustered(values, [i % 10 for i in range(100)])  # every cluster agrees with itself
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])
    for values, clusters in (([], []), ([1, 0, 1], ["a", "a", "a"])):  # nothing to draw from
        assert all(math.isnan(end) for end in clustered(values, clusters))
    assert clustered([1.0, 1.0], ["a", "b"]) == (1.0, 1.0)


def test_mcnemar_is_the_binomial_tail() -> None:
    # 1 against 9 discordant pairs: p = 2 (C(10,0) + C(10,1)) / 2^10 = 22 / 1024.
    first = [True] * 1 + [False] * 9 + [True] * 5 + [False] * 5
    second = [False] * 1 + [True] * 9 + [True] * 5 + [False] * 5
    assert mcnemar(first, second) == (1, 9, pytest.approx(22 / 1024))
    assert mcnemar(second, first) == (9, 1, pytest.approx(22 / 1024))
    assert mcnemar(first, first) == (0, 0, 1.0)
    assert mcnemar([True, False], [False, True]) == (1, 1, 1.0)


# Accuracy


EMOTIONS = ("anger", "fear")


def made_replies(n: int = 60, seed: int = 0) -> tuple[ec.Replies, list[Score]]:
    draw, replies, scores = random.Random(seed), [], []
    for i in range(n):
        emotion, item = EMOTIONS[i % 2], f"item_{i // 6}"
        prompt = ec.Prompt(
            (("user", "x"),), emotion, item, ("positive", "neutral", "negative")[i % 3], f"theme_{i // 30}"
        )
        replies.append(ec.Reply(prompt, f"text {i}", (5,), emotion, "mine"))
        label = draw.choices([emotion, "neutral", "joy", None], [6, 2, 1, 2])[0]
        scores.append(Score(label, "why" if label is None else ""))
    return ec.Replies(tuple(replies)), scores


class Fixed:
    """A judge with the answers written down."""

    name = "fixed"

    def __init__(self, scores: list[Score]) -> None:
        self.scores = scores
        self.asked: list[str] = []

    def __call__(self, texts):
        return self.scores

    def match(self, texts, emotions):
        self.asked = list(emotions)
        return self.scores


@pytest.mark.parametrize("by", [None, "emotion", "valence", "theme", "method"])
def test_accuracy_table_is_the_recount(by) -> None:
    replies, scores = made_replies()
    evaluation = ec.evaluate(replies, Fixed(scores))
    table = evaluation.accuracy(by)
    of = {"emotion": lambda r: r.emotion, "valence": lambda r: r.prompt.valence, "theme": lambda r: r.prompt.theme,
          "method": lambda r: r.method, None: lambda r: "overall"}[by]  # fmt: skip
    keys = [*dict.fromkeys(map(of, replies)), "overall"] if by else ["overall"]
    assert len(table) == len(keys)
    for key, row in zip(keys, table.to_dict("records"), strict=True):
        held = [(r, s) for r, s in zip(replies, scores, strict=True) if key in ("overall", of(r))]
        scored = [(s.label == r.emotion, r.prompt.item) for r, s in held if s.label is not None]
        hits = sum(hit for hit, _ in scored)
        if by:
            assert row[by] == key
        assert (row["n"], row["unscored"]) == (len(held), len(held) - len(scored))
        assert row["accuracy"] == pytest.approx(hits / len(scored))
        assert row["at_least"] == pytest.approx(hits / len(held))
        assert (row["low"], row["high"]) == pytest.approx(wilson(hits, len(scored)))
        assert (row["cluster_low"], row["cluster_high"]) == pytest.approx(clustered(*zip(*scored, strict=True)))


def test_unscored_is_never_no() -> None:
    replies, scores = made_replies()
    evaluation = ec.evaluate(replies, Fixed(scores))
    table = evaluation.accuracy().iloc[0]
    assert evaluation.n_unscored == sum(s.label is None for s in scores) == table["unscored"] > 0
    kept = [i for i, s in enumerate(scores) if s.label is not None]
    without = ec.evaluate(ec.Replies(tuple(replies[i] for i in kept)), Fixed([scores[i] for i in kept]))
    for column in ("accuracy", "low", "high", "cluster_low", "cluster_high"):
        assert table[column] == pytest.approx(without.accuracy().iloc[0][column])
    assert evaluation.share(None) == pytest.approx(evaluation.n_unscored / 60)
    assert sum(evaluation.share(label) for label in {s.label for s in scores}) == pytest.approx(1)
    assert all(s.label == r.emotion for r, s in zip(replies, scores, strict=True) if r in evaluation.accepted().replies)
    assert len(evaluation.accepted()) == sum(evaluation.hits)


def test_nothing_scored_and_nothing_there() -> None:
    replies, _ = made_replies(4)
    row = ec.evaluate(replies, Fixed([Score(None)] * 4)).accuracy().iloc[0]
    assert math.isnan(row["accuracy"])
    assert (row["low"], row["high"], row["at_least"], row["unscored"]) == (0.0, 1.0, 0.0, 4)
    empty = ec.evaluate(ec.Replies(()), Fixed([])).accuracy().iloc[0]
    assert (empty["n"], empty["low"], empty["high"]) == (0, 0.0, 1.0)


def test_replies_of_no_scenario_are_clusters_of_their_own() -> None:
    replies = ec.Replies(tuple(ec.Reply(ec.Prompt.user("x"), "y", (5,), "anger") for _ in range(40)))
    row = ec.evaluate(replies, Fixed([Score("anger" if i % 2 else "fear") for i in range(40)])).accuracy().iloc[0]
    assert row["cluster_low"] < 0.42
    assert row["cluster_high"] > 0.58


def test_wanting_nothing_is_met_by_neutral() -> None:
    replies = ec.Replies(tuple(ec.Reply(ec.Prompt.user("x"), "y", (5,)) for _ in range(3)))
    evaluation = ec.evaluate(replies, Fixed([Score("neutral"), Score("anger"), Score(None)]))
    assert evaluation.hits == [True, False, False]
    assert len(evaluation.accepted()) == 0
    with pytest.raises(DataError, match="question='match' needs the wanted emotion of every reply"):
        ec.evaluate(replies, Fixed([]), "match")


def test_match_names_the_emotion() -> None:
    replies, scores = made_replies(4)
    judge = Fixed(scores)
    assert isinstance(judge, Judge)
    assert ec.evaluate(replies, judge, "match").question == "match"
    assert judge.asked == ["anger", "fear", "anger", "fear"]


def test_unknown_columns() -> None:
    replies, scores = made_replies(4)
    with pytest.raises(
        DataError, match="cannot group by 'mood'; replies have emotion, valence, theme, item and method"
    ):
        ec.evaluate(replies, Fixed(scores)).accuracy("mood")


# Fluency


@pytest.fixture(scope="module")
def replies(qwen) -> ec.Replies:
    return ec.generate(qwen, instructed(2), config=ec.GenerationConfig(max_new_tokens=7, temperature=1.5))


def test_perplexity_is_one_reply_at_a_time(either_model, replies) -> None:
    held = ec.Replies((*replies, ec.Reply(prompts(1)[0], "", (9,)), ec.Reply(prompts(1)[0], "", ())))
    naive = []
    for reply in held:
        ids = ids_of(either_model, reply.prompt)
        logits = either_model.hf(torch.tensor([[*ids, *reply.tokens]])).logits[0].log_softmax(-1)
        naive.append([float(logits[len(ids) - 1 + k, token]) for k, token in enumerate(reply.tokens)])
    flat = [x for row in naive for x in row]
    expected = math.exp(-sum(flat) / len(flat))
    for batch_size in (1, 3, None):
        assert perplexity(either_model, held, batch_size=batch_size) == pytest.approx(expected, rel=1e-4)
        for mine, row in zip(log_likelihoods(either_model, held, batch_size=batch_size), naive, strict=True):
            assert mine.tolist() == pytest.approx(row, abs=2e-4)


def test_perplexity_of_nothing(qwen) -> None:
    assert math.isnan(perplexity(qwen, ec.Replies((ec.Reply(prompts(1)[0], "", ()),))))


def test_greedy_replies_cost_less_than_random_ones(qwen) -> None:
    greedy = ec.generate(qwen, prompts(4), config=ec.GenerationConfig(max_new_tokens=10))
    noise = ec.Replies(tuple(ec.Reply(p, "", tuple(range(5 + i, 60, 6))) for i, p in enumerate(prompts(4))))
    assert perplexity(qwen, greedy) < perplexity(qwen, noise)


def test_fluency_scores_under_the_instruction(qwen, replies) -> None:
    plain = ec.Replies(tuple(ec.Reply(r.prompt.instructed(None), r.text, r.tokens, r.emotion) for r in replies))
    asked = asked_for(plain)
    assert all(
        r.prompt.messages[0] == ("system", f"Always reply in {r.emotion}.\nKeep the reply to at most two sentences.")
        for r in asked
    )
    assert [r.prompt.messages[1] for r in asked] == [r.prompt.messages[1] for r in replies]
    result = ec.fluency(qwen, plain)
    assert result.perplexity == pytest.approx(perplexity(qwen, asked))
    words = [words_of(t) for t in plain.texts]
    assert result.n_words == pytest.approx(sum(map(len, words)) / len(words))
    assert result.distinct_2 == pytest.approx(sum(distinct(w, 2) for w in words) / len(words))
    assert result.on_topic == pytest.approx(sum(map(mentions, plain)) / len(plain))


def test_distinct_and_repetition_by_hand() -> None:
    words = words_of("The cat saw the cat; THE dog's 2 tail.")
    assert words == ["the", "cat", "saw", "the", "cat", "the", "dog's", "tail"]
    assert distinct(words, 1) == 5 / 8
    # the-cat twice among seven pairs.
    assert distinct(words, 2) == 6 / 7
    # "the" (3 back), "cat" (3 back), "the" (2 back).
    assert repetition(words) == 3 / 8
    assert (distinct([], 1), distinct(["a"], 2), repetition([])) == (1.0, 1.0, 0.0)
    assert repetition(["no"] * 10) == 0.9


@pytest.mark.parametrize(
    ("said", "reply", "on_topic"),
    [
        ("I moved my desk to the window", "What a lovely desk!", True),
        ("I moved my desk to the window", "Such windows are a joy.", True),
        ("We walked to the station", "Walking is healthy.", True),
        ("I moved my desk to the window", "I had to, and it was my own.", False),  # function words alone
        ("I moved my desk", "", False),
        ("The dog's bowl was empty", "Poor dog", False),  # three letters are too few
        ("The neighbour's bowl was empty", "Dear neighbours", True),
    ],
)
def test_mentions(said: str, reply: str, on_topic: bool) -> None:
    assert mentions(ec.Reply(ec.Prompt.user(said, "Always reply in lovely joy."), reply, ())) == on_topic


# Comparison


@pytest.fixture(scope="module")
def data() -> ec.SEV:
    events = {"positive": "it was bright", "neutral": "a bus late", "negative": "rain fell"}
    return ec.SEV(tuple(Record(f"id_{i}", f"theme_{i}", f"I moved {'my desk ' * (i + 1)}", events) for i in range(2)))


@pytest.fixture(scope="module")
def circuits(qwen) -> dict[str, ec.Circuit]:
    asked = instructed(2, EMOTIONS)
    directions = ec.fit_directions(qwen, asked)
    scores = ec.attribute_each(qwen, asked, directions.targets(), ec.DirectAttribution())
    return {emotion: ec.build_circuit(held, size=12) for emotion, held in scores.items()}


SHORT = ec.GenerationConfig(max_new_tokens=6)


def test_methods_are_their_prompts_and_patches(qwen, data, circuits) -> None:
    vectors = {e: torch.nn.functional.normalize(torch.ones(3, 32), dim=-1) for e in EMOTIONS}
    residuals = {e: ec.Contrast(e, "emotions", ec.Activations(resid_post=torch.ones(3, 32))) for e in EMOTIONS}
    circuit = ec.CircuitModulation(circuits, {"anger": 3.0, "fear": 2.0})
    methods = [
        ec.Unmodulated(), ec.Prompting(), circuit, ec.CircuitRemoval(circuit), circuit.random_like(),
        ec.ContrastSteering(residuals, (1,), 0.5), ec.SteeringVector(vectors, (1, 2)),
    ]  # fmt: skip
    assert all(isinstance(m, Method) for m in methods)
    for method in methods:
        prompted = method.name in ("prompting", "prompting - circuit")
        asked, patches = method.prepare(data.items, "fear")
        assert [p.emotion for p in asked] == (["fear"] * 6 if prompted else [None] * 6)
        by_hand = ec.generate(qwen, data.prompts("fear" if prompted else None), patches, SHORT)
        assert run_method(qwen, method, data.items, ("fear",), SHORT).texts == by_hand.texts
    strengths = [
        m.prepare(data.items, "fear")[1][0].intervention.strength for m in (methods[2], methods[3], methods[4])
    ]
    assert strengths == [2.0, -1.0, 2.0]
    random_nodes = methods[4].circuits["fear"].nodes
    assert torch.equal(random_nodes.neurons.sum(1), circuits["fear"].nodes.neurons.sum(1))
    with pytest.raises(EmotionError, match="method 'circuit' knows no emotion 'joy'; it knows anger, fear"):
        circuit.prepare(data.items, "joy")
    with pytest.raises(EmotionError, match="knows no emotion 'fear'; it knows anger"):
        ec.CircuitModulation(circuits, {"anger": 1.0}).prepare(data.items, "fear")


def test_comparison(qwen, data, circuits) -> None:
    methods = [ec.Prompting(), ec.Unmodulated(), ec.CircuitModulation(circuits, 4.0)]
    seen: dict[str, ec.Replies] = {}
    result = ec.compare(
        qwen, methods, data, Parity(), EMOTIONS, SHORT, on_method=lambda name, r: seen.setdefault(name, r)
    )
    table = result.table()
    assert table["method"].tolist() == ["prompting", "none", "circuit"]
    for method, row in zip(methods, table.to_dict("records"), strict=True):
        by_hand = []
        for emotion in EMOTIONS:
            asked, patches = method.prepare(data.items, emotion)
            by_hand += ec.generate(qwen, asked, patches, SHORT).texts
        assert seen[method.name].texts == by_hand
        labels = [s.label for s in Parity()(by_hand)]
        wanted = ["anger"] * 6 + ["fear"] * 6
        scored = [a == b for a, b in zip(labels, wanted, strict=True) if a is not None]
        assert (row["n"], row["unscored"]) == (12, labels.count(None))
        assert row["accuracy"] == pytest.approx(sum(scored) / len(scored), nan_ok=True)
        assert row["neutral"] == pytest.approx(labels.count("neutral") / 12)
        assert row["perplexity"] == pytest.approx(ec.fluency(qwen, seen[method.name]).perplexity)
    assert [r.emotion for r in seen["none"]] == ["anger"] * 6 + ["fear"] * 6
    assert seen["none"].texts[:6] == seen["none"].texts[6:]
    assert len(result.replies) == 36
    assert result.by_emotion()["emotion"].tolist() == ["anger", "fear", "overall"] * 3


def test_paired_comparison_leaves_unscored_pairs_out() -> None:
    replies, _ = made_replies(8)
    right = [Score(r.emotion) for r in replies]
    wrong, unscored = [Score("joy")] * 8, [Score(None)] * 8
    first = ec.Evaluation(replies, (*right[:6], *unscored[:2]), "j")
    second = ec.Evaluation(replies, (*right[:1], *wrong[:4], *unscored[:1], *right[6:]), "j")
    result = ec.Comparison({"a": first, "b": second}, {}).paired("a", "b")
    # Pairs 0 to 4 are scored by both: one tie, four for the first; p = 2 / 2^4.
    assert result == {"only_first": 4, "only_second": 0, "p": pytest.approx(0.125), "n": 5, "unscored": 3}


def test_methods_of_one_name_are_refused(qwen) -> None:
    with pytest.raises(ValueError, match="called prompting"):
        ec.compare(qwen, [ec.Prompting(), ec.Prompting("described")], ec.SEV(()), ec.LexiconJudge())
