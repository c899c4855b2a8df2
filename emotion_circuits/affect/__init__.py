"""How emotions lie to each other, across languages, and over time: analyses of fitted directions.

`affect_space`        principal axes, ridge to valence and arousal ratings, circular order
`language_agreement`  are the directions of two languages the same, as far as noise lets one see
`emotion_dynamics`    how an emotion's projection lives and decays over generated tokens
"""

from emotion_circuits.affect.dynamics import EmotionDynamics, emotion_dynamics
from emotion_circuits.affect.languages import LanguageAgreement, language_agreement
from emotion_circuits.affect.order import CircularOrder, circular_order
from emotion_circuits.affect.space import AffectSpace, RatingFit, affect_space

__all__ = [
    "AffectSpace",
    "CircularOrder",
    "EmotionDynamics",
    "LanguageAgreement",
    "RatingFit",
    "affect_space",
    "circular_order",
    "emotion_dynamics",
    "language_agreement",
]
