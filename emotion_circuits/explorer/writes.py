r"""What one node writes, prompt by prompt, and what that says in the vocabulary.

1. The activations of the node's sublayer are recorded at the last prompt token, one layer at a time.
2. Its write is :math:`w_s = a_s W` for a neuron and :math:`z_s W^O` for a head, over the rms of the sublayer's output
   where the model norms that (Gemma).
3. Along an emotion's direction at that sublayer it is the node's direct contribution, :math:`w_s \cdot v`, of which
   direct attribution is the mean.
4. In the vocabulary it is :math:`\sigma_s\,(g \odot w_s)\,W_U^\top`: the final norm's scale :math:`\sigma_s` frozen at
   what the whole residual makes it, so that the writes of all nodes add up to the logits; before a logit cap (Gemma 2).
   Softmax does not see a constant, so the mean over the vocabulary is taken out.

What the node does through later layers is in none of these; that is what `removal` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from emotion_circuits.attribution.final import frozen_scale
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.interventions import Patch, ZeroAblation
from emotion_circuits.measurement import Measurement, measure
from emotion_circuits.model import HookedModel
from emotion_circuits.model.writes import unit_writes, write_scale
from emotion_circuits.nodes import Node, NodeSet
from emotion_circuits.targets import Target
from emotion_circuits.types import NodeKind

if TYPE_CHECKING:
    import pandas as pd


class NodeWrites:
    """Writes of any node on a fixed list of prompts; a layer's activations are kept while its nodes are looked at.

    Args:
        model: the model.
        prompts: the prompts.
    """

    def __init__(self, model: HookedModel, prompts: Sequence[Prompt]) -> None:
        self.model, self.prompts = model, tuple(prompts)
        self._layer = lru_cache(maxsize=4)(self._record)

    def activation(self, node: Node) -> Float[Tensor, " sample"]:
        """How active the node is: a neuron's activation; the norm of what a head writes."""
        if node.kind == "neuron":
            return self._layer("neuron", node.layer)[:, node.index]
        return self.write(node).norm(dim=-1)

    def write(self, node: Node) -> Float[Tensor, "sample d_model"]:
        """What the node adds to the residual."""
        held = self._layer(node.kind, node.layer)
        width = self.model.dims.d_head if node.kind == "head" else 1
        units = slice(node.index * width, (node.index + 1) * width)
        weight = unit_writes(self.model, node.kind, node.layer)[units].to(device=held.device, dtype=held.dtype)
        scale = write_scale(self.model, node.kind, node.layer, held)
        write = held[:, units] @ weight
        return write if scale is None else write * scale[:, None]

    def vocabulary(self, node: Node, samples: Sequence[int]) -> Vocabulary:
        """Mean direct contribution to the next token's logits over some of the prompts."""
        rows = list(samples)
        logits = direct_logits(self.model, self.write(node)[rows], self._resid[rows])
        return Vocabulary(logits, self.model.tokenizer)

    def _record(self, kind: NodeKind, layer: int) -> Float[Tensor, "sample unit"]:
        return self.model.record(self.prompts, kind, [layer])[0].flatten(1)

    @cached_property
    def _resid(self) -> Float[Tensor, "sample d_model"]:
        return self.model.record(self.prompts, "resid_post", [self.model.dims.n_layers - 1])[0]


@torch.no_grad()
def direct_logits(
    model: HookedModel, write: Float[Tensor, "sample d_model"], resid: Float[Tensor, "sample d_model"]
) -> Float[Tensor, " token"]:
    """Mean contribution of writes to the logits, the final norm's scale frozen, less its mean over the vocabulary.

    Args:
        model: the model.
        write: part of each sample's last residual.
        resid: each sample's last residual, as a whole.
    """
    norm, unembedding = model.final_norm, model.hf.get_output_embeddings().weight
    gain = model.norm_weight(norm).float()
    write, resid = write.to(gain.device).float(), resid.to(gain.device)
    if isinstance(norm, nn.LayerNorm):
        write = write - write.mean(dim=-1, keepdim=True)
    mean = (frozen_scale(model, norm, resid)[:, None] * write * gain).mean(dim=0).to(unembedding.device)
    # In parts, so that a large vocabulary is never held twice in float32.
    logits = torch.cat([part.float() @ mean for part in unembedding.split(16384)]).cpu()
    return logits - logits.mean()


def removal(
    model: HookedModel, node: Node, prompts: Sequence[Prompt], target: Target
) -> tuple[Measurement, Measurement]:
    """The target as it is, and its change when the node is set to zero at the token where it is measured."""
    patch = Patch(NodeSet.of(model, node), ZeroAblation())
    before = measure(model, prompts, target)
    return before, measure(model, prompts, target, patch) - before


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A write as logits of tokens.

    Attributes:
        logits: contribution to each token's logit, mean zero over the vocabulary.
        tokenizer: spells the tokens.
    """

    logits: Float[Tensor, " token"]
    tokenizer: object

    def top(self, n: int = 10) -> pd.DataFrame:
        """The ``n`` tokens that it promotes most: ``token, logit``."""
        return self._frame(self.logits.topk(min(n, len(self.logits))).indices)

    def bottom(self, n: int = 10) -> pd.DataFrame:
        """The ``n`` tokens that it suppresses most."""
        return self._frame(self.logits.topk(min(n, len(self.logits)), largest=False).indices)

    def _frame(self, tokens: Int[Tensor, " token"]) -> pd.DataFrame:
        import pandas as pd

        spelt = [self.tokenizer.decode([i]) for i in tokens.tolist()]  # type: ignore[attr-defined]
        return pd.DataFrame({"token": spelt, "logit": self.logits[tokens].tolist()})

    def __repr__(self) -> str:
        shown = (" ".join(repr(t) for t in frame["token"]) for frame in (self.top(5), self.bottom(5)))
        return "Vocabulary(for {}; against {})".format(*shown)
