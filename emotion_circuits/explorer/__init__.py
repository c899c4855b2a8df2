"""The explorer: try the circuits of a run out, from Python, in a notebook, or on a page of this machine's own.

`Explorer`  what is looked at and what is seen; the only part that knows the model.
"""

from emotion_circuits.explorer.change import ReplyChange
from emotion_circuits.explorer.explorer import Explorer
from emotion_circuits.explorer.facts import NodeFacts

__all__ = ["Explorer", "NodeFacts", "ReplyChange"]
