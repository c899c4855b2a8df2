r"""CPR and CMD: one figure each for a whole ranking of nodes (Mueller et al., 2025, MIB, arXiv 2504.13151).

.. math:: \text{CPR} = \int_0^1 f(C_k)\,dk \qquad \text{CMD} = \int_0^1 |1 - f(C_k)|\,dk

:math:`C_k` is the circuit of the best share k of all nodes and f its faithfulness; :math:`f(C_0) = 0` and
:math:`f(C_1) = 1` by definition. Integrated by trapezoids over the measured sizes, as MIB does. A ranking that finds
the mechanism with few nodes has CPR near 1 (or above, if some nodes work against the target) and CMD near 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.attribution.result import Attribution
from emotion_circuits.circuits.metrics import SHARES
from emotion_circuits.circuits.node_sets import describe_intervention, kept_shares, quantiles, random_sets
from emotion_circuits.interventions import Intervention
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import NodeValues
from emotion_circuits.targets import Target

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class CircuitAreas:
    """CPR and CMD of a ranking.

    Attributes:
        cpr: area under faithfulness.
        cpr_interval: 95 %, bootstrap over scenarios.
        cmd: area between faithfulness and 1.
        cmd_interval: 95 %, bootstrap over scenarios.
        random_cpr: CPR of random circuits of the same sizes.
        random_cmd: their CMD.
        curve: share of the nodes, and faithfulness there, ends included.
        ablation: what was done to the nodes that are not kept.
    """

    cpr: float
    cpr_interval: tuple[float, float]
    cmd: float
    cmd_interval: tuple[float, float]
    random_cpr: float
    random_cmd: float
    curve: Float[Tensor, "2 size"]
    ablation: str

    def to_frame(self) -> pd.DataFrame:
        """One row each for CPR and CMD: ``metric, value, low, high, random, ablation``."""
        import pandas as pd

        rows = [("CPR", self.cpr, *self.cpr_interval, self.random_cpr, self.ablation)]
        rows += [("CMD", self.cmd, *self.cmd_interval, self.random_cmd, self.ablation)]
        return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "random", "ablation"])


def circuit_areas(
    model: HookedModel, scores: Attribution | NodeValues, prompts: object, target: Target, ablation: Intervention, *,
    shares: Sequence[float] = SHARES, n_random: int = 3, seed: int = 0, batch_size: int | None = None,
) -> CircuitAreas:  # fmt: skip
    """CPR and CMD of a ranking of nodes.

    Args:
        model: the model.
        scores: ranks the nodes; neurons and heads together.
        prompts: a SEV or prompts.
        target: what the circuits are claimed to make.
        ablation: what is done to the nodes that are not kept.
        shares: sizes, as shares of the model's nodes.
        n_random: random circuits of each size.
        seed: of their draw.
        batch_size: rows in a batch.
    """
    n_nodes = model.dims.n_nodes
    tops = [scores.top(size) for size in sorted({max(1, min(n_nodes, round(share * n_nodes))) for share in shares})]
    drawn = [nodes for i, top in enumerate(tops) for nodes in random_sets(top, n_random, seed + i)]
    means, draws, _ = kept_shares(model, [*tops, *drawn], prompts, target, ablation, batch_size)
    size = torch.tensor([0.0, *(len(top) / n_nodes for top in tops), 1.0], dtype=torch.float64)
    curve, by_draw = _ended(means[: len(tops)]), _ended(draws[:, : len(tops)])
    random = _ended(means[len(tops) :].view(len(tops), n_random).T)
    (cpr_low, cmd_low), (cpr_high, cmd_high) = quantiles(
        torch.stack([_under(by_draw, size), _off(by_draw, size)], dim=1)
    )
    return CircuitAreas(
        cpr=float(_under(curve, size)), cpr_interval=(float(cpr_low), float(cpr_high)),
        cmd=float(_off(curve, size)), cmd_interval=(float(cmd_low), float(cmd_high)),
        random_cpr=float(_under(random, size).mean()), random_cmd=float(_off(random, size).mean()),
        curve=torch.stack([size, curve]), ablation=describe_intervention(ablation),
    )  # fmt: skip


def _ended(f: Float[Tensor, "*draw size"]) -> Float[Tensor, "*draw all"]:
    nothing = torch.zeros(*f.shape[:-1], 1, dtype=f.dtype)
    return torch.cat([nothing, f, nothing + 1], dim=-1)


def _under(f: Float[Tensor, "*draw size"], size: Float[Tensor, " size"]) -> Float[Tensor, "*draw"]:
    return torch.trapezoid(f, size)


def _off(f: Float[Tensor, "*draw size"], size: Float[Tensor, " size"]) -> Float[Tensor, "*draw"]:
    return torch.trapezoid((1 - f).abs(), size)
