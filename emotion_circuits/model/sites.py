"""Where the sites are: TransformerLens's hook names, resolved to modules of the untouched Hugging Face model.

A hook name such as ``blocks.3.mlp.hook_post`` stands for the input or the output of one module. TransformerLens's
architecture adapter knows which; so every architecture that it supports comes along, and no module name of any
model is written here.

``resid_mid`` is a special case. TransformerLens takes it from the input of the MLP's norm, past which the skip
connection has already branched off: reading there is right, writing is not. It is therefore written through
``attn_out``, whose output is added to the residual.

Two things are refused rather than guessed: ``resid_mid`` where attention and MLP run in parallel (GPT-NeoX), since no
residual lies between them, and ``neuron`` where the MLP is a mixture of experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from emotion_circuits.errors import ModelError
from emotion_circuits.types import Site, Sublayer

HOOK_NAME: dict[Site, str] = {
    "resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out", "neuron": "mlp.hook_post", "head": "attn.hook_z",
}  # fmt: skip

_MISSING: dict[str, str] = {
    "resid_mid": "attention and MLP read the same residual and run in parallel, so no residual lies between them; use "
    "resid_pre, resid_post, attn_out or mlp_out",
}
_NO_NODES: dict[str, str] = {
    "neuron": "its MLP is a mixture of experts, where a neuron would be a unit of one expert that runs for some tokens "
    "only, and such nodes are not supported; use heads and residuals",
    "head": "no output projection reads its heads; use residuals",
}

Hook = Callable[[Tensor], Tensor | None]
"""Sees an activation; returns what takes its place, or None to leave it."""


@dataclass(frozen=True)
class Port:
    """The input or the output of a module."""

    module: nn.Module
    is_input: bool
    path: str

    def attach(self, hook: Hook) -> RemovableHandle:
        """Call ``hook`` on every activation that passes; the handle takes it away again."""
        if self.is_input:
            return self.module.register_forward_pre_hook(_on_input(hook), with_kwargs=True)
        return self.module.register_forward_hook(_on_output(hook))


class SiteMap:
    """Resolves sites to ports of the Hugging Face model (`port`) and of its TransformerLens twin (`twin_port`)."""

    def __init__(self, hf: nn.Module, tl: Any) -> None:
        self._hf, self._tl = hf, tl
        self._ports: dict[tuple[Site, int], Port] = {}

    @cached_property
    def _hook_names(self) -> frozenset[str]:
        # TransformerLens gathers them anew at every call, a millisecond for a deep model.
        return frozenset(self._tl.hook_dict)

    def port(self, site: Site, layer: int) -> Port:
        """Where ``site`` of ``layer`` is in the Hugging Face model.

        Raises:
            ModelError: the architecture has no such site.
        """
        if (site, layer) not in self._ports:
            component, is_input = self._component(site, layer)
            path = self._tl.adapter.translate_transformer_lens_path(component)
            self._ports[site, layer] = Port(self._hf.get_submodule(path), is_input, path)
        return self._ports[site, layer]

    def twin_port(self, site: Site, layer: int) -> Port:
        """The twin's hook point of ``site``; its output is the activation whichever side of the module it is on."""
        point = self._tl.hook_dict[f"blocks.{layer}.{HOOK_NAME[site]}"]
        return Port(point, False, point.name)

    def module(self, component: str) -> nn.Module:
        """The Hugging Face module of a TransformerLens component such as ``blocks.0.ln2`` or ``ln_final``."""
        return self._hf.get_submodule(self._tl.adapter.translate_transformer_lens_path(component))

    def write_norm(self, sublayer: Sublayer, layer: int) -> nn.Module | None:
        """The norm that a sublayer's output passes before it is added to the residual, if the architecture has one."""
        name = f"blocks.{layer}.{'ln1_post' if sublayer == 'attention' else 'ln2_post'}"
        return self.module(name) if f"{name}.hook_in" in self._hook_names else None

    def has(self, site: Site, layer: int = 0) -> bool:
        """Whether the architecture has ``site``, in the first layer unless another is named."""
        try:
            return self.port(site, layer) is not None
        except ModelError:
            return False

    def _component(self, site: Site, layer: int) -> tuple[str, bool]:
        name = f"blocks.{layer}.{HOOK_NAME[site]}"
        if name not in self._hook_names:
            raise ModelError(
                f"this architecture ({type(self._hf).__name__}) has no site {site!r}: "
                + _MISSING.get(site, f"TransformerLens's bridge defines no {name}")
            )
        component, _, side = self._tl.hook_dict[name].name.rpartition(".hook_")
        if side not in ("in", "out"):
            raise ModelError(f"site {site!r} lies inside a module ({name}) and has no port; read it through model.tl")
        if site in ("neuron", "head") and side == "out":
            # TransformerLens aliases the whole block's output, which no output projection reads.
            raise ModelError(f"layer {layer} of {type(self._hf).__name__} has no site {site!r}: {_NO_NODES[site]}")
        return component, side == "in"


def _on_input(hook: Hook):
    def pre_hook(module: nn.Module, args: tuple, kwargs: dict):
        # The activation is the first argument, under whichever name the module gives it.
        if args:
            new = hook(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        name = next(k for k in ("hidden_states", "x", "input", "inputs") if k in kwargs)
        new = hook(kwargs[name])
        return None if new is None else (args, {**kwargs, name: new})

    return pre_hook


def _on_output(hook: Hook):
    def post_hook(module: nn.Module, args: tuple, output: Any):
        new = hook(output[0] if isinstance(output, tuple) else output)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return post_hook
