"""Settings of a run: everything that its results depend on, and where it may run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from emotion_circuits.errors import DataError
from emotion_circuits.model.loading import as_dtype
from emotion_circuits.types import EKMAN

FREE = ("device", "batch_size")
"""Settings that may change when a run is taken up again: they decide where and how fast, not what."""


@dataclass(frozen=True)
class Settings:
    """What to run.

    Attributes:
        model: ``"demo"``, a Hugging Face name or a local folder.
        revision: branch, tag or commit on the hub.
        data: ``"demo"``, ``"own"`` or a SEV JSONL file.
        emotions: labels to elicit.
        dtype: of the weights; None is float32 for the demo model and bfloat16 for others.
        seed: of every random choice.
        limit: at most this many scenarios in each of train, validation and test.
        max_new_tokens: longest reply.
        size: nodes in a circuit; None is 560, or 5 % of the model's nodes if that is fewer.
        temperature: of the second, sampled table; None leaves it out.
        trust_remote_code: let the model's repository run code of its own.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``; None picks.
        batch_size: rows in a batch; None picks.
    """

    model: str = "demo"
    revision: str | None = None
    data: str = "demo"
    emotions: tuple[str, ...] = EKMAN
    dtype: str | None = None
    seed: int = 0
    limit: int | None = None
    max_new_tokens: int = 60
    size: int | None = None
    temperature: float | None = 0.7
    trust_remote_code: bool = False
    device: str | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if len(self.emotions) < 2 or len(set(self.emotions)) < len(self.emotions):
            raise DataError(
                f"emotions must be at least two different labels, got {', '.join(self.emotions) or 'none'}; a "
                "direction is what distinguishes one from the others"
            )
        for name in ("limit", "max_new_tokens", "size", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name.replace('_', '-')} must be at least 1, got {value}")

        if self.dtype is not None:
            as_dtype(self.dtype)

    def identity(self) -> dict[str, Any]:
        """The settings that results depend on, as JSON has them."""
        held = asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in held.items() if name not in FREE}

    def differences(self, other: dict[str, Any]) -> list[str]:
        """What differs from the settings that another run was started with, in words."""
        mine = self.identity()
        names = [f.name for f in fields(self) if f.name in mine]
        return [f"{n}: {other.get(n)!r} then, {mine[n]!r} now" for n in names if other.get(n) != mine[n]]
