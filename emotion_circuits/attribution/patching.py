r"""Activation patching: what a target loses when one node is changed (method.md, stage 4).

For every node i, with the intervention given to i alone at the last prompt token,

.. math:: s_i = \pm\,(t(\text{unpatched}) - t(\text{patched}_i))

The sign is such that a positive score means that the node supports the target: plus for interventions that take
something away (ablations, exchanges, clamps), minus for those that add (`Enhancement`, a `Scale` above 1).

1. Run each prompt once (`SuffixRun`).
2. Every node is one variant, one query token that goes up from the node's layer; the variants of a layer are edited
   together (`node_edits`), and chunks of them share a layer call.
3. Read every target from the residual at its readout, and add up over the target's samples.

The result equals one full patched forward pass per node, per prompt, to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from emotion_circuits.attribution.edits import check_nodes, node_edits, places
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.attribution.sums import SampleSet, ScoreSums, kinds_of, put_together
from emotion_circuits.errors import NodeError
from emotion_circuits.interventions import Enhancement, Intervention, Scale, Scheduled
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.suffix import SuffixRun
from emotion_circuits.nodes import NodeSet
from emotion_circuits.progress import progress
from emotion_circuits.provenance import provenance
from emotion_circuits.targets import Target


@dataclass(frozen=True, eq=False)
class ActivationPatching:
    """The effect of each node alone, by intervention. Exact, and not additive: effects of two nodes need not sum.

    Attributes:
        intervention: what is done to a node at the last prompt token.
        nodes: which nodes; every head by default. Neurons can be many: ``scores.top(1000)`` of a closed form first.
        chunk: variants x prompts in one layer call; chosen from the free memory by default. The result does not
            depend on it.

    Example:
        >>> import emotion_circuits as ec
        >>> model = ec.HookedModel.demo()
        >>> prompts = [ec.Prompt.user("I moved my desk.").instructed(emotion) for emotion in ("anger", "fear")]
        >>> target = ec.LogitDifference(tokens=(40,), against=(41,))
        >>> scores = ec.attribute(model, prompts, target, ec.ActivationPatching(ec.ZeroAblation()))
        >>> scores.values.heads.shape == (model.dims.n_layers, model.dims.n_heads)
        True
    """

    intervention: Intervention
    nodes: NodeSet | None = None
    chunk: int | None = None
    name: str = "activation patching"

    def __call__(
        self, model: HookedModel, prompts: object, targets: Mapping[str, Target], batch_size: int | None = None
    ) -> dict[str, Attribution]:
        """Scores of every target, all variants shared between targets.

        Raises:
            DataError: there are no prompts.
            NodeError: there are no nodes to score.
        """
        samples, nodes = SampleSet(prompts, targets), chosen_nodes(model, self.nodes)
        check_nodes(self.intervention, model, nodes)
        sums = {name: ScoreSums(model.dims) for name in targets}
        with progress("patching", len(samples), shared=True) as advance:
            effects_of = partial(self._effects, model, nodes=nodes, targets=targets)
            for batch, effects in samples.run(model, effects_of, batch_size, shared=True):
                for name, effect in effects.items():
                    self._add(sums[name], nodes, effect[samples.rows(name, batch).cpu()])
                advance(len(batch))
        put_together(sums)
        source = provenance(model, samples.prompts, method=self.name, intervention=type(self.intervention).__name__)
        method, kinds = f"{self.name}, {type(self.intervention).__name__}", kinds_of(nodes)
        return {name: sums[name].attribution(method, target, nodes, source, kinds) for name, target in targets.items()}

    @torch.no_grad()
    def _effects(
        self, model: HookedModel, batch: TokenBatch, nodes: NodeSet, targets: Mapping[str, Target]
    ) -> dict[str, Tensor]:
        run, edits = SuffixRun(model, batch), node_edits(nodes, self.intervention, batch.samples)
        readouts = list(dict.fromkeys(target.readout for target in targets.values()))
        before = {name: target(model, run.base(target.readout)) for name, target in targets.items()}
        effects = {name: torch.empty(len(batch), len(nodes), dtype=torch.float64) for name in targets}
        sign = sign_of(self.intervention)
        for variants, read in run.read(edits, readouts, self.chunk):
            for name, target in targets.items():
                change = target(model, read[target.readout]) - before[name][:, None]
                effects[name][:, variants.cpu()] = sign * change.double().cpu()
        return effects

    @staticmethod
    def _add(sums: ScoreSums, nodes: NodeSet, effect: Tensor) -> None:
        start = 0
        for kind, layer, units in places(nodes):
            sums.add(kind, layer, units, effect[:, start : start + len(units)])
            start += len(units)
        sums.count(len(effect))


def chosen_nodes(model: HookedModel, nodes: NodeSet | None) -> NodeSet:
    """``nodes`` once they are found to be of ``model``; every head by default.

    Raises:
        NodeError: they are of another model, or there are none.
    """
    every = NodeSet.all(model)
    chosen = every.only("head") if nodes is None else nodes & every
    if not len(chosen):
        raise NodeError("the set of nodes to score is empty; leave out nodes=, or give one that has some")
    return chosen


def sign_of(intervention: Intervention) -> int:
    """1 for an intervention that adds to what nodes say, -1 for one that takes away; see the module's docstring."""
    if isinstance(intervention, Scheduled):
        # At the last prompt token; a negative factor there turns adding into taking away.
        factor = float(intervention.curve.at(torch.zeros(1, dtype=torch.long)))
        return sign_of(intervention.intervention) * (-1 if factor < 0 else 1)
    adds = isinstance(intervention, Enhancement) and intervention.strength >= 0
    adds = adds or (isinstance(intervention, Scale) and intervention.factor > 1)
    return 1 if adds else -1
