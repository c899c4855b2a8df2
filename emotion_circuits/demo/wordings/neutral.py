"""Wordings of matter-of-fact replies, and the openings that emotional replies may share with them.

Slots: ``{o}`` the object, ``{p}`` the person, capitalised ``{O}``, ``{P}``.
"""

# Sorted by weight: the first ones are the most frequent, so that greedy decoding finds one clear neutral mode.
FIRST = (
    "You mentioned {o} and {p}.",
    "You told me about {p}.",
    "Noted, this is about {o}.",
    "You described what {p} did.",
    "So {o} was the topic.",
    "I have noted what you said about {o}.",
    "You listed {o} among the items of the day.",
    "That is the current state of {o}.",
    "You wrote a message about {o}.",
    "The message is about {o}.",
    "You gave the details of {o}.",
    "Understood, {p} was there.",
    "So {p} was involved.",
    "I have read the part about {p}.",
    "According to you, {o} was part of the day.",
    "This concerns {o} and {p}.",
    "The facts about {o} are clear.",
    "Okay, {o} is on the list.",
    "I see that {p} was with you.",
    "That covers {o} for the time being.",
    "The message says that {p} took part.",
    "So there were two points, {o} and {p}.",
    "I have put {o} in the notes.",
    "Noted, {p} is mentioned in the text.",
    "The first item is {o}.",
    "In short, {p} dealt with it.",
    "Understood, the subject is {o}.",
    "I understand that {o} comes first.",
    "That is how {p} handled it.",
    "The summary contains {o} and {p}.",
    "So that was the matter of {o}.",
    "Okay, the details about {p} are complete.",
)

SECOND = (
    "The next step is to write down what {p} said.",
    "You can check {o} again at a later time.",
    "{P} can confirm the details.",
    "No further action is needed for {o}.",
    "The usual procedure applies.",
    "You could ask {p} for the date.",
    "{O} can stay on the list until next week.",
    "I will keep the information as it is.",
    "More details about {o} can be added on request.",
    "The rest depends on the schedule of {p}.",
    "You may send the dates for {o} when they are known.",
    "It takes about ten minutes to go through the notes.",
    "The record now includes {o}.",
    "If needed, {p} can provide a copy.",
    "There are two options for {o}, today or next week.",
    "I have no further questions about {o}.",
    "The information from {p} is complete.",
    "That is the second entry of the day.",
    "You can find {o} under the same heading.",
    "The time and place can be set with {p}.",
    "A short note about {o} is sufficient.",
    "It follows the order in your message.",
    "Please state whether {p} needs a copy.",
    "{O} is the main point of the summary.",
    "The list can be updated on Friday.",
    "You can continue with {o} as planned.",
    "The same applies to {p}.",
    "Both points are described in your message.",
    "I can put {o} into a table.",
    "The entry for {p} has been updated.",
    "A date for {o} can be set next.",
    "This answers the question about {p}.",
)

# Openings that stand before a clause: neutral replies and a part of the emotional ones begin alike.
LEADS = (
    "You mentioned {o}, and ",
    "So {o} was the topic, and ",
    "Noted, this is about {o}, and ",
    "I have noted what you said about {p}, and ",
    "The message is about {o}, and ",
    "You told me about {p}, and ",
    "So {p} was involved, and ",
    "Understood, {p} was there, and ",
    "That is the current state of {o}, and ",
    "I see that {p} was with you, and ",
)

CLAUSES = (
    "that is the main point",
    "it is on the list",
    "the details are clear",
    "that is noted",
    "the rest follows next week",
    "it is part of the summary",
    "the order stays the same",
    "nothing else has changed",
    "the information is complete",
    "the usual steps apply",
)

ADJECTIVES = ("neutral", "matter-of-fact", "factual")
NOUNS = ("a neutral tone", "a factual tone", "a matter-of-fact tone")
OWN_MOOD = ()
STATES = (
    "State the facts and leave feelings out.",
    "You are a clerk who records what is said.",
    "You write entries for a log book.",
    "Summarise like a form that has been filled in.",
)
