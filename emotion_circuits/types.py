"""The vocabulary: one sentence for each word that the rest of the package uses.

emotion      a label, e.g. ``"anger"``; any label set works, `EKMAN` is the usual one.
site         a place in a layer where activations are read and written (see `Site`).
sublayer     the attention or the MLP of one layer; its residual is ``resid_mid`` or ``resid_post``.
node         one MLP neuron or one attention head (`emotion_circuits.nodes`).
position     which tokens of a sequence are meant (see `Position`).
group        one (scenario, event valence) pair; the same text under every emotion.
strength     how much of a contrast is added, or a share of the residual's norm for steering.
contrast     a mean difference of activations that an emotion makes.
target       the number that attribution explains, e.g. the projection on an emotion's direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from emotion_circuits.errors import DataError, NodeError

EKMAN: tuple[str, ...] = ("anger", "sadness", "happiness", "fear", "surprise", "disgust")
"""The six labels of Ekman, in the order of the reference study."""

NEUTRAL = "neutral"
"""What a judge answers when a readable text expresses none of the emotions."""

VALENCES: tuple[str, ...] = ("positive", "neutral", "negative")

Site = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "neuron", "head"]
"""Where in a layer. `neuron` is TransformerLens's ``mlp.hook_post`` (what ``down_proj`` reads), `head` is its
``attn.hook_z`` (what ``o_proj`` reads, one row per head); the others are its ``hook_<site>``."""

Position = Literal["last_prompt", "prompt", "generated", "last", "all"]
"""Which tokens. ``last_prompt`` is the prompt's final token; ``generated`` everything after it; ``last`` both of
these, i.e. every token that was the newest one when it was computed; ``prompt`` and ``all`` exclude padding."""

Sublayer = Literal["attention", "mlp"]
NodeKind = Literal["neuron", "head"]

KINDS: tuple[NodeKind, NodeKind] = ("neuron", "head")
SITES: tuple[str, ...] = get_args(Site)
POSITIONS: tuple[str, ...] = get_args(Position)
SUBLAYER_SITE: dict[str, Site] = {"attention": "resid_mid", "mlp": "resid_post"}

_ALIASES: dict[str, Site] = {
    "neurons": "neuron", "post": "neuron", "mlp_post": "neuron", "mlp.hook_post": "neuron",
    "heads": "head", "z": "head", "hook_z": "head", "attn.hook_z": "head",
    "attention": "resid_mid", "mlp": "resid_post",
}  # fmt: skip


def as_site(name: str) -> Site:
    """The site that ``name`` means: its own name, or TransformerLens's (``"z"``, ``"hook_resid_post"`` ...)."""
    for candidate in (name, name.removeprefix("hook_")):
        if candidate in SITES:
            return candidate  # type: ignore[return-value]
        if candidate in _ALIASES:
            return _ALIASES[candidate]
    raise ValueError(f"unknown site {name!r}; the sites are {', '.join(SITES)}")


def as_position(name: str) -> Position:
    """``name`` itself when it is one of `POSITIONS`."""
    return as_choice(name, Position, "position")


def as_choice(name: str, choices: Any, what: str) -> Any:
    """``name`` itself when it is one of a Literal's values, so that a misspelt option takes no branch by accident.

    Args:
        name: what was given.
        choices: the Literal.
        what: the option's name, for the message.

    Raises:
        DataError: it is none of them (it is a ValueError).
    """
    known = get_args(choices)
    if name not in known:
        raise DataError(f"unknown {what} {name!r}; the {what}s are {', '.join(known)}")
    return name


def as_layer(layer: int, n_layers: int) -> int:
    """A layer's place counted from 0; a negative layer counts from the end.

    Raises:
        NodeError: the model has no such layer.
    """
    if not -n_layers <= layer < n_layers:
        raise NodeError(f"layer {layer} is outside the model, which has layers 0 to {n_layers - 1}")
    return layer % n_layers


@dataclass(frozen=True)
class ModelDims:
    """The sizes of a model that fix the shape of everything stored for it."""

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int

    @property
    def n_neurons(self) -> int:
        """MLP neurons in the whole model."""
        return self.n_layers * self.d_mlp

    @property
    def n_nodes(self) -> int:
        """Neurons and heads in the whole model."""
        return self.n_layers * (self.d_mlp + self.n_heads)

    def unit_shape(self, site: Site) -> tuple[int, ...]:
        """Shape of one token's activation at ``site``."""
        return {"neuron": (self.d_mlp,), "head": (self.n_heads, self.d_head)}.get(site, (self.d_model,))
