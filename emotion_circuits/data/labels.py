"""Label sets: which emotions there are, and what is known about each of them.

A label set is a YAML file; only the labels are needed, everything else about them is optional::

    name: mine
    labels:
      joy:
        like: happiness                 # borrow its instructions and its phrases where there are none below
        opposite: sadness
        valence: 0.8                    # ratings from -1 to 1, for the valence-arousal analysis
        arousal: 0.5
        colour: "#c8a030"
        words: {en: joy, de: Freude}    # what stands for {emotion} in a template
        texts: {described: {en: "Your heart is light."}}   # a style's text, by language
        phrases: {over the moon: 2, sunny: 1}              # for the lexicon judge, with weights
      sadness:
      ...

`LabelSet.parse` reads what ``--emotions`` is given: the name of a set that ships with the package, a file, or labels.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from emotion_circuits.checked import build
from emotion_circuits.data.fields import Fields, read_yaml
from emotion_circuits.data.instructions import Wording
from emotion_circuits.errors import DataError, EmotionError
from emotion_circuits.types import NEUTRAL

_FOLDER = Path(__file__).with_suffix("")
LABEL_SETS: tuple[str, ...] = ("ekman", "plutchik", "circumplex")
"""Names of the sets that ship with the package."""

_NAME = re.compile(r"\w[\w '-]*")
_RESERVED = (NEUTRAL, "uninstructed", "overall")
"""Labels that mean something else: a verdict, a file of a run, and a table's row of all emotions."""
_ALLOWED = (
    f"a label of letters, digits, spaces and hyphens other than {', '.join(map(repr, _RESERVED))} and 'heads-...'"
)
_COLOUR = re.compile("#[0-9a-fA-F]{6}")
_KEYS = ("like", "opposite", "valence", "arousal", "colour", "words", "texts", "phrases")


@dataclass(frozen=True)
class Label:
    """One emotion.

    Attributes:
        name: the label.
        like: a label of the six whose instructions and phrases it borrows.
        opposite: the label at the other end.
        valence: from -1 (unpleasant) to 1 (pleasant).
        arousal: from -1 (calm) to 1 (excited).
        colour: in the report, the explorer and figures made within `plots.label_looks`, as ``#rrggbb``; None takes
            one of the package's.
        words: what stands for ``{emotion}``, by language.
        texts: a style's text, by style and language.
        phrases: weight of each phrase that shows it, for the lexicon judge.
    """

    name: str
    like: str | None = None
    opposite: str | None = None
    valence: float | None = None
    arousal: float | None = None
    colour: str | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    phrases: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _allowed(self.name):
            raise DataError(f"label {self.name!r} is not {_ALLOWED}")
        if self.colour is not None and not _COLOUR.fullmatch(self.colour):
            raise DataError(f'label {self.name!r} has the colour {self.colour!r}, not one such as "#c8a030"')

    @property
    def base(self) -> str:
        """The label whose instructions and phrases stand in where it has none."""
        return self.like or self.name


@dataclass(frozen=True)
class LabelSet:
    """Labels in their order.

    Attributes:
        labels: the labels.
        name: the set's name.
        circular: whether neighbours in the order are neighbours on a circle, as in Plutchik's wheel.
    """

    labels: tuple[Label, ...]
    name: str = "labels"
    circular: bool = False

    def __post_init__(self) -> None:
        for first, second in _same_file(self.names):
            raise DataError(
                f"labels {first!r} and {second!r} differ in case alone, and files are named after labels: some systems "
                "would take one file for the other; rename one"
            )

    @classmethod
    def of(cls, *names: str) -> LabelSet:
        """Plain labels, nothing else known about them."""
        return cls(tuple(Label(name) for name in names))

    @classmethod
    def parse(cls, text: str) -> LabelSet:
        """What a user gives: a shipped set's name, a YAML file, or labels separated by commas."""
        if text in LABEL_SETS or text.endswith((".yaml", ".yml")):
            return cls.load(text)
        return cls.of(*(label.strip() for label in text.split(",") if label.strip()))

    @classmethod
    def load(cls, name: str | Path) -> LabelSet:
        """A set that ships with the package, or a file of the user's own.

        Raises:
            DataError: the file is wrong; names the line and the key.
        """
        return cls.read(read_yaml(_FOLDER / f"{name}.yaml" if str(name) in LABEL_SETS else name))

    @classmethod
    def read(cls, fields: Fields) -> LabelSet:
        """A label set from what a file holds."""
        fields.only("name", "circular", "labels")
        circular = fields.get("circular", False)
        if not isinstance(circular, bool):
            fields.wrong("circular", "true or false")
        return cls(_labels(fields), fields.optional_text("name") or "labels", circular)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as the rest of the package knows them."""
        return tuple(label.name for label in self.labels)

    @property
    def opposites(self) -> list[tuple[str, str]]:
        """Pairs of opposite labels, each once."""
        pairs = {tuple(sorted((label.name, label.opposite))) for label in self.labels if label.opposite}
        return sorted(pairs)  # pyright: ignore[reportReturnType]

    @property
    def ratings(self) -> dict[str, tuple[float, float]]:
        """Valence and arousal of the labels that have both."""
        return {x.name: (x.valence, x.arousal) for x in self.labels if x.valence is not None and x.arousal is not None}

    @property
    def colours(self) -> dict[str, str]:
        """Colours of the labels that have one."""
        return {label.name: label.colour for label in self.labels if label.colour}

    def wording(self, language: str = "en") -> Wording:
        """The language's instructions, with the words and texts of these labels."""
        base = Wording.load(language)
        styles = {name: held for name, held in base.styles.items() if not isinstance(held, str)}
        words, texts = {}, {name: {} for name in styles}
        for label in self.labels:
            fallback = base.words.get(label.name) or base.words.get(label.base)
            if word := label.words.get(language) or fallback:
                words[label.name] = word
            for style, held in styles.items():
                if text := label.texts.get(style, {}).get(language) or held.get(label.base):
                    texts[style][label.name] = text
        return base.extended(words, texts)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads: plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> LabelSet:
        """Read what `to_dict` wrote.

        Raises:
            ArtefactError: it is damaged.
        """
        return build(cls, "label set", held)

    def __getitem__(self, name: str) -> Label:
        for label in self.labels:
            if label.name == name:
                return label
        raise EmotionError(f"label set {self.name!r} has no label {name!r}; it has {', '.join(self.names)}")

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        return f"LabelSet({self.name}: {', '.join(self.names)})"


def _labels(fields: Fields) -> tuple[Label, ...]:
    given = fields.get("labels")
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        given = Fields(dict.fromkeys(given), fields.place, ("labels",))
    if not isinstance(given, Fields) or len(given) < 2:
        fields.wrong("labels", "at least two labels, as a list or as a mapping")
    labels = [_label(given, name) for name in given]
    for first, second in _same_file(given):
        given.wrong(second, f"a label that differs from {first!r} in more than case, as files are named after labels")
    opposites = {label.name: label.opposite for label in labels if label.opposite}
    for name, other in opposites.items():
        if other not in given or other == name:
            given.child(name).wrong("opposite", f"another label of the set ({', '.join(given)})")
        if opposites.get(other, name) != name:
            given.child(name).wrong("opposite", f"a label whose own opposite is not {opposites[other]!r}")
    return tuple(labels)


def _label(labels: Fields, name: str) -> Label:
    if not _allowed(name):
        labels.wrong(name, _ALLOWED)
    held = labels.child(name).only(*_KEYS)
    colour = held.optional_text("colour")
    if colour is not None and not _COLOUR.fullmatch(colour):
        held.wrong("colour", 'a colour such as "#c8a030"')
    texts = held.child("texts")
    return Label(
        name,
        like=held.optional_text("like"),
        opposite=held.optional_text("opposite"),
        valence=held.number("valence", -1, 1),
        arousal=held.number("arousal", -1, 1),
        colour=colour,
        words=held.texts("words"),
        texts={style: texts.texts(style) for style in texts},
        phrases=_phrases(held),
    )


def _phrases(held: Fields) -> dict[str, float]:
    given = held.get("phrases")
    if isinstance(given, list):
        return {phrase: 2.0 if isinstance(phrase, str) else held.wrong("phrases", "texts") for phrase in given}
    weights = held.child("phrases")
    return {phrase: float(weights.number(phrase, 0, 10) or 0) for phrase in weights}


def _allowed(name: str) -> bool:
    """Files of a run are named after labels: none may be taken for another one's."""
    plain = _file_name(name)
    return bool(_NAME.fullmatch(name)) and plain not in _RESERVED and not plain.startswith("heads-")


def _file_name(label: str) -> str:
    """The same for labels whose files some system takes for one: without case, and with accents kept in one way."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", label).casefold())


def _same_file(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of different labels that would share files."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(_file_name(name), name)
        if first != name:
            yield first, name
