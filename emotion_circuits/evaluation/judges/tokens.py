"""From a text to plain words that phrase lists can be written against.

1. Words, numbers, emoji and punctuation are cut apart; hyphens separate words.
2. Words are lower-cased, contractions written out ("can't" -> "can not") and drawn-out letters shortened
   ("soooo" -> "so"); capitals and drawing out are kept as *loud*.
3. Punctuation does not stay among the words; it says to which clause and sentence each word belongs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

TOKEN = re.compile(
    r"(?P<word>[^\W\d_]+(?:['’ʼ][^\W\d_]+)*)|(?P<number>\d[\d.,]*)|(?P<end>[.!?…]+)"
    r"|(?P<pause>[,;:()—–\n]|\s-\s)|(?P<emoji>[\u2600-\u27BF\U0001F300-\U0001FAFF])"
)
WHOLE = {
    "can't": "can not", "cannot": "can not", "cant": "can not", "won't": "will not", "shan't": "shall not",
    "ain't": "is not", "let's": "let us", "dont": "do not", "didnt": "did not", "doesnt": "does not",
    "isnt": "is not", "wasnt": "was not", "couldnt": "could not", "wouldnt": "would not", "im": "i am",
    "ive": "i have", "youre": "you are", "thats": "that is", "whats": "what is", "gonna": "going to",
    "wanna": "want to", "gotta": "got to", "y'all": "you all", "ya": "you", "u": "you", "oh": "oh",
}  # fmt: skip
ENDINGS = (("n't", " not"), ("'m", " am"), ("'re", " are"), ("'ve", " have"), ("'ll", " will"), ("'d", " would"))
IS = frozenset("it that what there he she who how here where everything nothing something this when why".split())
KEEP_DOUBLE = frozenset("so too see free cool all well good soon feel need been off off still tell full".split())
LONG_RUN = re.compile(r"(.)\1{2,}")


@dataclass(slots=True)
class Tokens:
    """The words of a text, with one entry per word in each list (`ends`: one per sentence)."""

    words: list[str] = field(default_factory=list)
    loud: list[bool] = field(default_factory=list)
    named: list[bool] = field(default_factory=list)
    clause: list[int] = field(default_factory=list)
    sentence: list[int] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)


@lru_cache(maxsize=50_000)
def plain(word: str) -> tuple[str, ...]:
    """The plain words that one written word stands for."""
    word = word.lower().replace("’", "'").replace("ʼ", "'")
    if LONG_RUN.search(word):
        double = LONG_RUN.sub(r"\1\1", word)
        word = double if double in KEEP_DOUBLE else LONG_RUN.sub(r"\1", word)
    if word in WHOLE:
        return tuple(WHOLE[word].split())
    if "'" in word:
        for ending, written in ENDINGS:
            if word.endswith(ending):
                return tuple((word[: -len(ending)] + written).split())
        if word.endswith("'s"):
            return (word[:-2], "is") if word[:-2] in IS else (word[:-2],)
        word = word.replace("'", "")
    return (word,)


def tokenize(text: str) -> Tokens:
    """The plain words of a text with their clauses and sentences."""
    out = Tokens()
    clause = sentence = 0
    for found in TOKEN.finditer(text):
        kind, raw = found.lastgroup, found.group()
        if kind == "word":
            new = plain(raw)
            capital = raw[0].isupper()
            shouted = (len(raw) > 2 and raw.isupper()) or LONG_RUN.search(raw) is not None
            starts = not out.sentence or out.sentence[-1] != sentence
            out.words.extend(new)
            for _ in new:
                out.loud.append(shouted)
                out.named.append(capital and not starts and not shouted)
                out.clause.append(clause)
                out.sentence.append(sentence)
        elif kind in ("number", "emoji"):
            out.words.append("0" if kind == "number" else raw)
            out.loud.append(False)
            out.named.append(True)
            out.clause.append(clause)
            out.sentence.append(sentence)
        else:
            clause += 1
            if kind == "end" and out.sentence and out.sentence[-1] == sentence:
                out.ends.append(raw)
                sentence += 1
    out.ends.append("")
    return out
