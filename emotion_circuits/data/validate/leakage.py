"""Words that give the valence away.

A direction, a probe or a judge can pass on such a set by knowing a handful of words. Two measures:

1. Per theme: a word in at least a fifth of the events of one valence, with seven in ten of its uses there, and
   more than chance would have it (binomial test with one in three, Bonferroni over the words of the file tried).
2. Per file: accuracy of a bag of words (naive Bayes on which words are present, trained on all other records)
   at telling the valence of an event. Chance is one in three; words that carry meaning, such as "lost", keep any
   set above it. Near 1 means that the valence can be read without reading the sentence.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator

from emotion_circuits.data.validate.report import Finding
from emotion_circuits.data.validate.rows import Row, grouped, words_of
from emotion_circuits.data.validate.together import MIN_RECORDS

SHARE, PURITY, P_VALUE, ACCURACY = 0.2, 0.7, 0.05, 0.8

Holders = dict[str, dict[str, list[Row]]]  # word -> valence -> rows whose event has the word


def valence_leaks(rows: list[Row]) -> tuple[float | None, list[Finding]]:
    """Accuracy of the bag of words (None for too few complete SEV records), and the findings."""
    rows = [row for row in rows if row.layout.lead and row.texts.keys() >= set(row.layout.arms)]
    if len(rows) < MIN_RECORDS or len(rows[0].layout.arms) < 2:
        return None, []
    findings = list(_markers(rows))
    right = _naive_bayes(rows)
    accuracy = sum(right) / len(right)
    if accuracy > ACCURACY:
        message = (
            f"a bag of words tells the valence of {accuracy:.0%} of this file's events, more than {ACCURACY:.0%}; vary "
            "the wording, and use the words of one valence in the others too (this line is among those told by words)"
        )
        findings.append(rows[right.index(max(right))].finding("valence_leak", "event", message, "warning"))
    return accuracy, findings


def _markers(rows: list[Row]) -> Iterator[Finding]:
    n_arms = len(rows[0].layout.arms)
    by_theme = {name: (len(group), _holders(group)) for name, group in grouped(rows).items()}
    tried = [
        (name, size, word, by_arm)
        for name, (size, holders) in by_theme.items()
        for word, by_arm in sorted(holders.items())
        if max(map(len, by_arm.values())) >= max(MIN_RECORDS, SHARE * size)
    ]
    for name, size, word, by_arm in tried:
        arm = max(by_arm, key=lambda arm: len(by_arm[arm]))
        n, total = len(by_arm[arm]), sum(map(len, by_arm.values()))
        if n >= PURITY * total and n_arms * _tail(n, total, 1 / n_arms) * len(tried) < P_VALUE:
            message = (
                f"{word!r} stands in {n} of {size} events of theme {name!r} with this valence and in {total - n} with "
                "another; word some differently, this line for instance"
            )
            yield by_arm[arm][-1].finding("valence_leak", arm, message, "warning")


def _holders(rows: list[Row]) -> Holders:
    holders: Holders = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for arm in row.layout.arms:
            for word in set(words_of(row.texts[arm])):
                holders[word][arm].append(row)
    return holders


def _tail(n: int, total: int, p: float) -> float:
    """Probability of ``n`` or more out of ``total``."""
    log_q, log_p = math.log1p(-p), math.log(p)
    logs = (
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) + k * log_p + (total - k) * log_q
        for k in range(n, total + 1)
    )
    return sum(map(math.exp, logs))


def _naive_bayes(rows: list[Row]) -> list[float]:
    """For each record the share of its events whose valence is told right, its own counts taken out."""
    bags = [{arm: set(words_of(row.texts[arm])) for arm in row.layout.arms} for row in rows]
    counts = {arm: Counter(word for bag in bags for word in bag[arm]) for arm in rows[0].layout.arms}
    right = []
    for bag in bags:
        hits = 0
        for arm, words in bag.items():
            fit = {b: sum(math.log1p(counts[b][word] - (word in bag[b])) for word in words) for b in bag}
            hits += max(fit, key=fit.__getitem__) == arm
        right.append(hits / len(bag))
    return right
