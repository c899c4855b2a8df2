"""`HookedModel`: one set of weights, seen as a Hugging Face model and as a TransformerLens bridge.

``model.hf``  the untouched Hugging Face model. Everything in this package runs on it, with plain torch hooks.
``model.tl``  the TransformerBridge twin: hook names, ``cfg``, ``W_*``, ``run_with_cache``, TransformerLens's tools.

A patch set with `patched` acts on whichever of the two is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from emotion_circuits.data.prompts import as_prompts
from emotion_circuits.errors import NodeError, PromptError
from emotion_circuits.interventions import Patch
from emotion_circuits.model import loading, recording
from emotion_circuits.model.frames import FrameTracker
from emotion_circuits.model.patching import FrameSource, compile_patches, resid_mid_hooks, site_hook
from emotion_circuits.model.sites import Hook, Port, SiteMap
from emotion_circuits.model.tokens import TokenBatch, batches_of, pad, render
from emotion_circuits.types import ModelDims, Position, Site, as_position, as_site

DEFAULT_BATCH_SIZE = 32


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
    """

    def __init__(self, hf: Any, tokenizer: Any, *, name: str = "", revision: str | None = None) -> None:
        self.hf = hf.eval().requires_grad_(False)
        self.tl = loading.twin_of(hf)
        self.tokenizer = loading.prepare_tokenizer(tokenizer)
        self.dims: ModelDims = loading.dims_from(self.tl.cfg, hf)
        self.name, self.revision = name or hf.config.name_or_path or type(hf).__name__, revision
        self.sites = SiteMap(hf, self.tl)
        self.batch_size = DEFAULT_BATCH_SIZE

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
            device: ``None`` picks a GPU if there is one; not to be given together with ``device_map``.
            revision: branch, tag or commit on the hub.
            options: handed to ``AutoModelForCausalLM.from_pretrained``, e.g. ``device_map="auto"`` or
                ``trust_remote_code=True``.

        Raises:
            ModelError: there is no such model, or TransformerLens cannot wrap it.
            DeviceError: the device is not there.
        """
        place = None if "device_map" in options else loading.as_device(device)
        hf, tokenizer = loading.load_hf(name_or_folder, loading.as_dtype(dtype), place, revision, **options)
        return cls(
            hf, tokenizer, name=str(name_or_folder), revision=revision or getattr(hf.config, "_commit_hash", None)
        )

    @classmethod
    def from_hf(cls, model: Any, tokenizer: Any = None, *, name: str = "") -> HookedModel:
        """A wrapper around a Hugging Face causal language model that is already loaded; shares its weights."""
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

    def writes(self, site: Site | str, layer: int) -> Float[Tensor, "..."]:
        """What the units of a site write into the residual, in the weights' dtype.

        Returns:
            ``[neuron, d_model]`` for neurons (``W_down``), ``[head, d_head, d_model]`` for heads (``W_O``).

        Raises:
            NodeError: the site's units are no nodes, or the layer is not in the model.
        """
        site = as_site(site)
        if site not in ("neuron", "head"):
            raise NodeError(f"site {site!r} has no nodes that write; use 'neuron' or 'head'")
        self._check_layers([layer])
        weight = projection_weight(self.sites.port(site, layer).module)
        return weight if site == "neuron" else weight.unflatten(0, (self.dims.n_heads, self.dims.d_head))

    @cached_property
    def final_norm(self) -> nn.Module:
        """The norm between the last residual and the unembedding."""
        return self.sites.module("ln_final")

    def unembed(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Logits of a residual after the last layer."""
        logits = self.hf.get_output_embeddings()(self.final_norm(resid))
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
        weight = self.writes("head", layer)
        write = einsum(z.to(weight.dtype), weight, "batch head d_head, head d_head d_model -> batch head d_model")
        norm = self.sites.write_norm("attention", layer)
        if norm is None:
            return resid_mid[:, None] - write
        # Gemma norms what attention writes, so removing a head also changes the scale of the others.
        raw = self.sites.port("head", layer).module(z.flatten(-2))
        return resid_mid[:, None] - norm(raw)[:, None] + norm(raw[:, None] - write)

    @staticmethod
    def norm_weight(norm: nn.Module) -> Float[Tensor, " d_model"]:
        """The factor by which a norm scales each coordinate, apart from its division by the rms."""
        weight: Tensor = norm.weight  # type: ignore[assignment]
        return 1.0 + weight if "Gemma" in type(norm).__name__ else weight

    # Prompts and batches

    def tokens(self, prompts: object) -> list[list[int]]:
        """Token ids of each prompt, as the tokenizer's chat template gives them.

        Raises:
            PromptError: a prompt is longer than the model's context.
        """
        limit = self.hf.config.get_text_config().max_position_embeddings
        sequences = [render(self.tokenizer, prompt) for prompt in as_prompts(prompts)]
        for index, sequence in enumerate(sequences):
            if len(sequence) > limit:
                raise PromptError(
                    f"prompt {index} has {len(sequence)} tokens, but the model's context holds {limit}; shorten it"
                )
        return sequences

    def batches(self, prompts: object, batch_size: int | None = None, *, sort: bool = True) -> Iterator[TokenBatch]:
        """Left-padded batches on the model's device.

        Args:
            prompts: anything that holds prompts; replies bring their own tokens along.
            batch_size: rows in a batch.
            sort: by length, so that little is padding; ``TokenBatch.samples`` says which row is which prompt.
        """
        sequences = self.tokens(prompts)
        replies = [list(r.tokens) for r in prompts] if hasattr(prompts, "texts") else [[]] * len(sequences)  # type: ignore[attr-defined]
        full = [[*s, *r] for s, r in zip(sequences, replies, strict=True)]
        pad_id = self.tokenizer.pad_token_id or 0
        for chosen in batches_of([len(s) for s in full], batch_size or self.batch_size, sort=sort):
            batch = pad([full[i] for i in chosen], chosen, pad_id, [len(replies[i]) for i in chosen])
            yield batch.to(self.device)

    # Running

    @torch.no_grad()
    def logits(self, prompts: object, batch_size: int | None = None) -> Float[Tensor, "sample d_vocab"]:
        """Logits of the token after each prompt, in float32 or better on the CPU."""
        rows: dict[int, Tensor] = {}
        for batch in self.batches(prompts, batch_size):
            last = self.run(batch).logits[:, -1].cpu()
            rows.update(zip(batch.samples.tolist(), last.to(recording.statistics_dtype(last)), strict=True))
        return torch.stack([rows[i] for i in sorted(rows)])

    def run(self, batch: TokenBatch, *, logits_to_keep: int = 1, use_cache: bool = False, **options: Any) -> Any:
        """One forward pass of the Hugging Face model, patches and hooks included."""
        return self.hf(**batch.inputs(), use_cache=use_cache, logits_to_keep=logits_to_keep, **options)

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
    ) -> Iterator[tuple[TokenBatch, dict[Site, Float[Tensor, "layer batch *unit"]]]]:
        """Like `record` for several sites at once and all layers, batch by batch, left on the model's device."""
        return recording.stream(self, prompts, sites, self._layers(None), positions, batch_size, sort=sort)

    @torch.no_grad()
    def read(self, batch: TokenBatch, site: Site, layer: int) -> Float[Tensor, "batch d_model"]:
        """The last token's residual of one batch at one site, with whatever patches are active."""
        kept: list[Tensor] = []
        port = self.sites.port(site, layer % self.dims.n_layers)
        handle = port.attach(lambda activation: kept.append(activation[:, -1].clone()))
        try:
            self.hf.base_model(**batch.inputs(), use_cache=False)
        finally:
            handle.remove()
        return kept[0]

    # Patching

    @contextmanager
    def patched(
        self, *patches: Patch, samples: Tensor | None = None, prompt_width: int | None = None
    ) -> Iterator[HookedModel]:
        """Apply patches to whatever is run inside the ``with``: ``model.hf``, ``model.tl`` or this wrapper.

        Args:
            patches: applied in this order where they meet.
            samples: for each row of the batches run inside, its index in the list of prompts that patches' rows
                refer to; in order by default.
            prompt_width: columns that belong to the prompt. By default the first call is the prompt, and later
                calls that continue it (with or without a cache) generate.

        Raises:
            PatchError: a patch does not fit this model.
        """
        tracker = FrameTracker(samples, prompt_width)

        def frame():
            assert tracker.frame is not None, "the model was called past its root module"
            return tracker.frame

        with ExitStack() as stack:
            for root in (self.hf, self.tl.original_model):
                # The decoder inside the root, so that runs without logits are tracked as well.
                handle = root.base_model.register_forward_pre_hook(tracker.pre_hook, with_kwargs=True)
                stack.callback(handle.remove)
            stack.enter_context(self.attached(patches, frame, twin=True))
            yield self

    @contextmanager
    def attached(self, patches: Iterable[Patch], frame: FrameSource, *, twin: bool = False) -> Iterator[None]:
        """The patches' hooks alone, for callers that say themselves which tokens are run."""
        maps = [self.sites.port, self.sites.twin_port] if twin else [self.sites.port]
        with ExitStack() as stack:
            for (site, layer), parts in compile_patches(patches, self.dims).items():
                for port in maps:
                    for where, hook in self._hooks(port, site, layer, parts, frame):
                        stack.callback(where.attach(hook).remove)
            yield

    def _hooks(self, port: Any, site: Site, layer: int, parts: list, frame: FrameSource) -> list[tuple[Port, Hook]]:
        if site == "resid_mid":
            keep, write = resid_mid_hooks(parts, frame)
            return [(port("resid_pre", layer), keep), (port("attn_out", layer), write)]
        heads = (self.dims.n_heads, self.dims.d_head) if site == "head" else None
        return [(port(site, layer), site_hook(parts, frame, heads))]

    # Checks

    def _layers(self, layers: Iterable[int] | None) -> list[int]:
        chosen = list(range(self.dims.n_layers)) if layers is None else list(layers)
        self._check_layers(chosen)
        return [layer % self.dims.n_layers for layer in chosen]

    def _check_layers(self, layers: Iterable[int]) -> None:
        n = self.dims.n_layers
        for layer in layers:
            if not -n <= layer < n:
                raise NodeError(f"layer {layer} is outside the model, which has layers 0 to {n - 1}")

    def __repr__(self) -> str:
        d = self.dims
        return (
            f"HookedModel({self.name}: {d.n_layers} layers, {d.n_heads} heads, {d.d_mlp} neurons a layer, "
            f"d_model {d.d_model}, {str(self.dtype).removeprefix('torch.')} on {self.device})"
        )


def projection_weight(module: nn.Module) -> Float[Tensor, "unit d_model"]:
    """The weight of an output projection with one row per input unit."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    # GPT-2's Conv1D stores [in, out], a Linear [out, in].
    return weight if type(module).__name__ == "Conv1D" else weight.T
