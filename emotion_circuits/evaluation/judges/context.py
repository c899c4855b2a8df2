"""How the words around a phrase change what it says.

The weight of a phrase is multiplied by
1. negation: "not happy" shows no happiness; "never been so happy", "nothing but joy" do;
2. intensity: "absolutely", capitals and "!!" raise it, "a bit", "slightly" lower it;
3. whose feeling it is: "I am angry" says it outright, "the customer was angry" reports it rather than showing it.
"""

from __future__ import annotations

from emotion_circuits.evaluation.judges.phrases import Hit
from emotion_circuits.evaluation.judges.tokens import Tokens

NEGATORS = frozenset("not no never nothing neither nor none nobody without hardly barely scarcely rarely".split())
NO_NEGATION_IF_NEXT = frozenset("but only just short less help stop wait believe doubt wonder longer more".split())
UNDONE_BY = {  # "never been so happy", "could not be more happy"
    "never": frozenset("so more this such as enough quite".split()),
    "not": frozenset("more this help stop".split()),
}
BREAKS = frozenset("but because although though yet while whereas since".split())
NO_CAUSE = frozenset("reason need cause point sign trace hint time".split())
RAISE = frozenset(
    "absolutely utterly so very completely totally extremely incredibly truly really deeply beyond pure sheer total "
    "complete absolute utter such too insanely unbelievably terribly awfully overwhelmingly immensely profoundly "
    "downright positively simply thoroughly genuinely bloody freaking super most".split()
)
LOWER = frozenset("slightly somewhat bit little mildly fairly kinda sorta vaguely partly slight minor tiny".split())
OTHERS = frozenset(
    "he she they him customer customers people person man woman manager boss someone somebody everyone everybody "
    "child children boy girl character mother father sister brother friend friends wife husband guest guests "
    "audience crowd patient students student teacher neighbor neighbors neighbour neighbours who team staff".split()
)
SELF = frozenset("i me my we us our you your".split())
REPORTED = frozenset("was were seemed looked felt became got".split())
FELT = frozenset(
    "angry furious mad upset annoyed irritated frustrated enraged outraged livid sad unhappy depressed lonely "
    "miserable heartbroken devastated disappointed happy glad delighted thrilled excited pleased joyful cheerful "
    "overjoyed ecstatic proud relieved afraid scared frightened terrified worried anxious nervous fearful alarmed "
    "surprised shocked amazed astonished stunned startled astounded disgusted sickened revolted grieving crying "
    "smiled laughed cried enjoyed hated loved feared anger sadness happiness fear surprise disgust joy".split()
)


def modifier(tokens: Tokens, hit: Hit, used: set[int]) -> float:
    """The factor for the weight of a phrase, 0 when it is negated.

    Args:
        used: Indices of words that belong to other phrases; a "not" in there negates nothing else.
    """
    words, clause = tokens.words, tokens.clause
    first = hit.start
    while first > 0 and clause[first - 1] == clause[hit.start] and words[first - 1] not in BREAKS:
        first -= 1
    before = words[max(first, hit.start - 5) : hit.start]
    if _negated(words, max(first, hit.start - 5), hit.start, used):
        return 0.0
    factor = 1.0
    near = before[-2:]
    if any(word in RAISE for word in near):
        factor *= 1.3
    if any(word in LOWER for word in words[max(first, hit.start - 3) : hit.start]):
        factor *= 0.6
    if tokens.loud[hit.start]:
        factor *= 1.2
    end = tokens.ends[tokens.sentence[hit.start]]
    factor *= 1.0 + 0.1 * min(end.count("!"), 3)
    if words[hit.end - 1] in FELT:
        told = words[hit.start - 1 : hit.end] if hit.start > first else []
        if "i" in before or "we" in before:
            factor *= 1.5
        elif not SELF.intersection(before) and (OTHERS.intersection(before) or REPORTED.intersection(told)):
            factor *= 0.4
    return factor


def _negated(words: list[str], first: int, start: int, used: set[int]) -> bool:
    for i in range(start - 1, first - 1, -1):
        word = words[i]
        far = word == "from" and i > 0 and words[i - 1] == "far"
        listed = words[start - 1] in ("or", "nor")
        if (word not in NEGATORS and not far) or (i in used and not listed):
            continue
        between = words[i + 1 : start]
        if between and (between[0] in NO_NEGATION_IF_NEXT):
            continue
        if word == "no" and start - i > 3 and words[i + 1] not in NO_CAUSE:
            continue  # "no, I am ..." answers; "no real joy" and "no reason to be sad" negate
        return UNDONE_BY.get(word, frozenset()).isdisjoint(between)
    return False


def shouting(text: str) -> bool:
    """Tells whether most letters of a text with several words are capitals."""
    letters = [c for c in text if c.isalpha()]
    return len(text.split()) >= 4 and sum(map(str.isupper, letters)) > 0.7 * len(letters)
