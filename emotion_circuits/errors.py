"""The exception tree. Every message says what was given, what was expected and what to do next.

All of them are `EmotionCircuitsError`, which the command line turns into one line and exit code 2; each also is
the built-in exception that Python users would expect to catch.
"""

from __future__ import annotations


class EmotionCircuitsError(Exception):
    """Base of every error that this package raises on purpose."""


class DataError(EmotionCircuitsError, ValueError):
    """A record or file does not have the form that it should; names file, line and field."""


class EmotionError(EmotionCircuitsError, ValueError):
    """An emotion that the data, directions or judge do not know."""


class ModelError(EmotionCircuitsError, ValueError):
    """A model cannot be loaded, or cannot do what was asked of it."""


class DeviceError(EmotionCircuitsError, RuntimeError):
    """A device that was asked for is not there."""


class PromptError(EmotionCircuitsError, ValueError):
    """A prompt cannot be rendered or does not fit into the model's context."""


class NodeError(EmotionCircuitsError, ValueError):
    """A node that the model does not have, or a name that is not a node's."""


class PatchError(EmotionCircuitsError, ValueError):
    """A patch does not fit the model, the batch or the site."""


class ArtefactError(EmotionCircuitsError, ValueError):
    """A saved result is damaged, of another schema, or belongs to another model."""


class RunError(EmotionCircuitsError, RuntimeError):
    """A run folder cannot be used: other settings, another owner, not writable."""


class PeerError(EmotionCircuitsError, RuntimeError):
    """Another process of the same run stopped, or cannot be reached.

    Attributes:
        told: whether that process could say why, and has.
    """

    told = False
