r"""Growing circuits: sufficiency and necessity as curves, and their areas CPR and CMD.

.. math:: \text{CPR} = \int_0^1 f(C_k)\,dk \qquad \text{CMD} = \int_0^1 |1 - f(C_k)|\,dk

:math:`C_k` is the circuit of the best share k of all nodes and f its faithfulness; :math:`f(C_0) = 0` and
:math:`f(C_1) = 1` by definition. Integrated by trapezoids over the measured sizes, as MIB does. A ranking that finds
the mechanism with few nodes has CPR near 1 (or above, if some nodes work against the target) and CMD near 0.

Reference: Mueller et al., "MIB: A Mechanistic Interpretability Benchmark", 2025 (arXiv 2504.13151).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.attribution.result import Attribution
from emotion_circuits.circuits.controls import FEW, Controls
from emotion_circuits.circuits.node_sets import describe_intervention, kept_shares, quantiles
from emotion_circuits.interventions import Intervention
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import HasDims, NodeSet, NodeValues
from emotion_circuits.targets import Target

if TYPE_CHECKING:
    import pandas as pd

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Sizes of the growing circuits, as MIB has them; 0 and 1 need no measurement."""


def circuit_curves(
    model: HookedModel, scores: Attribution | NodeValues, prompts: object, target: Target, ablation: Intervention, *,
    shares: Sequence[float] = SHARES, controls: Controls = FEW, batch_size: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Sufficiency and necessity of growing circuits: the best nodes of a ranking, and controls of the same make-up.

    Args:
        model: the model.
        scores: ranks the nodes; neurons and heads together.
        prompts: a SEV or prompts.
        target: what the circuits are claimed to make.
        ablation: what is done to the nodes that are not kept.
        shares: sizes, as shares of the model's nodes.
        controls: circuits of the same make-up beside each size.
        batch_size: rows in a batch.

    Returns:
        One row per size and selection (``top``, ``random``, ``shuffled``): ``share, n_nodes, selection, sufficiency,
        sufficiency_low, sufficiency_high, necessity, necessity_low, necessity_high, ablation``. Sufficiency is f(C),
        necessity 1 - f(N - C). Intervals are 95 %, over scenarios for ``top`` and over circuits for the controls.
    """
    import pandas as pd

    tops = _growing(model, scores, shares)
    flat = [nodes for i, top in enumerate(tops) for nodes in (top, *controls.like(top, i))]
    means, draws, _ = kept_shares(model, [*flat, *(~nodes for nodes in flat)], prompts, target, ablation, batch_size)
    figures = torch.stack([means[: len(flat)], 1 - means[len(flat) :]])
    by_draw = torch.stack([draws[:, : len(flat)], 1 - draws[:, len(flat) :]])
    rows = []
    for i, top in enumerate(tops):
        column = i * (len(controls) + 1)
        base = {"share": len(top) / model.dims.n_nodes, "n_nodes": len(top)}
        rows.append(base | _row("top", figures[:, column], by_draw[:, :, column]))
        beside = figures[:, column + 1 : column + 1 + len(controls)]
        parts = beside.split([controls.n_random, len(controls.shuffled)], dim=1)
        for selection, part in zip(("random", "shuffled"), parts, strict=True):
            if part.shape[1]:
                rows.append(base | _row(selection, part.mean(dim=1), part))
    return pd.DataFrame(rows).assign(ablation=describe_intervention(ablation))


def _growing(model: HasDims, scores: Attribution | NodeValues, shares: Sequence[float]) -> list[NodeSet]:
    n = model.dims.n_nodes
    return [scores.top(size) for size in sorted({max(1, min(n, round(share * n))) for share in shares})]


def _row(selection: str, value: Tensor, spread: Float[Tensor, "2 draw"]) -> dict[str, object]:
    row: dict[str, object] = {"selection": selection}
    low, high = quantiles(spread.T)
    for i, name in enumerate(("sufficiency", "necessity")):
        row |= {name: float(value[i]), f"{name}_low": float(low[i]), f"{name}_high": float(high[i])}
    return row


@dataclass(frozen=True, eq=False)
class CircuitAreas:
    """CPR and CMD of a ranking.

    Attributes:
        cpr: area under faithfulness.
        cpr_interval: 95 %, bootstrap over scenarios.
        cmd: area between faithfulness and 1.
        cmd_interval: 95 %, bootstrap over scenarios.
        random: mean CPR and CMD of random circuits of the same make-up; NaN without any.
        shuffled: the same of circuits of shuffled labels.
        curve: share of the nodes, and faithfulness there, ends included.
        ablation: what was done to the nodes that are not kept.
    """

    cpr: float
    cpr_interval: tuple[float, float]
    cmd: float
    cmd_interval: tuple[float, float]
    random: tuple[float, float]
    shuffled: tuple[float, float]
    curve: Float[Tensor, "2 size"]
    ablation: str

    def to_frame(self) -> pd.DataFrame:
        """One row each for CPR and CMD: ``metric, value, low, high, random, shuffled, ablation``."""
        import pandas as pd

        rows = [
            ("CPR", self.cpr, *self.cpr_interval, self.random[0], self.shuffled[0], self.ablation),
            ("CMD", self.cmd, *self.cmd_interval, self.random[1], self.shuffled[1], self.ablation),
        ]
        return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "random", "shuffled", "ablation"])


def circuit_areas(
    model: HookedModel, scores: Attribution | NodeValues, prompts: object, target: Target, ablation: Intervention, *,
    shares: Sequence[float] = SHARES, controls: Controls = FEW, batch_size: int | None = None,
) -> CircuitAreas:  # fmt: skip
    """CPR and CMD of a ranking of nodes. Arguments as for `circuit_curves`."""
    tops = _growing(model, scores, shares)
    beside = [controls.like(top, i) for i, top in enumerate(tops)]
    kept = [*tops, *(nodes for held in beside for nodes in held)]
    means, draws, _ = kept_shares(model, kept, prompts, target, ablation, batch_size)
    size = torch.tensor([0.0, *(len(top) / model.dims.n_nodes for top in tops), 1.0], dtype=torch.float64)
    curve, by_draw = _ended(means[: len(tops)]), _ended(draws[:, : len(tops)])
    low, high = quantiles(_areas(by_draw, size))
    cpr, cmd = _areas(curve, size).tolist()
    controlled = _areas(_ended(means[len(tops) :].view(len(tops), len(controls)).T), size)
    drawn, shuffled = controlled.split([controls.n_random, len(controls.shuffled)])
    return CircuitAreas(
        cpr, (float(low[0]), float(high[0])), cmd, (float(low[1]), float(high[1])), _mean(drawn), _mean(shuffled),
        torch.stack([size, curve]), describe_intervention(ablation),
    )  # fmt: skip


def _ended(f: Float[Tensor, "*draw size"]) -> Float[Tensor, "*draw all"]:
    nothing = torch.zeros(*f.shape[:-1], 1, dtype=f.dtype)
    return torch.cat([nothing, f, nothing + 1], dim=-1)


def _areas(f: Float[Tensor, "*draw size"], size: Float[Tensor, " size"]) -> Float[Tensor, "*draw 2"]:
    """CPR and CMD."""
    return torch.stack([torch.trapezoid(f, size), torch.trapezoid((1 - f).abs(), size)], dim=-1)


def _mean(areas: Float[Tensor, "draw 2"]) -> tuple[float, float]:
    cpr, cmd = areas.mean(dim=0).tolist()
    return cpr, cmd
