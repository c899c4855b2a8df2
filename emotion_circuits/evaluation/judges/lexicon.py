"""`LexiconJudge`: weighted phrases, read in context; offline, deterministic, and it gives its reasons.

1. Text -> plain words (`tokens`); unreadable text is unscored, with the reason (`language`).
2. Phrases of all labels are found, longest first (`phrases`); a phrase seen before counts for less.
3. Each weight is multiplied by its context: negation, intensity, whose feeling (`context`).
4. Sarcasm turns praise into distaste; a text in capitals sounds angry.
5. The label with the most evidence wins; below the threshold the text is neutral; a tie is unscored.

It is a word list: it does not understand, and irony without a marker escapes it. It shares no wording with the
demo corpus. See ``words/README.txt`` for the notation of the lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from emotion_circuits.evaluation.judges.base import NEUTRAL, Score, check_emotions, check_texts
from emotion_circuits.evaluation.judges.context import modifier, shouting
from emotion_circuits.evaluation.judges.language import English
from emotion_circuits.evaluation.judges.phrases import PhraseBook, read_list
from emotion_circuits.evaluation.judges.tokens import Tokens, tokenize
from emotion_circuits.types import EKMAN

IGNORE, SARCASM = "none", "sarcasm"
SHOUTING = 1.4  # what capitals throughout are worth for anger
HINTS = 1.5  # how much more evidence hints need without a clear phrase among them
CLEAR = 2.0  # the weight from which a phrase shows an emotion by itself; less is a hint
OPENING = 4  # a clear phrase that begins within so many words sets the tone of a reply


class LexiconJudge:
    """Judges by weighted phrases.

    Args:
        lexicon: Another label set: label -> entries (weight 2 each) or label -> {entry: weight}. The default is the
            project's own lists for the six emotions of `EKMAN`.
        threshold: Evidence below this is neutral; one clear word is worth 2, a hint 1. Long texts need more.
        min_known: Smallest share of known English words in a text that is judged at all.

    Example:
        >>> LexiconJudge()(["This is outrageous!", "The meeting is on Tuesday."])[0].label
        'anger'
    """

    name = "lexicon"
    languages = ("en",)

    def __init__(
        self,
        lexicon: Mapping[str, Sequence[str] | Mapping[str, float]] | None = None,
        threshold: float = 1.5,
        min_known: float = 0.6,
    ) -> None:
        self.labels: tuple[str, ...] = EKMAN if lexicon is None else tuple(lexicon)
        if not self.labels:
            raise ValueError("the lexicon is empty: give at least one label with its entries")
        self.threshold = threshold
        self.book = PhraseBook(_entries(lexicon))
        self.cues = PhraseBook((e, SARCASM, w) for e, w in read_list(SARCASM)) if lexicon is None else None
        self.english = English(self.book.vocabulary, self.book.stems, min_known)

    def __call__(self, texts: Sequence[str]) -> list[Score]:
        """Returns, per text, the label with the most evidence, "neutral", or None with the reason."""
        return [self._classify(text) for text in check_texts(texts)]

    def match(self, texts: Sequence[str], emotions: Sequence[str] | str) -> list[Score]:
        """Returns, per text, the emotion asked for if the text shows it, even beside a stronger one.

        Yes needs evidence above the threshold and at least half of that for the strongest label.

        Raises:
            EmotionError: the judge has no entries for an emotion.
        """
        texts = check_texts(texts)
        emotions = check_emotions(texts, emotions, self.labels)
        return [self._match(self._classify(text), emotion) for text, emotion in zip(texts, emotions, strict=True)]

    def _match(self, score: Score, emotion: str) -> Score:
        evidence = score.scores.get(emotion, 0.0)
        if evidence >= self.threshold and evidence >= 0.5 * max(score.scores.values()):
            return Score(emotion, score.reason, score.scores)
        return score

    def _classify(self, text: str) -> Score:
        tokens = tokenize(text)
        problem = self.english.unreadable(tokens)
        if problem:
            return Score(None, problem)
        evidence = self._evidence(text, tokens)
        scores = evidence.scores
        ranked = sorted(self.labels, key=lambda label: (-scores[label], -evidence.strongest[label]))
        best, tied = ranked[0], [e for e in ranked if evidence.rank(e) == evidence.rank(ranked[0])]
        needed = self.threshold * max(1.0, len(tokens.words) / 60)
        if evidence.strongest[best] < CLEAR:
            needed *= HINTS
        if scores[best] < needed:
            return Score(NEUTRAL, f"evidence {scores[best]:.1f} for {best} is below {needed:.1f}", scores)
        if len(tied) > 1:
            return Score(None, f"tie between {' and '.join(tied)} at {scores[best]:.1f}", scores)
        return Score(best, f"{best} {scores[best]:.1f}: {', '.join(evidence.phrases[best])}", scores)

    def _evidence(self, text: str, tokens: Tokens) -> _Evidence:
        out = _Evidence(self.labels)
        hits = self.book.find(tokens.words, tokens.sentence)
        used = {i for hit in hits for i in range(hit.start, hit.end)}
        seen: Counter[str] = Counter()
        for hit in hits:
            phrase = " ".join(tokens.words[hit.start : hit.end])
            factor = modifier(tokens, hit, used) * 0.6 ** seen[phrase]
            seen[phrase] += 1
            for label, weight in hit.weights.items():
                if label != IGNORE and factor > 0:
                    opens = hit.start < OPENING and weight >= CLEAR
                    out.add(label, weight, factor * (1.3 if opens else 1.0), phrase)
        if self.cues is not None:
            if self.cues.find(tokens.words, tokens.sentence):
                out.turn_praise()
            if shouting(text):
                out.add("anger", SHOUTING, 1.0, "capitals")
        return out


class _Evidence:
    """What speaks for each label: the sum, the strongest single phrase, and the phrases."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.scores = dict.fromkeys(labels, 0.0)
        self.strongest = dict.fromkeys(labels, 0.0)
        self.phrases: dict[str, list[str]] = {label: [] for label in labels}

    def add(self, label: str, weight: float, factor: float, phrase: str) -> None:
        self.scores[label] += weight * factor
        self.strongest[label] = max(self.strongest[label], weight * min(factor, 1.0))
        self.phrases[label].append(repr(phrase))

    def rank(self, label: str) -> tuple[float, float]:
        return round(self.scores[label], 6), self.strongest[label]

    def turn_praise(self) -> None:
        """Sarcasm: praise becomes distaste, and some of it reproach."""
        for label, share in (("disgust", 0.6), ("anger", 0.3)):
            if self.scores["happiness"] > 0:
                self.add(label, self.scores["happiness"] * share, 1.0, "praise said with sarcasm")
        self.scores["happiness"] *= 0.1
        self.scores["surprise"] *= 0.5


def _entries(lexicon: Mapping[str, Sequence[str] | Mapping[str, float]] | None) -> list[tuple[str, str, float]]:
    if lexicon is None:
        return [(entry, label, weight) for label in (*EKMAN, IGNORE) for entry, weight in read_list(label)]
    out = []
    for label, entries in lexicon.items():
        if isinstance(entries, str) or not entries:
            raise ValueError(f"lexicon[{label!r}] is {entries!r}: give a list of entries or a mapping to weights")
        weighted = entries if isinstance(entries, Mapping) else dict.fromkeys(entries, 2.0)
        out += [(entry, label, float(weight)) for entry, weight in weighted.items()]
    return out
