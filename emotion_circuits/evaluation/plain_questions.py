"""Prompts that have nothing to do with emotion, written for this project: what control should leave alone.

`QUESTIONS` have short answers that any instruction-tuned model of a billion parameters knows; `REQUESTS` are everyday
requests whose replies can be of any wording. Both are asked as items, so that every method can prepare them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from emotion_circuits.data.sev import Item, Record

QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is the capital of France?", ("Paris",)),
    ("What is the capital of Japan?", ("Tokyo",)),
    ("In which country is the city of Cairo?", ("Egypt",)),
    ("Which river flows through London?", ("Thames",)),
    ("On which continent is Brazil?", ("South America", "America")),
    ("What is 7 plus 5?", ("12", "twelve")),
    ("What is 9 times 6?", ("54", "fifty four")),
    ("What is half of 30?", ("15", "fifteen")),
    ("How many minutes are in an hour?", ("60", "sixty")),
    ("How many days does a week have?", ("7", "seven")),
    ("How many sides does a triangle have?", ("3", "three")),
    ("How many legs does a spider have?", ("8", "eight")),
    ("Which planet do we live on?", ("Earth",)),
    ("Which planet is the largest in the solar system?", ("Jupiter",)),
    ("What is the chemical formula of water?", ("H2O", "H₂O")),
    ("Which gas do plants take from the air to grow?", ("carbon dioxide", "CO2", "CO₂")),
    ("At how many degrees Celsius does water boil at sea level?", ("100", "hundred")),
    ("Who wrote the play Hamlet?", ("Shakespeare",)),
    ("Who painted the Mona Lisa?", ("Leonardo", "da Vinci")),
    ("What is the opposite of left?", ("right",)),
    ("What is the plural of the word mouse, the animal?", ("mice",)),
    ("Which month comes after March?", ("April",)),
    ("Which colour do you get from mixing blue and yellow?", ("green",)),
    ("Which animal gives us wool?", ("sheep",)),
)
"""Questions with the answers that count as right."""

REQUESTS: tuple[str, ...] = (
    "Name three tools that are found in a kitchen.",
    "Explain how to sort a list of names by hand.",
    "Describe the shape of a bicycle wheel.",
    "Say how a letter gets from one town to another.",
    "Write one sentence about the use of paper.",
    "List four materials that a house can be built from.",
    "Explain what a map legend is for.",
    "Say what the difference between a lake and a river is.",
    "Describe how bread is made.",
    "Explain what a thermometer measures.",
    "Name two ways to measure the length of a table.",
    "Say what a library catalogue contains.",
    "Explain how a zip works.",
    "Describe where a railway timetable is used.",
    "Say what the letters on a keyboard are for.",
    "Explain why clocks have two hands.",
)
"""Requests whose replies need no feeling."""


def as_items(texts: Sequence[str], lead: str) -> list[Item]:
    """Texts as items of one event each: ``lead`` is the scenario, the text its neutral event."""
    return [Item(Record(f"{lead} {i}", "plain", lead, {"neutral": text}), "neutral") for i, text in enumerate(texts)]


def answers(reply: str, accepted: Sequence[str]) -> bool:
    """Whether a reply contains one of the accepted answers, as whole words; "no, not Paris" would count too."""
    spaced = f" {_plain(reply)} "
    return any(f" {_plain(answer)} " in spaced for answer in accepted)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower().replace("_", " ")))
