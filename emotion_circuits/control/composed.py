"""Methods made of methods: two emotions at once, strength over tokens, and only where it is called for.

Each takes another method's patches and changes one thing about them: how strong they are (`Mixture`), when
(`Schedule`, `Switch`), or on which prompts (`Conditional`). Whatever decodes them need not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from emotion_circuits.control.methods import Method
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.data.sev import Item
from emotion_circuits.errors import EmotionError
from emotion_circuits.interventions import Curve, Patch, Window, weighted
from emotion_circuits.model import HookedModel
from emotion_circuits.types import Site


@dataclass(frozen=True)
class Mixture:
    """Several emotions at once, each with a weight.

    Patches act one after the other. What they add is summed up, whatever the order; where an intervention looks at the
    residual (`Steering`), a later one sees what an earlier one did.

    Attributes:
        method: acts by patches, under the same prompts for every emotion.
        weights: by emotion; a number multiplies the strength, a curve does so token by token.
        name: shown in tables.
    """

    method: Method
    weights: Mapping[str, float | Curve]
    name: str = "mixture"

    def prepare(self, items: Sequence[Item], emotion: str | None = None) -> tuple[list[Prompt], list[Patch]]:
        """``emotion`` plays no part: what is mixed is said by the weights."""
        prompts: list[Prompt] | None = None
        patches: list[Patch] = []
        for mixed, weight in self.weights.items():
            mine, acting = _patched(self.method, items, mixed, self.name)
            if prompts not in (None, mine):
                raise EmotionError(f"{self.name!r} needs a method whose prompts are the same for every emotion")
            prompts, patches = mine, patches + _weighted(acting, weight)
        if prompts is None:
            raise EmotionError(f"{self.name!r} mixes nothing; give at least one emotion with its weight")
        return prompts, patches


@dataclass(frozen=True)
class Schedule:
    """A method whose strength changes while the reply is written.

    Attributes:
        method: acts by patches.
        curve: factor of its strength by token of the reply: `Ramp`, `Decay`, `Window`, or one of your own.
        name: shown in tables.
    """

    method: Method
    curve: Curve
    name: str = "schedule"

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        prompts, patches = _patched(self.method, items, emotion, self.name)
        return prompts, _weighted(patches, self.curve)


@dataclass(frozen=True)
class Switch:
    """One emotion up to a token of the reply, and another one from there on.

    Attributes:
        method: acts by patches, under the same prompts for both emotions.
        then: the emotion that takes over; the first one is the one that is asked for.
        at: number of the first token, counted from 0, that is made under ``then``.
        name: shown in tables.
    """

    method: Method
    then: str
    at: int
    name: str = "switch"

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        if emotion == self.then:
            return _patched(self.method, items, emotion, self.name)
        weights: dict[str, float | Curve] = {emotion: Window(0, self.at), self.then: Window(self.at)}
        return Mixture(self.method, weights, self.name).prepare(items)


@dataclass(frozen=True, eq=False)
class Condition:
    """Which prompts point along a direction, before anything is changed.

    Attributes:
        direction: at one layer; of unit length, so that a threshold is in units of the residual.
        layer: the layer.
        threshold: projections of at least this much pass.
        site: of the residual.
    """

    direction: Float[Tensor, " d_model"]
    layer: int
    threshold: float = 0.0
    site: Site = "resid_post"

    def projections(self, model: HookedModel, prompts: Sequence[Prompt]) -> Float[Tensor, " sample"]:
        """Of the residual at each prompt's last token, unmodulated."""
        (resid,) = model.record(prompts, self.site, [self.layer])
        return resid @ self.direction.to(resid)

    def rows(self, model: HookedModel, prompts: Sequence[Prompt]) -> tuple[int, ...]:
        """Places of the prompts that pass, for `Patch.on`."""
        return tuple((self.projections(model, prompts) >= self.threshold).nonzero().flatten().tolist())


@dataclass(frozen=True)
class Conditional:
    """A method that acts only on prompts that pass a condition; the others are left alone.

    Attributes:
        method: acts by patches.
        condition: looks at the prompts as the method words them.
        model: reads the prompts, before any reply is made.
        name: shown in tables.
    """

    method: Method
    condition: Condition
    model: HookedModel
    name: str = "conditional"

    def prepare(self, items: Sequence[Item], emotion: str) -> tuple[list[Prompt], list[Patch]]:
        prompts, patches = _patched(self.method, items, emotion, self.name)
        passed = self.condition.rows(self.model, prompts)
        return prompts, [p.on([i for i in passed if p.rows is None or i in p.rows]) for p in patches]


def _patched(method: Method, items: Sequence[Item], emotion: str, name: str) -> tuple[list[Prompt], list[Patch]]:
    prompts, patches = method.prepare(items, emotion)
    if not patches:
        raise EmotionError(
            f"{name!r} changes patches, but method {method.name!r} has none; give one that acts by patches"
        )
    return prompts, patches


def _weighted(patches: Sequence[Patch], weight: float | Curve) -> list[Patch]:
    return [replace(patch, intervention=weighted(patch.intervention, weight)) for patch in patches]
