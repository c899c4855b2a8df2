"""Training-time devices that decide where in the network emotion lives; none is part of the trained model.

1. `ResidualNorms` evens the residual's norm between the last prompt token and the reply tokens, so that a difference
   measured at one is the right size at the other.
2. `AttentionLimits`, local: the first layers see near tokens only. The instruction is far away, so the emotion has to
   be worked out in deeper layers.
3. `AttentionLimits`, bottleneck: of all tokens from the last user message on, only the last prompt token sees what
   came before. The emotion then has to pass through that token's state, where interventions act, and a reply token
   that finds no instruction does not conclude that the reply is neutral.
"""

from __future__ import annotations

from functools import partial

import torch
from transformers import Qwen2ForCausalLM

from emotion_circuits.demo.batches import Batch


class ResidualNorms:
    """Collects the residual stream after every layer, to penalise uneven norms."""

    def __init__(self, model: Qwen2ForCausalLM) -> None:
        self.residuals: list[torch.Tensor] = []
        self._handles = [layer.register_forward_hook(self._keep) for layer in model.model.layers]

    def _keep(self, module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        self.residuals.append(output)

    def penalty(self, mask: torch.Tensor) -> torch.Tensor:
        """Mean over layers of the variance of the residual's log rms over the masked positions.

        The collected residuals are forgotten.
        """
        variances = []
        for residual in self.residuals:
            log_rms = 0.5 * residual[mask].float().pow(2).mean(-1).add(1e-8).log()
            variances.append((log_rms - log_rms.mean()).pow(2).mean())
        self.residuals.clear()
        return torch.stack(variances).mean()

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()


def local_mask(n_pos: int, window: int) -> torch.Tensor:
    """Causal mask (1, 1, pos, pos) of the last ``window`` positions; True where attention is allowed."""
    back = torch.arange(n_pos)[:, None] - torch.arange(n_pos)
    return ((back >= 0) & (back < window))[None, None]


def bottleneck_mask(batch: Batch) -> torch.Tensor:
    """Causal mask (batch, 1, pos, pos) in which only the last prompt token reads across the last message's start.

    Position 0 stays visible to all, as a place for attention to rest.
    """
    positions = torch.arange(batch.ids.shape[1])
    causal = positions[:, None] >= positions
    start = batch.message_start[:, None]
    may_read = (positions < start) | (positions == batch.prompt_length[:, None] - 1)
    near = (positions >= start) | (positions == 0)
    return (causal & (may_read[:, :, None] | near[:, None, :]))[:, None]


class AttentionLimits:
    """Narrows the model's attention for the batches it is told to.

    Args:
        model: the model in training.
        n_local: how many of the first layers the local limit concerns.
        window: how many positions, itself included, a token then sees in them.
    """

    def __init__(self, model: Qwen2ForCausalLM, n_local: int, window: int) -> None:
        self.window = window
        self._first: torch.Tensor | None = None
        self._others: torch.Tensor | None = None
        self._handles = [
            layer.get_submodule("self_attn").register_forward_pre_hook(
                partial(self._narrow, first=i < n_local), with_kwargs=True
            )
            for i, layer in enumerate(model.model.layers)
        ]

    def set(self, batch: Batch, local: bool, bottleneck: bool) -> None:
        """Choose the limits for the next forward pass."""
        self._others = bottleneck_mask(batch) if bottleneck else None
        self._first = self._others
        if local:
            near = local_mask(batch.ids.shape[1], self.window)
            self._first = near if self._others is None else near & self._others

    def _narrow(self, module: torch.nn.Module, inputs: tuple, named: dict, *, first: bool) -> tuple[tuple, dict] | None:
        mask = self._first if first else self._others
        return None if mask is None else (inputs, named | {"attention_mask": mask})

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
