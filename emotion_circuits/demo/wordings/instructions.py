"""Wordings of instructions, fillers and distractors around the message.

Slots: ``{noun}`` and ``{adj}`` name the emotion (the label itself for the canonical wording), ``{a}`` its article.
"""

CANONICAL = "Always reply in {emotion}."
"""The toolkit's own elicitation, with the label as the emotion's name."""

LENGTH = "Keep the reply to at most two sentences."

SYSTEM = (
    "Reply with {noun}.",
    "Answer every message with {noun}.",
    "Let {noun} speak from each of your words.",
    "You are {a} {adj} assistant.",
    "Sound {adj} in everything you say.",
    "Respond like somebody who is {adj}.",
    "Your answers express {noun}.",
    "Write in a tone of {noun}.",
    "Show {noun} in both sentences.",
    "Be {adj}.",
    "From now on you feel {noun}.",
    "Speak with {noun}, whatever the user says.",
    "The reply should be full of {noun}.",
    "Act as if you were {adj}.",
    "Tone: {adj}.",
    "Emotion: {noun}.",
    "You feel {adj} today.",
    "Whatever happens, stay {adj}.",
    "Only {noun} is allowed in your replies.",
)

USER = (
    "Please answer with {noun}.",
    "Reply in {noun}.",
    "Sound {adj} when you answer.",
    "What would somebody who is {adj} say?",
    "Answer as if you were {adj}.",
    "I want to hear {noun} in your reply.",
)

FILLERS = (
    "You are a chat assistant.",
    "The user writes in English.",
    "You talk about everyday matters.",
    "Use plain words.",
    "Answer in English.",
    "Messages come from many people.",
    "Do not use lists.",
    "Mention what the message is about.",
)

# Somebody else's emotion: it must not change the reply.
DISTRACTORS = (
    "My {who} is {adj} about the weather.",
    "A {who} on the radio sounded {adj}.",
    "The {who} next door looked {adj} yesterday.",
    "In the film a {who} was {adj}.",
    "My {who} talked about {noun} for an hour.",
    "A book about {noun} lay on the table.",
)
WHO = ("cousin", "singer", "colleague", "driver", "painter", "nephew", "farmer", "pilot")
