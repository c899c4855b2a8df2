"""Objects made of what a file holds: every value is checked against its field's type before anything uses it.

A dataclass says in its annotations what it takes, tensors' shapes included (jaxtyping); `build` holds a file to that.
Axes of one name must agree across an object's fields. What does not fit is an `ArtefactError` that names the field.
"""

from __future__ import annotations

import collections.abc
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, no_type_check

import numpy as np
from jaxtyping import Shaped, jaxtyped

from emotion_circuits.errors import ArtefactError, EmotionCircuitsError

T = TypeVar("T")


def build(cls: type[T], place: object, held: Mapping[str, Any] | object, **sizes: int) -> T:
    """A dataclass's object.

    Args:
        cls: the dataclass.
        place: where the values come from, for the error.
        held: values by field; lists become tuples where the field wants a tuple.
        sizes: what axes must have, by name; those that are not given must agree with each other.

    Raises:
        ArtefactError: a field is missing, unknown, or of another type or shape.
    """
    if not isinstance(held, Mapping):
        raise ArtefactError(f"{place}: expected the fields of a {cls.__name__}, found {_shown(held)}")
    known = {field.name: field for field in fields(cls)}  # pyright: ignore[reportArgumentType]
    required = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    wrong = sorted(map(str, (required - set(held)) | (set(held) - set(known))))
    if wrong:
        raise ArtefactError(f"{place}: a saved {cls.__name__} has the fields {', '.join(known)}; look at {wrong[0]!r}")
    hints, values = _hints(cls), {}
    with jaxtyped("context"):
        _know(sizes, place)
        for name, value in held.items():
            values[name] = fitted(value, hints[name])
            if values[name] is _WRONG:
                raise ArtefactError(
                    f"{place}: {cls.__name__}.{name} should be {_named(hints[name])}, but is {_shown(value)}"
                )
    try:
        return cls(**values)
    except EmotionCircuitsError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ArtefactError(f"{place}: these fields make no {cls.__name__} ({error})") from error


def parts(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Entries called ``prefix.name``, by name; empty when there are none."""
    return {name.removeprefix(f"{prefix}."): held for name, held in tensors.items() if name.startswith(f"{prefix}.")}


# A function that jaxtyping wraps, as the tests have it, forgets the axes that `build` has seen.
@no_type_check
def fitted(value: Any, hint: Any) -> Any:
    """The value, with lists as tuples where ``hint`` says so; `_WRONG` when it does not fit."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin in (Union, types.UnionType):
        return next((f for f in (fitted(value, part) for part in arguments) if f is not _WRONG), _WRONG)
    if origin is Literal:
        return value if any(value == choice and type(value) is type(choice) for choice in arguments) else _WRONG
    if origin is tuple and isinstance(value, list | tuple):
        return _tuple(value, arguments)
    if origin in (dict, Mapping, collections.abc.Mapping) and isinstance(value, Mapping):
        kept = {fitted(k, arguments[0]): fitted(v, arguments[1]) for k, v in value.items()}
        return _WRONG if any(_WRONG is part for pair in kept.items() for part in pair) else kept
    if hint is float and type(value) is int:
        return float(value) if abs(value) < 2**63 else _WRONG
    if hint is int:
        return value if type(value) is int and abs(value) < 2**63 else _WRONG
    if hint is None or hint is type(None):
        return value if value is None else _WRONG
    if origin is not None or not isinstance(hint, type):
        return _WRONG
    if is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, hint.__name__, value)
    return value if isinstance(value, hint) else _WRONG


@no_type_check
def _know(sizes: Mapping[str, int], place: object) -> None:
    """Make axes known to the checks that follow: those of an array of these sizes, which takes no memory."""
    axes: Any = Shaped[np.ndarray, " ".join(("0", *sizes))]
    try:
        fits = isinstance(np.empty((0, *sizes.values())), axes)
    except ValueError:  # negative, or beyond any memory
        fits = False
    if not fits:
        raise ArtefactError(f"{place}: {dict(sizes)} are no model's sizes")


class _Wrong:
    pass


_WRONG: Any = _Wrong()


@no_type_check
def _tuple(value: list[Any] | tuple[Any, ...], arguments: tuple[Any, ...]) -> Any:
    if arguments[1:] == (...,):
        arguments = arguments[:1] * len(value)
    if len(arguments) != len(value):
        return _WRONG
    kept = tuple(fitted(part, hint) for part, hint in zip(value, arguments, strict=True))
    return _WRONG if any(part is _WRONG for part in kept) else kept


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _named(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint)


def _shown(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a tensor of shape {tuple(shape)}" if shape is not None else repr(value)[:60]
