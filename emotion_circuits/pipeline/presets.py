"""A run's presets: what its stages do where the reference's way and ours differ.

Stages read the `RunPreset` that the settings name, and ask no further. What a call of the library would be given is in
`emotion_circuits.presets`; here is what only a run decides: what it ranks nodes by, which candidates it has, and
whether strengths are searched (`Searched`) or set beforehand (`Fixed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from emotion_circuits.activations import Baseline
from emotion_circuits.attribution import AttributionMethod, DirectAttribution, Joined
from emotion_circuits.control import Calibration, SteeringVector, calibrate, measure_fixed
from emotion_circuits.control.calibrate import Family, Removals
from emotion_circuits.errors import DataError
from emotion_circuits.journal import ReplyJournal
from emotion_circuits.pipeline import search
from emotion_circuits.presets import Preset, preset

if TYPE_CHECKING:
    from emotion_circuits.pipeline.run import Run

MOST_HEADS = 0.5
"""Of the model's; a random circuit needs as many others. The reference's has a quarter, so this bounds small models."""


@runtime_checkable
class Choice(Protocol):
    """How circuits and steering, and their strengths, are come by."""

    @property
    def note(self) -> str:
        """What the report says about it."""
        ...

    def recipes(self) -> list[search.CircuitRecipe]:
        """The candidates for circuits."""
        ...

    def steering(self, run: Run) -> dict[str, Family]:
        """The candidates for steering, by name."""
        ...

    def choose(
        self, run: Run, kind: str, families: Mapping[str, Family], removals: Removals | None, journal: ReplyJournal
    ) -> Calibration:
        """Candidate and strength of every emotion, from the validation scenarios. ``kind``: circuit or steering."""
        ...


@dataclass(frozen=True)
class Searched:
    """Make-up and strength are searched under a bound on fluency."""

    note: str = (
        "Make-up, contrast, positions and strength of circuits and of steering were chosen on the validation "
        "scenarios, from the same contrasts, positions and strengths, under the same bound on fluency. The test "
        "scenarios were not looked at."
    )

    def recipes(self) -> list[search.CircuitRecipe]:
        return search.circuit_recipes()

    def steering(self, run: Run) -> dict[str, Family]:
        return search.steering_families(run.all_contrasts(), run.directions())

    def choose(
        self, run: Run, kind: str, families: Mapping[str, Family], removals: Removals | None, journal: ReplyJournal
    ) -> Calibration:
        return calibrate(
            run.model, families, run.validation, run.judge, run.emotions,
            removals=removals, strengths=search.STRENGTHS,
            config=run.config(), batch_size=run.settings.batch_size, journal=journal,
        )  # fmt: skip


@dataclass(frozen=True)
class Fixed:
    """One make-up and one strength, set beforehand; the validation scenarios only measure what they do.

    Attributes:
        stages: whose circuit, contrast, positions and strengths they are.
    """

    stages: Preset

    note: str = (
        "Make-up, contrast, positions and strength of circuits and of steering are the reference study's. They were "
        "set beforehand and not searched, so neither accuracy nor fluency was looked after."
    )

    def recipes(self) -> list[search.CircuitRecipe]:
        circuit, positions = self.stages.circuit, self.stages.modulation["positions"]
        return [search.CircuitRecipe(circuit["method"], MOST_HEADS, self.stages.contrasts["baseline"], positions)]

    def steering(self, run: Run) -> dict[str, Family]:
        directions, held = run.directions(), self.stages.steering(run.model)
        vectors = {emotion: directions.of(emotion) for emotion in directions.emotions}
        layers, where = held["layers"], held["positions"]
        name = f"direction, {where}, layers {search.span(layers)}"
        return {name: lambda emotion, strength: SteeringVector(vectors, layers, strength, where)}

    def choose(
        self, run: Run, kind: str, families: Mapping[str, Family], removals: Removals | None, journal: ReplyJournal
    ) -> Calibration:
        (candidate, family), = families.items()  # fmt: skip
        return measure_fixed(
            run.model, candidate, family, self._strengths(run, kind), run.validation, run.judge,
            question=run.question, config=run.config(), batch_size=run.settings.batch_size, journal=journal,
        )  # fmt: skip

    def _strengths(self, run: Run, kind: str) -> dict[str, float]:
        if kind == "steering":
            strength: float = self.stages.steering(run.model)["strength"]
            return dict.fromkeys(run.emotions, strength)
        # The reference has six emotions; any other label gets 1, as most do.
        held: Mapping[str, float] = self.stages.modulation["strength"]
        return {emotion: held.get(emotion, 1.0) for emotion in run.emotions}


@dataclass(frozen=True)
class RunPreset:
    """What the stages of a run do.

    Attributes:
        stages: settings by stage, as for a call of the library.
        max_new_tokens: longest reply, where the settings name none.
        ranking: what nodes are ranked by.
        baselines: of the contrasts that are fitted.
        choice: how make-up and strengths are come by.
    """

    stages: Preset
    max_new_tokens: int
    ranking: AttributionMethod
    baselines: tuple[Baseline, ...]
    choice: Choice


def run_preset(name: str) -> RunPreset:
    """The preset of a run that is called ``name``.

    Raises:
        DataError: there is none.
    """
    if name not in RUN_PRESETS:
        raise DataError(f"there is no preset {name!r}; there are {' and '.join(RUN_PRESETS)}")
    return RUN_PRESETS[name]


_PAPER = preset("paper")

RUN_PRESETS: dict[str, RunPreset] = {
    "paper": RunPreset(
        stages=_PAPER,
        max_new_tokens=_PAPER.elicit["config"].max_new_tokens,
        ranking=Joined(_PAPER.neurons["method"], _PAPER.heads["method"]),
        baselines=(_PAPER.contrasts["baseline"],),
        choice=Fixed(_PAPER),
    ),
    "default": RunPreset(
        stages=preset("default"),
        max_new_tokens=60,
        ranking=DirectAttribution(),
        baselines=("uninstructed", "emotions"),
        choice=Searched(),
    ),
}
