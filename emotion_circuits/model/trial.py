"""A trial: a model, some token sequences, and what the bare Hugging Face model makes of each of them alone.

It is what the probes of `emotion_circuits.model.check` compare with. The same sequences are run a second time with
eager attention: the difference between the model's own two runs says how large its rounding is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.model.tokens import TokenBatch, pad
from emotion_circuits.types import SITES, Site

if TYPE_CHECKING:
    from emotion_circuits.model.hooked_model import HookedModel

Place = tuple[Site, int]
"""A site of a layer."""


@dataclass
class Trial:
    """A model, some token sequences, and what the bare Hugging Face model makes of each of them alone.

    Attributes:
        model: the model under test.
        sequences: token ids; unpadded.
    """

    model: HookedModel
    sequences: list[list[int]]

    def __post_init__(self) -> None:
        self.hooks_before = self.n_hooks()
        self.logits = [self.bare_logits(sequence) for sequence in self.sequences]
        with self.eagerly():
            self.eager_logits = [self.bare_logits(sequence) for sequence in self.sequences]

    @cached_property
    def rounding(self) -> float:
        """How far the model's own logits differ between two attention implementations."""
        return max(relative(a, b) for a, b in zip(self.logits, self.eager_logits, strict=True))

    @cached_property
    def batch(self) -> TokenBatch:
        """All sequences, left-padded."""
        n = len(self.sequences)
        return pad(self.sequences, list(range(n)), 0, [0] * n).to(self.model.device)

    @cached_property
    def sites(self) -> list[Site]:
        """The sites that the architecture has in every layer."""
        has = self.model.sites.has
        return [site for site in SITES if all(has(site, layer) for layer in self.layers)]  # type: ignore[arg-type, misc]

    @cached_property
    def layers(self) -> range:
        """The model's layers."""
        return range(self.model.dims.n_layers)

    @cached_property
    def seen(self) -> list[dict[Place, Float[Tensor, "pos unit"]]]:
        """For each sequence the activations that the hooks saw."""
        return [self.activations(sequence) for sequence in self.sequences]

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """The Hugging Face model with eager attention, as the twin has it."""
        hf, own = self.model.hf, self.model.hf.config._attn_implementation
        hf.set_attn_implementation("eager")
        try:
            yield
        finally:
            hf.set_attn_implementation(own)

    def ids(self, sequence: list[int]) -> Tensor:
        """One sequence as a batch."""
        return torch.tensor([sequence], device=self.model.device)

    def bare_logits(self, sequence: list[int]) -> Float[Tensor, "pos d_vocab"]:
        """Logits of the Hugging Face model as it is."""
        return self.model.hf(input_ids=self.ids(sequence), use_cache=False).logits[0]

    def n_hooks(self) -> int:
        """Hooks on any module of the model, or hook point of the twin."""
        modules = (*self.model.hf.modules(), *self.model.tl.hook_dict.values())
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)

    def activations(self, sequence: list[int]) -> dict[Place, Tensor]:
        """What the hooks see while the Hugging Face model runs one sequence."""
        seen: dict[Place, Tensor] = {}

        def keep(place: Place):
            return lambda activation: seen.update({place: activation[0].clone()})

        with ExitStack() as stack:
            for site in self.sites:
                for layer in self.layers:
                    stack.callback(self.model.sites.port(site, layer).attach(keep((site, layer))).remove)
            self.model.hf(input_ids=self.ids(sequence), use_cache=False)
        return seen


def relative(value: Float[Tensor, "... unit"], reference: Float[Tensor, "... unit"]) -> float:
    """Largest difference, relative to the largest reference of the same token."""
    value, reference = wide(value), wide(reference)
    return largest((value - reference).abs() / reference.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30))


def largest(difference: Tensor) -> float:
    """The largest magnitude; infinity where there is a NaN."""
    found = float(difference.abs().max())
    return found if found == found else float("inf")


def wide(values: Tensor) -> Tensor:
    """In float32, or float64 if they were that already."""
    return values if values.dtype == torch.float64 else values.float()
