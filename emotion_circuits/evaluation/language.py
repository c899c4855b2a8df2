"""Is a reply in the language that was wanted? A rough check that needs no model.

1. Letters vote for their script. Fewer than four in five in a script of the wanted language: no.
2. Languages that share the Latin script are told apart by their commonest function words: yes if no other language
   has more of them in the text, no if another has.
3. A text without letters, or a short one without any function word, cannot be told: None. A longer one is a no,
   since nobody writes that many words without one.

It tells languages apart, not good text from bad: "the of and the" is English here. Perplexity is for that.
"""

from __future__ import annotations

import unicodedata

from emotion_circuits.errors import DataError

SHORT = 8
"""Words up to which a text without function words cannot be told."""

_LATIN = {
    "en": """the a and to of is was it that this i you my your for with have has had not but are were be been what so we
        they he she would will can just about there when from as do did at an how i'm i've it's that's""",
    "de": """der die das und ist war ich nicht ein eine einen mit zu den dem von auf für sich es sie wir ihr auch aber
        wie als sind hat haben noch nur so was mein meine dass bei nach wenn""",
    "fr": """le la les et est un une des du de je ne pas que qui dans pour sur avec ce cette il elle nous vous mon ma
        mes mais au aux plus très suis était avoir tout c'est j'ai sont""",
    "es": """el la los las y es un una de del que en no a por para con se lo su mi me pero más muy como está estoy fue
        era tan todo esto eso al son hay he ha""",
    "it": """il lo la gli le e è un una di del della che in non a per con si mi ma più molto come sono era ho ha questo
        questa tutto al alla nel anche così""",
    "pt": """o a os as e é um uma de do da que em não por para com se meu minha mas mais muito como está estou foi era
        isso isto tudo ao na no são há""",
    "nl": """de het een en is was ik niet van op te met voor dat die dit er maar zo mijn je we ze ook aan bij als om
        naar heb heeft zijn wat nog""",
}  # fmt: skip
FUNCTION_WORDS = {language: frozenset(words.split()) for language, words in _LATIN.items()}
SCRIPTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_LATIN, ("LATIN",)),
    "zh": ("CJK",), "ja": ("HIRAGANA", "KATAKANA", "CJK"), "ko": ("HANGUL",), "ar": ("ARABIC",), "ru": ("CYRILLIC",),
    "el": ("GREEK",), "he": ("HEBREW",), "hi": ("DEVANAGARI",), "th": ("THAI",),
}  # fmt: skip
"""Scripts of each known language, by the first word of their letters' Unicode names."""


def in_language(text: str, language: str = "en") -> bool | None:
    """Whether a text is in a language; None where that cannot be told.

    Args:
        text: the text.
        language: a code, one of `SCRIPTS`.

    Raises:
        DataError: the language is not known.
    """
    if language not in SCRIPTS:
        raise DataError(f"cannot check for the language {language!r}; the known ones are {', '.join(sorted(SCRIPTS))}")
    letters = [_script(c) for c in text if c.isalpha()]
    if not letters:
        return None
    if sum(script in SCRIPTS[language] for script in letters) < 0.8 * len(letters):
        return False
    return _by_function_words(text, language) if language in FUNCTION_WORDS else True


def _by_function_words(text: str, language: str) -> bool | None:
    words = [word.strip("'") for word in _letters_alone(text).split()]
    found = {name: sum(word in known for word in words) for name, known in FUNCTION_WORDS.items()}
    if not any(found.values()):
        return None if len(words) <= SHORT else False
    return found[language] == max(found.values())


def _letters_alone(text: str) -> str:
    lowered = text.lower().replace("’", "'")
    return "".join(c if c.isalpha() or c == "'" else " " for c in lowered)


def _script(letter: str) -> str:
    return unicodedata.name(letter, "?").split()[0]
