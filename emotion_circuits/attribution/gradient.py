r"""Gradient methods: all nodes at once from a few backward passes, as approximations of `ActivationPatching`.

With a the clean activation of node i at the last prompt token, a' what the intervention makes of it, t the target:

`AttributionPatching`   :math:`s_i = \mp\,(a'_i - a_i) \cdot \partial t / \partial a_i` at the clean activations
`IntegratedGradients`   the same with the gradient averaged along the straight path from a to a'

1. Run each prompt once; the last token goes up again as a suffix pass that keeps the graph. Earlier tokens' keys and
   values stand, so a backward pass costs one token's worth, whatever the prompt's length.
2. Attribution patching: one such pass; its backward gives the gradient at every node.
3. Integrated gradients: for every place p (the chosen neurons, or heads, of one layer) and step
   :math:`\alpha_k = (k - 1/2)/m` a variant in which all chosen nodes of p, and of no other place, are at
   :math:`a + \alpha_k (a' - a)`; layers above follow from that, as they do in a real patch. The gradient with respect
   to p is averaged over steps (midpoint rule). So the scores of a place add up to the effect of patching the whole
   place, as the number of steps grows (completeness); scores of different places do not add up to anything. This is
   the activations variant of EAP-IG (Hanna et al. 2024), one place at a time.

The sign is that of `ActivationPatching`. How good the approximation is, `compare_attributions` tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emotion_circuits.attribution.edits import Place, check_nodes, intervene, places
from emotion_circuits.attribution.patching import chosen_nodes, sign_of
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.attribution.sums import SampleSet, ScoreSums, kinds_of, put_together
from emotion_circuits.errors import ModelError
from emotion_circuits.interventions import Intervention, Where
from emotion_circuits.model import HookedModel, TokenBatch
from emotion_circuits.model.suffix import Edit, SuffixRun
from emotion_circuits.nodes import NodeSet
from emotion_circuits.progress import progress
from emotion_circuits.provenance import provenance
from emotion_circuits.targets import Target

Asked = dict[str, tuple[Target, Int[Tensor, " row"]]]
"""Targets, and the rows of a batch that are their samples."""

Gradients = dict[Place, Float[Tensor, "batch node *d_head"]]
"""Of each place's chosen nodes."""


@contextmanager
def with_gradients() -> Iterator[None]:
    """Gradients are recorded inside, also where the caller is inside ``torch.inference_mode()``.

    Raises:
        ModelError: a tensor was made in inference mode, so that gradients cannot pass it.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    except RuntimeError as error:
        if "inference tensor" not in str(error).lower():
            raise
        raise ModelError(
            "gradients cannot pass a tensor that was made inside torch.inference_mode(): one of the target, of the "
            "intervention or of the model was. Make it outside, or under torch.no_grad()"
        ) from error


@dataclass(frozen=True, eq=False)
class AttributionPatching:
    """Gradient at the clean activations times the change that the intervention makes; one backward pass per target.

    Attributes:
        intervention: what is approximated.
        nodes: which nodes; all neurons and heads by default, since they cost nothing.
    """

    intervention: Intervention
    nodes: NodeSet | None = None
    name: str = "attribution patching"

    def __call__(
        self, model: HookedModel, prompts: object, targets: Mapping[str, Target], batch_size: int | None = None
    ) -> dict[str, Attribution]:
        """Scores of every target."""
        return _attribute(self, model, prompts, targets, batch_size)

    def gradients(self, clean: CleanPass, moves: Gradients, asked: Asked) -> dict[str, Gradients]:
        """Those at the clean activations."""
        return {name: clean.gradients(target, rows) for name, (target, rows) in asked.items()}


@dataclass(frozen=True, eq=False)
class IntegratedGradients:
    """Gradients averaged along the path from the clean to the patched activations of one place at a time.

    Attributes:
        intervention: what is approximated.
        nodes: which nodes; all neurons and heads by default. All chosen nodes of a place move together.
        steps: points on the path; more of them, smaller error.
        chunk: variants x prompts whose graph is kept at once; chosen from the free memory by default.
    """

    intervention: Intervention
    nodes: NodeSet | None = None
    steps: int = 8
    chunk: int | None = None
    name: str = "integrated gradients"

    def __call__(
        self, model: HookedModel, prompts: object, targets: Mapping[str, Target], batch_size: int | None = None
    ) -> dict[str, Attribution]:
        """Scores of every target."""
        return _attribute(self, model, prompts, targets, batch_size)

    def gradients(self, clean: CleanPass, moves: Gradients, asked: Asked) -> dict[str, Gradients]:
        """Their means over the path. Targets that share no row share one pass."""
        found = {}
        for together in _apart(asked):
            found |= dict.fromkeys(together, self._means(clean, moves, together))
        return found

    def _means(self, clean: CleanPass, moves: Gradients, asked: Asked) -> Gradients:
        run, leaves = clean.run, []
        edits = [
            Edit(kind, layer, self.steps, self._path(clean, moves[kind, layer], (kind, layer), units, leaves))
            for kind, layer, units in clean.places
        ]
        mean = {place: torch.zeros_like(move) for place, move in moves.items()}
        readouts = list(dict.fromkeys(target.readout for target, _ in asked.values()))
        chunks = run.read(edits, readouts, self.chunk or run.rows_that_fit(run.model.dims.n_layers))
        with torch.enable_grad():
            for _, read in chunks:
                totals = [target(run.model, read[target.readout][rows]).sum() for target, rows in asked.values()]
                found = _grad(torch.stack(totals).sum(), [leaf for _, leaf in leaves])
                for (place, _), gradient in zip(leaves, found, strict=True):
                    mean[place] += gradient.sum(dim=1) / self.steps
                leaves.clear()
        return mean

    def _path(self, clean: CleanPass, move: Tensor, place: Place, units: Tensor, leaves: list[tuple[Place, Tensor]]):
        start = clean.activations[place][:, units.to(move.device)].detach()

        def function(activation: Tensor, variants: Tensor) -> Tensor:
            alpha = ((variants + 0.5) / self.steps).to(move.dtype).view(1, -1, *[1] * (move.ndim - 1))
            point = (start[:, None] + alpha * move[:, None]).detach().requires_grad_()
            leaves.append((place, point))
            return activation.index_copy(2, units.to(activation.device), point)

        return function


class CleanPass:
    """The last token's pass with its graph.

    Args:
        run: the prompts.
        nodes: the chosen nodes.
        targets: what will be read.

    Attributes:
        places: kind, layer and units of the chosen nodes, where some target reads above them.
        activations: ``[batch, unit(, d_head)]`` of each of these places.
    """

    def __init__(self, run: SuffixRun, nodes: NodeSet, targets: Mapping[str, Target]) -> None:
        self.run, self._passed = run, {}
        start = Edit("resid_pre", 0, 1, lambda resid, variants: resid.detach().requires_grad_())
        readouts = list(dict.fromkeys(target.readout for target in targets.values()))
        with torch.enable_grad(), ExitStack() as stack:
            for kind, layer, _ in places(nodes):
                port = run.model.sites.port(kind, layer)
                stack.callback(port.attach(self._keeper((kind, layer))).remove)
            ((_, self._read),) = run.read([start], readouts, rows=len(run.batch))
        self.places = [place for place in places(nodes) if place[:2] in self._passed]
        heads = (run.model.dims.n_heads, run.model.dims.d_head)
        held = {place: passed.detach()[:, 0] for place, passed in self._passed.items()}
        self.activations: dict[Place, Tensor] = {
            place: value.unflatten(-1, heads) if place[0] == "head" else value for place, value in held.items()
        }

    def _keeper(self, place: Place):
        def hook(activation: Tensor) -> None:
            self._passed[place] = activation

        return hook

    def gradients(self, target: Target, rows: Int[Tensor, " row"]) -> Gradients:
        """Gradient of the target, summed over ``rows``, at the chosen nodes of every place."""
        with torch.enable_grad():
            total = target(self.run.model, self._read[target.readout][:, 0])[rows].sum()
            found = _grad(total, [self._passed[kind, layer] for kind, layer, _ in self.places], keep=True)
        shaped = [g[:, 0].view_as(self.activations[p[:2]]) for p, g in zip(self.places, found, strict=True)]
        return {p[:2]: g.index_select(1, p[2].to(g.device)) for p, g in zip(self.places, shaped, strict=True)}


@with_gradients()
def _attribute(
    method: AttributionPatching | IntegratedGradients,
    model: HookedModel,
    prompts: object,
    targets: Mapping[str, Target],
    batch_size: int | None,
) -> dict[str, Attribution]:
    samples = SampleSet(prompts, targets)
    nodes = chosen_nodes(model, NodeSet.all(model) if method.nodes is None else method.nodes)
    check_nodes(method.intervention, model, nodes)
    sums, sign = {name: ScoreSums(model.dims) for name in targets}, sign_of(method.intervention)

    def work(batch: TokenBatch) -> dict[str, dict[Place, Tensor]]:
        clean = CleanPass(SuffixRun(model, batch), nodes, targets)
        moves = _moves(clean, method.intervention, batch.samples)
        rows = {name: samples.rows(name, batch) for name in targets}
        asked = {name: (target, rows[name]) for name, target in targets.items() if len(rows[name])}
        gradients = method.gradients(clean, moves, asked)
        return {name: _scores(gradients[name], moves, sign, rows[name]) for name in asked}

    with progress("gradients", len(samples), shared=True) as advance:
        for batch, found in samples.run(model, work, batch_size, shared=True):
            for name, scores in found.items():
                for kind, layer, units in places(nodes):
                    if (kind, layer) in scores:
                        sums[name].add(kind, layer, units, scores[kind, layer])
                sums[name].count(len(samples.rows(name, batch)))
            advance(len(batch))
    put_together(sums)
    source = provenance(model, samples.prompts, method=method.name, intervention=type(method.intervention).__name__)
    title, kinds = f"{method.name}, {type(method.intervention).__name__}", kinds_of(nodes)
    return {name: sums[name].attribution(title, target, nodes, source, kinds) for name, target in targets.items()}


@torch.no_grad()
def _moves(clean: CleanPass, intervention: Intervention, samples: Tensor) -> Gradients:
    """Patched minus clean activation of the chosen nodes of every place."""
    moves = {}
    for kind, layer, units in clean.places:
        held = clean.activations[kind, layer].index_select(1, units.to(clean.run.final().device))[:, None]
        moves[kind, layer] = (intervene(intervention, held, Where(kind, layer, units, False, samples)) - held)[:, 0]
    return moves


def _scores(gradients: Gradients, moves: Gradients, sign: int, rows: Tensor) -> dict[Place, Tensor]:
    """Gradient times move of the target's own samples, summed over a head's dimensions."""
    scores = {place: sign * (gradient * moves[place])[rows] for place, gradient in gradients.items()}
    return {place: score.sum(dim=-1) if place[0] == "head" else score for place, score in scores.items()}


def _apart(asked: Asked) -> Iterator[Asked]:
    """Groups of targets in which no row belongs to two."""
    left = dict(asked)
    while left:
        together, taken = {}, set()
        for name, (target, rows) in left.items():
            if taken.isdisjoint(rows.tolist()):
                together[name] = (target, rows)
                taken |= set(rows.tolist())
        yield together
        left = {name: held for name, held in left.items() if name not in together}


def _grad(total: Tensor, inputs: list[Tensor], keep: bool = False) -> list[Tensor]:
    """Gradients; zero where the total does not depend on an input."""
    if not total.requires_grad or not inputs:
        return [torch.zeros_like(value) for value in inputs]
    found = torch.autograd.grad(total, inputs, retain_graph=keep, allow_unused=True)
    return [torch.zeros_like(v) if g is None else g for v, g in zip(inputs, found, strict=True)]
