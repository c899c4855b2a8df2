"""Is this English that somebody could have meant? If not, no emotion may be read from it.

A text is unreadable, with the reason, when
1. it has no words;
2. it repeats itself: one word or one pair of words over and over, or very few distinct words;
3. too few of its words are known English (frequent words, their inflections, and the lexicon's own words);
4. its words are known but do not make sentences: pairs that English does not allow ("the of"), or a long list of
   content words without any function word.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from emotion_circuits.evaluation.judges.tokens import Tokens

SUFFIXES = tuple(
    tuple(pair.split(":"))
    for pair in (
        "ies:y es: s: ied:y ed: ed:e ing: ing:e ily:y ly: ly:e iest:y est: est:e ier:y er: er:e or:e or: iness:y "
        "ness: ment: ful: less: ability:able ability:e able: able:e ible: ible:e ation:e ation: ion:e ion: ity:e "
        "ity: ish: y: y:e al: al:e ive:e ive: ous: ous:e ship: hood: like: ward: wards: ize: ise: en: ic: ical: "
        "ance:e ance: ence:e ence: ant: ant:e ent: ent:e ist: ism: th: work: man: book: time: room: thing: line:"
    ).split()
)
PREFIXES = tuple("un re in im dis non over under out mis pre super ir il inter co ever self back up down".split())
DOUBLED = re.compile(r"([b-df-hj-np-tv-z])\1$")
WHO = "i he she we they"
NEVER_FOLLOWS = tuple(
    (frozenset(first.split()), frozenset(then.split()))
    for first, then in (
        (
            "a an the my your our their every",
            "a an the my your our their every of and or but is are was were am be been have has had do does did will "
            f"would can could should to from with by at into you me him us them it {WHO}",
        ),
        ("of at from into with by", f"and or but of is are was were am be been will would could can should {WHO}"),
        (WHO, f"a an the of my your our their to for from with at by be been {WHO}"),
        ("i", "is are has does"),
        ("he she it", "am are have do"),
        ("we they you", "is am was has does"),
        ("is are was were am be been", "is are was were am be will would can could should do does did"),
        (
            "can could will would should must might may",
            "is are was were am been being of the a an my to and will would",
        ),
        ("to", f"is are was were am been of and or {WHO}"),
        ("and or but", "and or of but"),
        ("very too", "the a an of and is are was were to my i he she we they will"),
        ("not", "am is are was were of and did does"),
        ("has have had", "is are was were am have has of and will would can could"),
    )
)
NEVER_LAST = frozenset("a an the my your our their every and or of".split())
MAX_REMEMBERED = 100_000
INTERJECTIONS = frozenset("no ha he oh hey yes wow ugh very so really boo ah la what if i am the".split())


@cache
def common_words() -> tuple[frozenset[str], frozenset[str]]:
    """(all frequent words, the function words among them)."""
    text = (files("emotion_circuits.evaluation.judges") / "words" / "common.txt").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    function = frozenset(" ".join(lines[: lines.index("--")]).split())
    return frozenset(" ".join(lines).split()), function


class English:
    """Tells English from noise.

    Args:
        extra: More known words (a lexicon's vocabulary).
        stems: More known beginnings of words.
        min_known: Smallest share of known words in a readable text.
    """

    def __init__(self, extra: Iterable[str] = (), stems: Iterable[str] = (), min_known: float = 0.6) -> None:
        common, self.function = common_words()
        self.words = common | frozenset(extra)
        self.stems = frozenset(stem for stem in stems if len(stem) > 3)
        self.min_known = min_known
        self._known: dict[str, bool] = {}

    def known(self, word: str) -> bool:
        """Tells whether a word is in the list, as such or inflected."""
        answer = self._known.get(word)
        if answer is None:
            if len(self._known) > MAX_REMEMBERED:
                self._known.clear()
            answer = self._known[word] = self._look_up(word, 2)
        return answer

    def _look_up(self, word: str, depth: int) -> bool:
        if word in self.words or any(word[:n] in self.stems for n in range(4, len(word) + 1)):
            return True
        if depth == 0 or len(word) < 4:
            return False
        for suffix, instead in SUFFIXES:
            stem = word[: -len(suffix)]
            if word.endswith(suffix) and len(stem) > 2:
                if self._look_up(stem + instead, depth - 1):
                    return True
                if not instead and DOUBLED.search(stem) and stem[:-1] in self.words:
                    return True
        return any(
            word.startswith(prefix) and len(word) > len(prefix) + 2 and self._look_up(word[len(prefix) :], depth - 1)
            for prefix in PREFIXES
        )

    def unreadable(self, tokens: Tokens) -> str | None:
        """Why a text cannot be judged, or None if it can."""
        words = tokens.words
        if not words:
            return "empty: no words"
        if all(not word[0].isalnum() for word in words):
            return None  # emoji alone
        return repetition(words) or self._unknown(tokens) or self._salad(tokens)

    def _unknown(self, tokens: Tokens) -> str | None:
        checked = [w for w, named in zip(tokens.words, tokens.named, strict=True) if not named or self.known(w)]
        checked = checked or [word for word in tokens.words if word.isalpha()]
        known = sum(map(self.known, checked))
        if not checked or known < self.min_known * len(checked):
            return f"not English: {known} of {len(checked)} words are known"
        return None

    def _salad(self, tokens: Tokens) -> str | None:
        words, clause = tokens.words, tokens.clause
        bad = []
        for i, word in enumerate(words):
            if i + 1 == len(words) or clause[i] != clause[i + 1]:
                if word in NEVER_LAST and i + 1 < len(words):
                    bad.append(f"{word}.")
            elif words[i + 1] in wrong_after(word):
                bad.append(f"{word} {words[i + 1]}")
        if len(bad) >= (1 if len(words) <= 12 else 2) and len(bad) >= 0.04 * len(words):
            return f"not sentences: {', '.join(bad[:3])!r}"
        longest, size = Counter(clause).most_common(1)[0]
        if size >= 8 and size > len(words) / 2:
            function = sum(w in self.function for w, c in zip(words, clause, strict=True) if c == longest)
            if function < 0.12 * size:
                return f"not sentences: {function} function words in a row of {size}"
        return None


@cache
def wrong_after(word: str) -> frozenset[str]:
    """The words that cannot follow a word in an English clause."""
    return frozenset().union(*(then for first, then in NEVER_FOLLOWS if word in first))


def repetition(words: list[str]) -> str | None:
    """How a text repeats itself, or None if it does not.

    A loop is a pair of words that comes four times and fills 40 % of the text, one word five times in a row, or
    fewer than 35 % distinct words in stretches of sixty.
    """
    n = len(words)
    if n < 5:
        return "one word over and over" if n >= 3 and len(set(words)) == 1 and words[0] not in INTERJECTIONS else None
    run = longest = 1
    for a, b in itertools.pairwise(words):
        run = run + 1 if a == b else 1
        longest = max(longest, run)
    if longest >= 5 or (longest >= 4 and n < 12 and len(set(words)) < 4):
        return f"degenerate: one word {longest} times in a row"
    pair, times = Counter(itertools.pairwise(words)).most_common(1)[0]
    if times >= 4 and 2 * times >= 0.4 * n and pair != ("what", "if"):
        return f"degenerate: {' '.join(pair)!r} {times} times in {n} words"
    stretches = [words[i : i + 60] for i in range(0, n, 60) if n - i >= 10 or i == 0]
    distinct = sum(len(set(s)) / min(len(s), 60) for s in stretches) / len(stretches)
    if n >= 8 and distinct < 0.35:
        return f"degenerate: {distinct:.0%} distinct words"
    return None
