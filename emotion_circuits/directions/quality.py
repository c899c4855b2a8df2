r"""`DirectionQuality`: what a direction must pass before it is believed.

Tests of *reliability* ask whether the same work, done again, gives the same direction. One that fails is flagged in
every result that is made with it.

split halves         cosine c between directions from random halves of the groups, carried to all groups by
                     Spearman and Brown's formula :math:`2c/(1+c)`; at least 0.8
refit                cosine with the direction that these samples give; at least 0.8. It catches directions that were
                     damaged, mixed up or never fitted.
leave one theme out  share of samples of an unseen theme that lie nearest to their own emotion's direction; at least
                     half-way from chance to 1

Tests of *agreement* ask whether another way of measuring finds the same thing. They are reported, and flag nothing:
a direction of what an instruction says may be sharp and yet differ from that of a state.

named and unnamed    cosine with the direction from instructions that do not name the emotion; at least 0.5
prompt and reply     cosine with the direction over the reply's tokens; at least 0.5. Both are divided by the square
                     root of the two reliabilities, so that 1 is the most that noise allows (Spearman 1904).

All values are means over the stable layers' sublayers, which the reference vector is made of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.data.prompts import check_emotions

if TYPE_CHECKING:
    import pandas as pd

RELIABLE = 0.8
"""Least reliability: split halves, carried to all groups, and refit."""
ABOVE_CHANCE = 0.5
"""Least share of the way from chance to 1, of the leave-one-theme-out accuracy."""
AGREES = 0.5
"""Least cosine between two ways of measuring, corrected for noise."""


@dataclass(frozen=True)
class QualityTest:
    """One test of every emotion's direction.

    Attributes:
        name: the test.
        values: one per emotion.
        threshold: the least that passes.
        flags: whether a direction that fails is flagged; tests of agreement flag nothing.
        intervals: 95 % interval per emotion, where the test has one.
    """

    name: str
    values: tuple[float, ...]
    threshold: float
    flags: bool = True
    intervals: tuple[tuple[float, float], ...] | None = None

    def passed(self, i: int) -> bool:
        """Whether the emotion at place ``i`` passed; one that could not be measured did not."""
        return self.values[i] >= self.threshold

    def describe(self, i: int) -> str:
        """The emotion's result in words."""
        value = self.values[i]
        if value != value:
            return f"{self.name}: could not be measured"
        return f"{self.name}: {value:.2f}, needs {self.threshold:.2f}"


@dataclass(frozen=True)
class DirectionQuality:
    """The tests that directions went through.

    Attributes:
        emotions: order of the tests' values.
        tests: the tests.
    """

    emotions: tuple[str, ...]
    tests: tuple[QualityTest, ...]

    def flags(self, emotion: str) -> tuple[str, ...]:
        """The reliability tests that an emotion's direction failed, in words; empty for one that can be trusted."""
        check_emotions([emotion], self.emotions, "this quality")
        i = self.emotions.index(emotion)
        return tuple(test.describe(i) for test in self.tests if test.flags and not test.passed(i))

    @property
    def flagged(self) -> dict[str, tuple[str, ...]]:
        """The emotions that are flagged, and why."""
        return {emotion: flags for emotion in self.emotions if (flags := self.flags(emotion))}

    def __getitem__(self, name: str) -> QualityTest:
        return {test.name: test for test in self.tests}[name]

    def updated(self, tests: Iterable[QualityTest]) -> DirectionQuality:
        """With more tests; one of the same name takes the place of the old one."""
        held = {test.name: test for test in (*self.tests, *tests)}
        return DirectionQuality(self.emotions, tuple(held.values()))

    def to_frame(self) -> pd.DataFrame:
        """One row per emotion and test: ``emotion, test, value, low, high, threshold, passed, flags``."""
        import pandas as pd

        nothing = (float("nan"), float("nan"))
        rows = [
            {
                "emotion": emotion, "test": test.name, "value": test.values[i],
                "low": (test.intervals[i] if test.intervals else nothing)[0],
                "high": (test.intervals[i] if test.intervals else nothing)[1],
                "threshold": test.threshold, "passed": test.passed(i), "flags": test.flags,
            }
            for test in self.tests for i, emotion in enumerate(self.emotions)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        names = ", ".join(test.name for test in self.tests)
        flagged = ", ".join(self.flagged)
        return f"DirectionQuality({names}: {f'FLAGGED {flagged}' if flagged else 'no direction flagged'})"


def split_half_test(cosines: Float[Tensor, "*sublayer emotion"]) -> QualityTest:
    """The test of split halves from cosines between halves."""
    return QualityTest("split halves", tuple(reliability(cosines).tolist()), RELIABLE)


def reliability(cosines: Float[Tensor, "*sublayer emotion"]) -> Float[Tensor, " emotion"]:
    """Spearman and Brown: the agreement to be expected of two directions that are made of all groups each."""
    mean = cosines.double().flatten(0, -2).mean(dim=0)
    return torch.where(mean > 0, 2 * mean / (1 + mean), mean)


def flag_note(flags: Iterable[str]) -> str:
    """What a result's ``repr`` adds when it was made with a flagged direction; nothing when it was not."""
    held = "; ".join(flags)
    return f"; FLAGGED direction ({held})" if held else ""
