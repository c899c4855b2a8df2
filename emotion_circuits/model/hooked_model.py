"""`HookedModel`: one set of weights, seen as a Hugging Face model and as a TransformerLens bridge.

``model.hf``  the untouched Hugging Face model. Everything in this package runs on it, with plain torch hooks.
``model.tl``  the TransformerBridge twin: hook names, ``cfg``, ``W_*``, ``run_with_cache``, TransformerLens's tools.

A patch set with `patched` acts on whichever of the two is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emotion_circuits.data.prompts import as_prompts
from emotion_circuits.errors import NodeError, PromptError
from emotion_circuits.interventions import Patch
from emotion_circuits.model import batching, estimates, loading, recording, writes
from emotion_circuits.model.batching import Result
from emotion_circuits.model.estimates import Estimate, Stage
from emotion_circuits.model.fingerprint import fingerprint
from emotion_circuits.model.frames import FrameTracker
from emotion_circuits.model.patching import FrameSource, hooks_of
from emotion_circuits.model.sites import SiteMap
from emotion_circuits.model.tokens import TokenBatch, render_all
from emotion_circuits.types import ModelDims, Position, Site, as_layer, as_position, as_site

if TYPE_CHECKING:
    from emotion_circuits.model.check import CheckReport


class HookedModel:
    """A causal language model whose residuals, MLP neurons and heads can be read and written.

    Build one with `demo`, `from_pretrained` or `from_hf`.

    Attributes:
        hf: the Hugging Face model.
        tl: the TransformerLens bridge on the same weights.
        tokenizer: a copy of the tokenizer that was given, padding on the left.
        dims: the model's sizes.
        name: hub name or folder, for provenance.
        revision: hub revision, for provenance.
        batch_size: rows in a batch where a call names none; None lets the free memory decide.
    """

    def __init__(self, hf: Any, tokenizer: Any, *, name: str = "", revision: str | None = None) -> None:
        self.hf = hf.eval().requires_grad_(False)
        self.tl = loading.twin_of(hf)
        self.tokenizer = loading.prepare_tokenizer(tokenizer)
        self.name, self.revision = name or hf.config.name_or_path or type(hf).__name__, revision
        self.sites = SiteMap(hf, self.tl)
        self.dims: ModelDims = loading.dims_from(self.tl.cfg, hf, self.sites)
        self.batch_size: int | None = None
        self._trackers: list[FrameTracker] = []

    # Loading

    @classmethod
    def demo(cls, *, dtype: str | torch.dtype = "float32", device: str | None = "cpu") -> HookedModel:
        """The small chat model that ships with the package: no download, no GPU."""
        from emotion_circuits.demo import MODEL_FOLDER

        model = cls.from_pretrained(MODEL_FOLDER, dtype=dtype, device=device)
        model.name = "demo"
        return model

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        dtype: str | torch.dtype = "bfloat16",
        device: str | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> HookedModel:
        """A model from the Hugging Face hub or a local folder.

        Args:
            name_or_folder: e.g. ``"Qwen/Qwen2.5-7B-Instruct"``.
            dtype: of the weights.
            device: ``None`` picks a GPU if there is one, ``"auto"`` spreads the layers over all there are; not to be
                given together with ``device_map``.
            revision: branch, tag or commit on the hub.
            options: handed to ``AutoModelForCausalLM.from_pretrained``, e.g. ``device_map="auto"`` or
                ``trust_remote_code=True``.

        Raises:
            ModelError: there is no such model, or TransformerLens cannot wrap it.
            DeviceError: the device is not there.
        """
        if device == "auto" and "device_map" not in options:
            options |= loading.over_all_devices()
        place = None if "device_map" in options else loading.as_device(device)
        hf, tokenizer = loading.load_hf(name_or_folder, loading.as_dtype(dtype), place, revision, **options)
        return cls(
            hf, tokenizer, name=str(name_or_folder), revision=revision or getattr(hf.config, "_commit_hash", None)
        )

    @classmethod
    def from_hf(cls, model: Any, tokenizer: Any = None, *, name: str = "") -> HookedModel:
        """A wrapper around a Hugging Face causal language model that is already loaded; shares its weights.

        The model is put into evaluation mode and its parameters need no gradient from here on; nothing else changes.
        """
        return cls(model, tokenizer, name=name)

    # What it is

    @property
    def cfg(self) -> Any:
        """TransformerLens's configuration."""
        return self.tl.cfg

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return self.hf.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return self.hf.dtype

    def fingerprint(self) -> str | None:
        """Hash of a sample of the weights, see `emotion_circuits.model.fingerprint`; None where they are offloaded."""
        return fingerprint(self.hf)

    @property
    def context(self) -> int | None:
        """Most tokens that the model can read; None when it says nothing about it."""
        return getattr(self.hf.config.get_text_config(), "max_position_embeddings", None)

    def writes(self, site: Site | str, layer: int) -> Float[Tensor, "..."]:
        """What the units of a site write into the residual, in the weights' dtype.

        Returns:
            ``[neuron, d_model]`` for neurons (``W_down``), ``[head, d_head, d_model]`` for heads (``W_O``).

        Raises:
            NodeError: the site's units are no nodes, or the layer is not in the model.
            ModelError: the architecture has no such nodes, or the weights are quantised and cannot be read.
        """
        site = as_site(site)
        if site not in ("neuron", "head"):
            raise NodeError(f"site {site!r} has no nodes that write; use 'neuron' or 'head'")
        layer = as_layer(layer, self.dims.n_layers)
        weight = writes.projection_weight(self.sites.port(site, layer).module)
        return weight if site == "neuron" else weight.unflatten(0, (self.dims.n_heads, self.dims.d_head))

    @cached_property
    def final_norm(self) -> nn.Module:
        """The norm between the last residual and the unembedding."""
        return self.sites.module("ln_final")

    def unembed(
        self, resid: Float[Tensor, "... d_model"], tokens: Sequence[int] | None = None
    ) -> Float[Tensor, "... token"]:
        """Logits of a residual after the last layer; of ``tokens`` alone, if given, which costs next to nothing."""
        head, normed = self.hf.get_output_embeddings(), self.final_norm(resid)
        if tokens is None:
            logits = head(normed)
        else:
            bias = getattr(head, "bias", None)
            logits = normed @ head.weight[list(tokens)].T
            logits = logits if bias is None else logits + bias[list(tokens)]
        cap = getattr(self.hf.config.get_text_config(), "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits

    def without_heads(
        self, layer: int, resid_mid: Float[Tensor, "batch d_model"], z: Float[Tensor, "batch head d_head"]
    ) -> Float[Tensor, "batch head d_model"]:
        """The residual after attention if one head had written nothing, for every head.

        Args:
            layer: the layer.
            resid_mid: the residual as it was.
            z: the heads' outputs before ``W_O``.
        """
        return writes.without_heads(self, layer, resid_mid, z)

    @staticmethod
    def norm_weight(norm: nn.Module) -> Float[Tensor, " d_model"]:
        """The factor by which a norm scales each coordinate, apart from its division by the rms."""
        return writes.norm_weight(norm)

    # Prompts and batches

    def tokens(self, prompts: object) -> list[list[int]]:
        """Token ids of each prompt, as the tokenizer's chat template gives them.

        Raises:
            PromptError: a prompt is empty, or longer than the model's context.
        """
        return list(self.iterate_tokens(prompts))

    def iterate_tokens(self, prompts: object) -> Iterator[list[int]]:
        """`tokens` one prompt after the other."""
        return render_all(self.tokenizer, as_prompts(prompts), self.context)

    def batches(
        self,
        prompts: object,
        batch_size: int | None = None,
        *,
        sort: bool = True,
        stage: Stage = "record",
        reply_tokens: int = 0,
        done: Set[int] = frozenset(),
        shared: bool = False,
    ) -> Iterator[TokenBatch]:
        """Left-padded batches on the model's device.

        Args:
            prompts: anything that holds prompts; replies bring their own tokens along.
            batch_size: rows in a batch; by default `batch_size` of the model, or what the free memory allows.
            sort: by length, so that little is padding; ``TokenBatch.samples`` says which row is which prompt.
            stage: what the batches are for, which decides how many rows fit.
            reply_tokens: tokens that will be generated after each prompt.
            done: prompts that need not be run; a batch is left out when all of its prompts are among them, and made up
                as ever when one is not.
            shared: only this process's part of the batches, for work whose results are put together afterwards
                (`emotion_circuits.distributed`).

        Raises:
            PromptError: a prompt is empty, or does not fit into the model's context with its reply.
        """
        rows = batch_size or self.batch_size
        return batching.token_batches(self, prompts, rows, sort, stage, reply_tokens, done, shared)

    def run_batches(
        self, prompts: object, work: Callable[[TokenBatch], Result], batch_size: int | None = None, **options: Any
    ) -> Iterator[tuple[TokenBatch, Result]]:
        """`batches` with what ``work`` makes of each; a batch that is too large for the memory is halved and redone.

        Args:
            prompts: anything that holds prompts.
            work: must leave no traces before it returns, since it may be called again with half of the rows.
            batch_size: rows in a batch.
            options: as for `batches`.

        Raises:
            DeviceError: a single row does not fit.
        """
        return batching.run_batches(self.batches(prompts, batch_size, **options), work)

    # Running

    @torch.no_grad()
    def logits(self, prompts: object, batch_size: int | None = None) -> Float[Tensor, "sample d_vocab"]:
        """Logits of the token after each prompt, in float32 or better on the CPU.

        Raises:
            PromptError: there are no prompts.
        """
        rows: dict[int, Tensor] = {}
        for batch, last in self.run_batches(prompts, lambda b: self.run(b).logits[:, -1].cpu(), batch_size):
            rows.update(zip(batch.samples.tolist(), last.to(recording.statistics_dtype(last)), strict=True))
        if not rows:
            raise PromptError("there are no prompts to run; give at least one")
        return torch.stack([rows[i] for i in sorted(rows)])

    def run(self, batch: TokenBatch, *, logits_to_keep: int = 1, use_cache: bool = False, **options: Any) -> Any:
        """One forward pass of the Hugging Face model, patches and hooks included."""
        self.announce(batch)
        return self.hf(**batch.inputs(), use_cache=use_cache, logits_to_keep=logits_to_keep, **options)

    def announce(self, batch: TokenBatch) -> None:
        """Tell the patches in force which prompts the next call runs; to be called before ``model.hf`` is."""
        for tracker in self._trackers:
            tracker.announce(batch.samples, batch.last_prompt)

    def record(
        self,
        prompts: object,
        site: Site | str,
        layers: Iterable[int] | None = None,
        positions: Position = "last_prompt",
        *,
        batch_size: int | None = None,
    ) -> Float[Tensor, "layer sample *unit"]:
        """Activations of every prompt at one site, reduced inside the hook: nothing else is kept.

        Args:
            prompts: anything that holds prompts; replies are run with their tokens.
            site: where in the layer.
            layers: all by default; the result's first axis follows this order.
            positions: which tokens; where they are several, their mean is taken.
            batch_size: rows in a batch.

        Returns:
            ``[layer, sample, unit]``, on the CPU in float32 (float64 for a float64 model); unit is ``d_model``,
            ``d_mlp``, or ``head, d_head``.

        Raises:
            NodeError: the model has no such layer, or ``layers`` is a bare number.
            PromptError: there are no prompts.
        """
        return recording.record(self, prompts, as_site(site), self._layers(layers), as_position(positions), batch_size)

    def stream(
        self,
        prompts: object,
        sites: Sequence[Site],
        positions: Position = "last_prompt",
        *,
        batch_size: int | None = None,
        sort: bool = True,
        shared: bool = False,
    ) -> Iterator[tuple[TokenBatch, dict[Site, Float[Tensor, "layer batch *unit"]]]]:
        """Like `record` for several sites at once and all layers, batch by batch, left on the model's device."""
        layers = self._layers(None)
        return recording.stream(self, prompts, sites, layers, positions, batch_size, sort=sort, shared=shared)

    @torch.no_grad()
    def read(self, batch: TokenBatch, site: Site, layer: int) -> Float[Tensor, "batch d_model"]:
        """The last token's residual of one batch at one site, with whatever patches are active.

        Raises:
            NodeError: the model has no such layer.
        """
        return recording.read(self, batch, site, as_layer(layer, self.dims.n_layers))

    # Patching

    @contextmanager
    def patched(
        self, *patches: Patch, samples: Tensor | None = None, prompt_width: int | None = None
    ) -> Iterator[HookedModel]:
        """Apply patches to whatever is run inside the ``with``: ``model.hf``, ``model.tl`` or this wrapper.

        Args:
            patches: applied in this order where they meet.
            samples: for each row of the batches run inside, its index in the list of prompts that patches' rows
                refer to. By default what this wrapper runs (`logits`, `record`, ...) knows its prompts, and the rows
                of a tensor given to ``model.hf`` or ``model.tl`` are taken in order.
            prompt_width: columns that belong to the prompt. By default the first call is the prompt, and later
                calls that continue it generate: with a cache by any number of tokens, without one by a single token
                at a time, as ``generate`` does. Any other call is a new prompt.

        Raises:
            PatchError: a patch does not fit this model.
        """
        tracker = FrameTracker(samples, prompt_width)

        def frame():
            assert tracker.frame is not None, "the model was called past its root module"
            return tracker.frame

        with ExitStack() as stack:
            self._trackers.append(tracker)
            stack.callback(self._trackers.remove, tracker)
            for root in (self.hf, self.tl.original_model):
                # The decoder inside the root, so that runs without logits are tracked as well.
                handle = root.base_model.register_forward_pre_hook(tracker.pre_hook, with_kwargs=True)
                stack.callback(handle.remove)
            stack.enter_context(self.attached(patches, frame, twin=True))
            yield self

    @property
    def is_patched(self) -> bool:
        """Whether this is inside a `patched` block."""
        return bool(self._trackers)

    @contextmanager
    def attached(self, patches: Iterable[Patch], frame: FrameSource, *, twin: bool = False) -> Iterator[None]:
        """The patches' hooks alone, for callers that say themselves which tokens are run."""
        with ExitStack() as stack:
            for port, hook in hooks_of(patches, self.sites, self.dims, frame, twin=twin):
                stack.callback(port.attach(hook).remove)
            yield

    # Trust and cost

    def check(self, prompts: object = None) -> CheckReport:
        """Test on this very model that hooks, writes and batches are what they are taken for.

        Args:
            prompts: to test on; a few of very different length by default.
        """
        from emotion_circuits.model.check import check

        return check(self, prompts)

    def estimate(
        self,
        stage: str,
        n_prompts: int,
        prompt_tokens: int,
        reply_tokens: int = 0,
        batch_size: int | None = None,
        **options: Any,
    ) -> Estimate:
        """Peak memory and time of a stage before it is run, and the largest batch that fits.

        Args:
            stage: ``"record"``, ``"directions"``, ``"attribute"``, ``"heads"``, ``"influence"`` or ``"generate"``.
            n_prompts: prompts in all.
            prompt_tokens: tokens of the longest prompt.
            reply_tokens: tokens of the longest reply.
            batch_size: rows in a batch; what would be chosen by itself by default.
            options: ``available`` bytes and ``rate`` of another device, see `emotion_circuits.model.estimates`.
        """
        return estimates.estimate(self, stage, n_prompts, prompt_tokens, reply_tokens, batch_size, **options)

    def _layers(self, layers: Iterable[int] | None) -> list[int]:
        n = self.dims.n_layers
        if isinstance(layers, int):
            raise NodeError(f"layers={layers} is one layer, and a list of layers is needed; give layers=[{layers}]")
        return list(range(n)) if layers is None else [as_layer(layer, n) for layer in layers]

    def __repr__(self) -> str:
        d = self.dims
        return (
            f"HookedModel({self.name}: {d.n_layers} layers, {d.n_heads} heads, {d.d_mlp} neurons a layer, "
            f"d_model {d.d_model}, {str(self.dtype).removeprefix('torch.')} on {self.device})"
        )
