"""Phrase lists: their notation, and an automaton that finds their entries in a text in one pass.

1. An entry becomes a small graph over words; ``[are] you (sad|mad)`` stands for four phrases without writing them
   out. Two edges are special: ``disgust*`` (any ending), and ``~`` (up to three words of any kind).
2. The graphs are walked together. The set of places where the walk can be is made into one state when it is first
   met and kept, so that reading a text costs one dictionary look-up per word (a lazy subset construction).
3. Of phrases that overlap the longest wins, so that "surprise party" can be listed against "surprise". A phrase
   with several labels counts for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files

from emotion_circuits.evaluation.judges.tokens import plain

ANY, MAX_GAP = "~", 3
OTHER = "?"  # stands for all words that no entry names
MAX_REMEMBERED = 100_000
MACROS = {"<my>": "(my|our|your|his|her|their|the)", "<me>": "(me|us|you|him|her|them)"}
PIECE = re.compile(r"[()\[\]|]|[^()\[\]|\s]+")


@dataclass(frozen=True, slots=True)
class Hit:
    """A phrase found in ``words[start:end]`` and its weight per label."""

    start: int
    end: int
    weights: dict[str, float]


class _Node:
    """A place in an entry's graph."""

    __slots__ = ("edges", "weights")

    def __init__(self) -> None:
        self.edges: dict[str, list[_Node]] = {}
        self.weights: dict[str, float] = {}


class _State:
    """All places where the walk can be after the same words."""

    __slots__ = ("next", "nodes", "weights")

    def __init__(self, nodes: list[_Node]) -> None:
        self.nodes = nodes
        self.next: dict[str, _State | None] = {}
        self.weights: dict[str, float] = {}
        for node in nodes:
            for label, weight in node.weights.items():
                self.weights[label] = max(weight, self.weights.get(label, 0.0))


def read_list(name: str) -> Iterator[tuple[str, float]]:
    """Yields (entry, weight) of a list in the package's ``words`` folder."""
    weight = 1.0
    for line in (files("emotion_circuits.evaluation.judges") / "words" / f"{name}.txt").read_text("utf-8").splitlines():
        line = line.strip()
        if re.fullmatch(r"\[[\d.]+\]", line):
            weight = float(line[1:-1])
        elif line and not line.startswith("#"):
            yield line, weight


class PhraseBook:
    """Finds the entries of phrase lists in a list of plain words.

    Args:
        entries: (entry, label, weight); the notation is described in ``words/README.txt``.

    Raises:
        ValueError: an entry's brackets do not match, or it stands for no words at all.
    """

    def __init__(self, entries: Iterable[tuple[str, str, float]]) -> None:
        self.stems: set[str] = set()
        self.vocabulary: set[str] = set()
        self._root = _Node()
        self._names: dict[str, str] = {}
        for entry, label, weight in entries:
            self._add(entry, label, weight)
        self._start = _State([self._root])
        self._states: dict[frozenset[int], _State] = {}

    def _add(self, entry: str, label: str, weight: float) -> None:
        written = entry.lower()
        for macro, meaning in MACROS.items():
            written = written.replace(macro, meaning)
        pieces = PIECE.findall(written)
        if any(pieces.count(a) != pieces.count(b) for a, b in ("()", "[]")):
            raise ValueError(f"the lexicon entry {entry!r} has brackets that do not match: write (a|b) or [optional]")
        ends, _ = self._alternatives(pieces, 0, [self._root])
        if self._root in ends:
            raise ValueError(f"the lexicon entry {entry!r} can be no words at all: leave a word outside of [ ]")
        for node in ends:
            node.weights[label] = max(weight, node.weights.get(label, 0.0))

    def _alternatives(self, pieces: list[str], at: int, starts: list[_Node]) -> tuple[list[_Node], int]:
        """Adds ``a b | c`` up to a closing bracket; returns where it can end, and the next piece."""
        ends, current = [], starts
        while at < len(pieces) and pieces[at] not in ")]":
            piece = pieces[at]
            at += 1
            if piece == "|":
                ends, current = ends + current, starts
            elif piece in "([":
                inner, at = self._alternatives(pieces, at, current)
                current = inner if piece == "(" else current + inner
                at += 1
            else:
                current = self._words(piece, current)
        return list(dict.fromkeys(ends + current)), at

    def _words(self, piece: str, nodes: list[_Node]) -> list[_Node]:
        """Adds one written word, which may be several plain words ("can't"), behind some nodes."""
        if piece == ANY:
            every = list(nodes)
            for _ in range(MAX_GAP):
                nodes = [self._step(nodes, ANY)]
                every += nodes
            return every
        for word in (piece,) if piece.endswith("*") else plain(piece):
            (self.stems if word.endswith("*") else self.vocabulary).add(word.rstrip("*"))
            nodes = [self._step(nodes, word)]
        return nodes

    @staticmethod
    def _step(nodes: list[_Node], edge: str) -> _Node:
        target = _Node()
        for node in nodes:
            node.edges.setdefault(edge, []).append(target)
        return target

    def find(self, words: list[str], sentence: list[int]) -> list[Hit]:
        """The phrases found, in order, none overlapping and none across sentences."""
        names = [self._names.get(word) or self._name(word) for word in words]
        found = [hit for at in range(len(words)) if (hit := self._longest(names, sentence, at)) is not None]
        if len(found) < 2:
            return found
        taken: set[int] = set()
        kept = []
        for hit in sorted(found, key=lambda hit: (hit.start - hit.end, hit.start)):
            if taken.isdisjoint(range(hit.start, hit.end)):
                taken.update(range(hit.start, hit.end))
                kept.append(hit)
        return sorted(kept, key=lambda hit: hit.start)

    def _longest(self, words: list[str], sentence: list[int], at: int) -> Hit | None:
        state: _State | None = self._start
        best = None
        for j in range(at, len(words)):
            if sentence[j] != sentence[at]:
                break
            state = self._follow(state, words[j])
            if state is None:
                break
            if state.weights:
                best = Hit(at, j + 1, state.weights)
        return best

    def _follow(self, state: _State, word: str) -> _State | None:
        if word not in state.next:
            edges = self._word_edges(word)
            nodes = {id(t): t for node in state.nodes for edge in edges for t in node.edges.get(edge, ())}
            key = frozenset(nodes)
            if nodes and key not in self._states:
                self._states[key] = _State(list(nodes.values()))
            state.next[word] = self._states[key] if nodes else None
        return state.next[word]

    def _word_edges(self, word: str) -> tuple[str, ...]:
        """The edges that a word can take: itself, every stem that it starts with, and any."""
        stems = (word[:n] for n in range(2, len(word) + 1))
        return (word, *(f"{stem}*" for stem in stems if stem in self.stems), ANY)

    def _name(self, word: str) -> str:
        """The word itself if some entry can take it; all others share one name, so that states stay few."""
        if len(self._names) > MAX_REMEMBERED:
            self._names.clear()
        known = word in self.vocabulary or len(self._word_edges(word)) > 2
        self._names[word] = word if known else OTHER
        return self._names[word]
