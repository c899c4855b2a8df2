"""Suffix passes: thousands of interventions at the last prompt token for the price of one prompt.

If only the last token's activations change, every earlier token's keys and values stand. So

1. run the prompt once; keep each layer's keys and values of the earlier tokens, the last token's residual before
   each layer, and the arguments that each layer was called with;
2. a variant is one more query token at the last position. It attends to the kept keys and values and to itself,
   never to another variant: the attention mask over the variants is the identity;
3. variants are sorted by the layer at which they first differ. Going up, each layer is called once with all
   variants that have begun, so the batch grows; what lies below a change is never computed again
   (`emotion_circuits.model.ascent`);
4. variants go up in chunks of as many as fit into memory, and no further than the residual that is read.

Exact, not an approximation: the same modules run on the same numbers. Works for every architecture whose layers
take an attention mask (sliding windows included), and is differentiable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emotion_circuits.errors import ModelError
from emotion_circuits.model.ascent import Call, Member, Prefix, ascend
from emotion_circuits.model.memory import free_memory
from emotion_circuits.model.tokens import TokenBatch
from emotion_circuits.types import Site, as_layer

if TYPE_CHECKING:
    from emotion_circuits.model.hooked_model import HookedModel

EditFunction = Callable[[Float[Tensor, "batch variant *unit"], Int[Tensor, " variant"]], Tensor]
"""New activations of these variants; the second argument says which of the edit's variants they are."""

Readout = tuple[Site, int]
"""Site and layer at which a residual is read; a negative layer counts from the end."""

FINAL: Readout = ("resid_post", -1)

ROWS = 2048
"""Variants x prompts that one layer call takes, unless memory asks for fewer; beyond it nothing gets faster."""

MEMORY_SHARE = 0.25
"""Share of the free memory that one layer call may take."""


@dataclass(frozen=True)
class Change:
    """What an edit does at one site of one layer."""

    site: Site
    layer: int
    function: EditFunction

    @property
    def first_layer(self) -> int:
        """The first layer that has to run: a change of ``resid_post`` begins in the layer above."""
        return self.layer + (self.site == "resid_post")


@dataclass(frozen=True)
class Edit:
    """A family of variants, each a change at one site of one layer, or at several.

    Attributes:
        site: where.
        layer: the layer.
        n_variants: how many variants.
        function: makes them.
        then: changes of the same variants at further sites, in any order.
    """

    site: Site
    layer: int
    n_variants: int
    function: EditFunction
    then: tuple[Change, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes."""
        return (Change(self.site, self.layer, self.function), *self.then)

    @property
    def first_layer(self) -> int:
        """The first layer that has to run."""
        return min(change.first_layer for change in self.changes)


class SuffixRun:
    """One batch of prompts, run once and ready for any number of edits at the last token.

    Args:
        model: the model.
        batch: left-padded prompts without replies.

    Attributes:
        resid: the last token's residual before each layer, and after the last one.
    """

    def __init__(self, model: HookedModel, batch: TokenBatch) -> None:
        if bool(batch.reply.any()):
            raise ModelError("suffix passes start from prompts; give prompts without replies")
        if model.is_patched:
            raise ModelError(
                "suffix passes cannot run inside `with model.patched(...)`, whose hooks know nothing of variants; "
                "leave the block, and give the intervention to the method instead"
            )
        self.model, self.batch = model, batch
        self.layers = [model.sites.module(f"blocks.{layer}") for layer in range(model.dims.n_layers)]
        self.calls = [Call() for _ in self.layers]
        self.resid: list[Float[Tensor, "batch 1 d_model"]] = []
        self._bases: dict[Readout, Tensor] = {}
        self._prefill()

    @torch.no_grad()
    def _prefill(self) -> None:
        inputs, cache = self.batch.inputs(), None
        self.model.announce(self.batch)
        if self.batch.ids.shape[1] > 1:
            head = {name: value[:, :-1] for name, value in inputs.items()}
            cache = self.model.hf.base_model(**head, use_cache=True).past_key_values
            for call, layer in zip(self.calls, cache.layers, strict=True):
                call.prefix = Prefix(layer.keys, layer.values)
        last = inputs | {name: inputs[name][:, -1:] for name in ("input_ids", "position_ids")}
        with ExitStack() as stack:
            for call, layer in zip(self.calls, self.layers, strict=True):
                hook = layer.register_forward_pre_hook(self._recorder(call), with_kwargs=True)
                stack.callback(hook.remove)
            stack.callback(self.layers[-1].register_forward_hook(self._keep_output).remove)
            self.model.hf.base_model(**last, past_key_values=cache, use_cache=cache is not None)

    def _recorder(self, call: Call):
        def hook(module: Any, args: tuple, kwargs: dict) -> None:
            # By name, since some models (GPT-2) hand the mask and the cache over by place.
            parameters = [name for name in signature(module.forward).parameters if name != "kwargs"]
            call.kwargs = dict(zip(parameters, args, strict=False)) | kwargs
            self.resid.append(call.kwargs.pop("hidden_states"))

        return hook

    def _keep_output(self, module: Any, args: tuple, output: Any) -> None:
        self.resid.append(output[0] if isinstance(output, tuple) else output)

    def final(self) -> Float[Tensor, "batch d_model"]:
        """The unchanged residual after the last layer."""
        return self.resid[-1][:, 0]

    def base(self, readout: Readout) -> Float[Tensor, "batch d_model"]:
        """The unchanged residual at ``readout``.

        Raises:
            NodeError: the model has no such layer.
        """
        site, layer = readout[0], as_layer(readout[1], len(self.layers))
        if site in ("resid_pre", "resid_post"):
            return self.resid[layer + (site == "resid_post")][:, 0]
        if (site, layer) not in self._bases:
            same = Edit("resid_pre", layer, 1, lambda activation, variants: activation)
            with torch.no_grad():
                self._bases[site, layer] = ascend(self, [Member(same, [0])], [(site, layer)])[site, layer][:, 0]
        return self._bases[site, layer]

    @cached_property
    def rows(self) -> int:
        """Variants x prompts in one layer call: `ROWS`, or as many as fit into `MEMORY_SHARE` of the free memory."""
        return self.rows_that_fit()

    def rows_that_fit(self, n_layers_kept: int = 1) -> int:
        """The same when the activations of several layers are kept, as a backward pass needs them."""
        dims, itemsize = self.model.dims, self.final().element_size()
        width = 8 * dims.d_model + 5 * dims.d_mlp + dims.n_heads * (4 * dims.d_head + 2 * self.batch.ids.shape[1])
        fitting = MEMORY_SHARE * free_memory(self.final().device) / (width * itemsize * n_layers_kept)
        return max(len(self.batch), min(ROWS, int(fitting)))

    def run(self, edits: Sequence[Edit], rows: int | None = None) -> Float[Tensor, "batch variant d_model"]:
        """The residual after the last layer, for every variant of every edit.

        Args:
            edits: in any order; the result's variant axis follows this order, edit by edit.
            rows: variants x prompts in one layer call; the result does not depend on it.
        """
        result = self.final().new_empty(len(self.batch), sum(e.n_variants for e in edits), self.model.dims.d_model)
        with torch.no_grad():
            for variants, final in self.stream(edits, rows):
                result[:, variants] = final
        return result

    def stream(
        self, edits: Sequence[Edit], rows: int | None = None
    ) -> Iterator[tuple[Int[Tensor, " variant"], Float[Tensor, "batch variant d_model"]]]:
        """Like `run`, chunk by chunk: the variants' places in the result, and their final residuals."""
        for places, read in self.read(edits, [FINAL], rows):
            yield places, read[FINAL]

    def read(
        self, edits: Sequence[Edit], readouts: Sequence[Readout], rows: int | None = None
    ) -> Iterator[tuple[Int[Tensor, " variant"], dict[Readout, Float[Tensor, "batch variant d_model"]]]]:
        """Like `stream`, for residuals at any sites: the variants' places, and their residual at each readout."""
        starts = torch.tensor([0, *(e.n_variants for e in edits)]).cumsum(0).tolist()
        order = sorted(range(len(edits)), key=lambda i: edits[i].first_layer)
        queue = [(i, k) for i in order for k in range(edits[i].n_variants)]
        size = max(1, (rows or self.rows) // len(self.batch))
        for begin in range(0, len(queue), size):
            chunk = queue[begin : begin + size]
            groups: dict[int, list[int]] = {}
            for i, variant in chunk:
                groups.setdefault(i, []).append(variant)
            places = torch.tensor([starts[i] + k for i, k in chunk], device=self.final().device)
            yield places, ascend(self, [Member(edits[i], variants) for i, variants in groups.items()], readouts)
