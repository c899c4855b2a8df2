"""Fixed strengths: set beforehand, as the reference's are, and measured on the validation items; nothing is chosen.

The counterpart of `calibrate`: the same points, so that regime and fluency of a strength that nobody searched are seen.
"""

from __future__ import annotations

from collections.abc import Mapping

from emotion_circuits.control.doses import Bounds, Calibration
from emotion_circuits.control.trials import Dose, Family, Trials
from emotion_circuits.data.sev import SEV
from emotion_circuits.evaluation.accuracy import Question
from emotion_circuits.evaluation.judges import Judge
from emotion_circuits.generation import GenerationConfig
from emotion_circuits.journal import ReplyJournal
from emotion_circuits.model import HookedModel


def measure_fixed(
    model: HookedModel,
    candidate: str,
    family: Family,
    strengths: Mapping[str, float],
    data: SEV,
    judge: Judge,
    *,
    question: Question = "classify",
    bounds: Bounds | None = None,
    config: GenerationConfig | None = None,
    batch_size: int | None = None,
    journal: ReplyJournal | None = None,
) -> Calibration:
    """What one method does at strengths that are given.

    Args:
        model: the model.
        candidate: the method's name.
        family: the method.
        strengths: by emotion.
        data: validation items; never the test items.
        judge: of the replies.
        question: what it is asked.
        bounds: what decides a point's regime.
        config: how to decode.
        batch_size: rows in a batch.
        journal: keeps replies as they are made, see `emotion_circuits.generate`.
    """
    trials = Trials(
        model, {candidate: family}, judge, bounds or Bounds(), data.items, config, batch_size, journal, question
    )
    points = trials.run([Dose(candidate, emotion, strength) for emotion, strength in strengths.items()], data.items)
    return Calibration({point.emotion: point for point in points}, tuple(points), trials.bounds, trials.n_generations)
