"""Suffix passes: thousands of interventions at the last prompt token for the price of one prompt.

If only the last token's activations change, every earlier token's keys and values stand. So

1. run the prompt once; keep each layer's keys and values of the earlier tokens, the last token's residual before
   each layer, and the arguments that each layer was called with;
2. a variant is one more query token at the last position. It attends to the kept keys and values and to itself,
   never to another variant: the attention mask over the variants is the identity;
3. variants are sorted by the layer at which they first differ. Going up, each layer is called once with all
   variants that have begun, so the batch grows; what lies below a change is never computed again.

Exact, not an approximation: the same modules run on the same numbers. Works for every architecture whose layers
take an attention mask (sliding windows included), and is differentiable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emotion_circuits.errors import ModelError
from emotion_circuits.model.tokens import TokenBatch
from emotion_circuits.types import Site

if TYPE_CHECKING:
    from emotion_circuits.model.hooked_model import HookedModel

EditFunction = Callable[[Float[Tensor, "batch variant *unit"], Int[Tensor, " variant"]], Tensor]
"""New activations of these variants; the second argument says which of the edit's variants they are."""

ROWS = 2048
"""Variants x prompts that one layer call takes, unless memory asks for fewer; beyond it nothing gets faster."""


@dataclass(frozen=True)
class Edit:
    """A family of changes at one site of one layer.

    Attributes:
        site: where.
        layer: the layer.
        n_variants: how many changes.
        function: makes them.
    """

    site: Site
    layer: int
    n_variants: int
    function: EditFunction

    @property
    def first_layer(self) -> int:
        """The first layer that has to run: a change of ``resid_post`` begins in the layer above."""
        return self.layer + (self.site == "resid_post")


@dataclass
class _Prefix:
    """A stand-in for the key-value cache: joins the kept keys and values to those of the variants, keeps nothing."""

    keys: Tensor | None
    values: Tensor | None

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.keys is None or self.values is None:
            return keys, values
        return torch.cat([self.keys, keys], dim=-2), torch.cat([self.values, values], dim=-2)

    def get_seq_length(self, *args: Any) -> int:
        return 0 if self.keys is None else self.keys.shape[-2]


@dataclass
class _Call:
    """How one layer was called for the last token."""

    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    prefix: _Prefix = field(default_factory=lambda: _Prefix(None, None))


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
        self.model, self.batch = model, batch
        self.layers = [model.sites.module(f"blocks.{layer}") for layer in range(model.dims.n_layers)]
        self._calls = [_Call() for _ in self.layers]
        self.resid: list[Float[Tensor, "batch 1 d_model"]] = []
        self._prefill()

    @torch.no_grad()
    def _prefill(self) -> None:
        inputs, cache = self.batch.inputs(), None
        if self.batch.ids.shape[1] > 1:
            head = {name: value[:, :-1] for name, value in inputs.items()}
            cache = self.model.hf.base_model(**head, use_cache=True).past_key_values
            for call, layer in zip(self._calls, cache.layers, strict=True):
                call.prefix = _Prefix(layer.keys, layer.values)
        last = inputs | {name: inputs[name][:, -1:] for name in ("input_ids", "position_ids")}
        with ExitStack() as stack:
            for call, layer in zip(self._calls, self.layers, strict=True):
                hook = layer.register_forward_pre_hook(self._recorder(call), with_kwargs=True)
                stack.callback(hook.remove)
            stack.callback(self.layers[-1].register_forward_hook(self._keep_output).remove)
            self.model.hf.base_model(**last, past_key_values=cache, use_cache=cache is not None)

    def _recorder(self, call: _Call):
        def hook(module: Any, args: tuple, kwargs: dict) -> None:
            kwargs = dict(kwargs)
            self.resid.append(args[0] if args else kwargs.pop("hidden_states"))
            call.args, call.kwargs = args[1:], kwargs

        return hook

    def _keep_output(self, module: Any, args: tuple, output: Any) -> None:
        self.resid.append(output[0] if isinstance(output, tuple) else output)

    def final(self) -> Float[Tensor, "batch d_model"]:
        """The unchanged residual after the last layer."""
        return self.resid[-1][:, 0]

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
        starts = torch.tensor([0, *(e.n_variants for e in edits)]).cumsum(0).tolist()
        order = sorted(range(len(edits)), key=lambda i: edits[i].first_layer)
        queue = [(edits[i], k, starts[i] + k) for i in order for k in range(edits[i].n_variants)]
        size = max(1, (rows or ROWS) // len(self.batch))
        for begin in range(0, len(queue), size):
            chunk = queue[begin : begin + size]
            places = torch.tensor([place for _, _, place in chunk], device=self.final().device)
            yield places, self._run_chunk(chunk)

    def _run_chunk(self, chunk: list[tuple[Edit, int, int]]) -> Tensor:
        groups: dict[int, tuple[Edit, list[int]]] = {}
        for edit, variant, _ in chunk:
            groups.setdefault(id(edit), (edit, []))[1].append(variant)
        pending = list(groups.values())
        x: Tensor | None = None
        for layer in range(pending[0][0].first_layer, len(self.layers) + 1):
            starting: list[tuple[Edit, list[int], int]] = []
            while pending and pending[0][0].first_layer == layer:
                edit, variants = pending.pop(0)
                starting.append((edit, variants, 0 if x is None else x.shape[1]))
                new = self._begin(edit, variants, layer)
                x = new if x is None else torch.cat([x, new], dim=1)
            assert x is not None
            if layer < len(self.layers):
                x = self._layer(layer, x, starting)
        assert x is not None
        return x

    def _begin(self, edit: Edit, variants: list[int], layer: int) -> Tensor:
        base = self.resid[layer].expand(-1, len(variants), -1)
        if edit.site in ("resid_pre", "resid_post"):
            return edit.function(base, torch.tensor(variants, device=base.device))
        return base

    def _layer(self, layer: int, x: Tensor, starting: list[tuple[Edit, list[int], int]]) -> Tensor:
        call, width = self._calls[layer], x.shape[1]
        kwargs = {name: self._widened(value, width) for name, value in call.kwargs.items()}
        kwargs["attention_mask"] = self._mask(call, width, x)
        for name in ("past_key_values", "past_key_value"):
            if name in kwargs:
                kwargs[name] = call.prefix
        kwargs.setdefault("past_key_values", call.prefix)
        with ExitStack() as stack:
            for edit, variants, start in starting:
                if edit.site not in ("resid_pre", "resid_post"):
                    self._attach(stack, edit, variants, start, x)
            out = self.layers[layer](x, *call.args, **kwargs)
        return out[0] if isinstance(out, tuple) else out

    def _attach(self, stack: ExitStack, edit: Edit, variants: list[int], start: int, x: Tensor) -> None:
        stop, index = start + len(variants), torch.tensor(variants, device=x.device)
        heads = (self.model.dims.n_heads, self.model.dims.d_head)

        def hook(activation: Tensor) -> Tensor:
            part = activation[:, start:stop]
            if edit.site == "resid_mid":
                # resid_mid is written through attn_out: what is added to one is added to the other.
                mid = x[:, start:stop] + part
                new = part + (edit.function(mid, index) - mid)
            elif edit.site == "head":
                new = edit.function(part.unflatten(-1, heads), index).flatten(-2)
            else:
                new = edit.function(part, index)
            return torch.cat([activation[:, :start], new.to(activation.dtype), activation[:, stop:]], dim=1)

        site: Site = "attn_out" if edit.site == "resid_mid" else edit.site
        stack.callback(self.model.sites.port(site, edit.layer).attach(hook).remove)

    def _widened(self, value: Any, width: int) -> Any:
        if isinstance(value, tuple):
            return tuple(self._widened(v, width) for v in value)
        if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == 1:
            return value.expand(value.shape[0], width, *value.shape[2:])
        return value

    def _mask(self, call: _Call, width: int, x: Tensor) -> Tensor:
        n_prefix = call.prefix.get_seq_length()
        given = call.kwargs.get("attention_mask")
        if given is None:
            given = torch.ones(len(x), 1, 1, n_prefix + 1, dtype=torch.bool, device=x.device)
        earlier = given[..., -1:, :n_prefix].expand(len(x), given.shape[1], width, n_prefix)
        itself = torch.eye(width, dtype=torch.bool, device=x.device)
        if given.dtype != torch.bool:
            itself = torch.zeros(width, width, dtype=given.dtype, device=x.device).masked_fill(
                ~itself, torch.finfo(given.dtype).min
            )
        return torch.cat([earlier, itself.expand(len(x), given.shape[1], width, width)], dim=-1)
