"""Dose sweeps: a target against the strength of an intervention on fixed nodes, from one run of each prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from emotion_circuits import distributed
from emotion_circuits.attribution.edits import check_nodes, set_edit
from emotion_circuits.attribution.sums import some_prompts
from emotion_circuits.intervals import clustered
from emotion_circuits.interventions import Intervention
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.suffix import SuffixRun
from emotion_circuits.nodes import NodeSet
from emotion_circuits.progress import progress
from emotion_circuits.targets import Target

if TYPE_CHECKING:
    import pandas as pd

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def dose_sweep(
    model: HookedModel,
    prompts: object,
    target: Target,
    nodes: NodeSet,
    intervention: Callable[[float], Intervention],
    *,
    strengths: Sequence[float] = STRENGTHS,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """The target at the last prompt token when all ``nodes`` are changed together there, at several strengths.

    Args:
        model: the model.
        prompts: all of them are samples, whatever they ask for.
        target: what is measured.
        nodes: e.g. ``circuit.nodes``.
        intervention: makes the intervention of a strength, e.g. ``lambda s: Enhancement(contrast, s)``.
        strengths: the strengths.
        batch_size: rows in a batch.

    Returns:
        One row per strength: ``strength, value, change, low, high``; the change against no intervention with its 95 %
        bootstrap interval over scenarios, in the target's unit.
    """
    import pandas as pd

    made = [intervention(strength) for strength in strengths]
    for held in made:
        check_nodes(held, model, nodes)
    asked = some_prompts(prompts)
    values = torch.zeros(len(asked), 1 + len(made), dtype=torch.float64)

    def work(batch: TokenBatch) -> Tensor:
        return _values(SuffixRun(model, batch), target, nodes, made)

    with progress("dose", len(asked), shared=True) as advance, torch.no_grad():
        for batch, found in model.run_batches(asked, work, batch_size, shared=True):
            values[batch.samples.cpu()] = found
            advance(len(batch))
    distributed.add(values)
    clusters = [prompt.item if prompt.item is not None else i for i, prompt in enumerate(asked)]
    rows = []
    for slot, strength in enumerate(strengths, start=1):
        change = values[:, slot] - values[:, 0]
        low, high = clustered(change.tolist(), clusters)
        rows.append({"strength": strength, "value": float(values[:, slot].mean()), "change": float(change.mean()),
                     "low": low, "high": high})  # fmt: skip
    return pd.DataFrame(rows)


def _values(run: SuffixRun, target: Target, nodes: NodeSet, made: Sequence[Intervention]) -> Tensor:
    """The target without and with each intervention, ``[batch, 1 + strength]``."""
    before = target(run.model, run.base(target.readout)).double().cpu()
    values = before[:, None].repeat(1, 1 + len(made))
    edits = [edit for held in made if (edit := set_edit([nodes], held, run.batch.samples)) is not None]
    for variants, read in run.read(edits, [target.readout]):
        values[:, 1 + variants.cpu()] = target(run.model, read[target.readout]).double().cpu()
    return values
