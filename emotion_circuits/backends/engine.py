"""`VLLMBackend`: replies made by vLLM in this process, over one or more GPUs.

1. The hook points that the patches need are put into vLLM's graph when it starts (`emotion_circuits.model.remote`).
2. For each call, prompts on which the same patches act are run together: the patches' specs are sent to the workers,
   then all prompts are given to vLLM, which batches them itself.
3. Prompts are rendered by our own tokenizer, and sampling parameters are all set here, so that greedy replies are
   those of `HookedModel` up to rounding. Sampled ones differ: the noise is vLLM's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from emotion_circuits.backends.specs import Spec, compile_patches
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.errors import ModelError, PatchError
from emotion_circuits.generation import GenerationConfig, Made, OnMade
from emotion_circuits.generation.streaming import text_of
from emotion_circuits.interventions import Patch
from emotion_circuits.model import HookedModel
from emotion_circuits.model.remote import boot_vllm, load_tokenizer
from emotion_circuits.model.tokens import render

AT_ONCE = 512
"""Prompts that are handed to vLLM together; an interruption loses no more."""


class VLLMBackend:
    """See the module's docstring. Use `boot`.

    Args:
        engine: a ``vllm.LLM``.
        tokenizer: of its model.
        model: the same model with hooks, on whatever device: its weights say what nodes write. Only needed for patches.
        hooks: hook points in the engine's graph.
    """

    def __init__(
        self, engine: Any, tokenizer: Any, model: HookedModel | None = None, hooks: Iterable[str] = (), name: str = ""
    ) -> None:
        self.engine, self.tokenizer, self.model = engine, tokenizer, model
        self.hooks, self.name = frozenset(hooks), f"vllm:{name}"

    @classmethod
    def boot(
        cls,
        name_or_folder: str,
        model: HookedModel | None = None,
        patches: Sequence[Patch] = (),
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> VLLMBackend:
        """Start vLLM.

        Args:
            name_or_folder: a Hugging Face name or a local folder.
            model: see the class.
            patches: those that will act, or others at the same places: room is made for them.
            revision: branch, tag or commit on the hub.
            trust_remote_code: let the model's repository run code of its own.
            options: see `emotion_circuits.model.remote.boot_vllm`, e.g. ``tensor_parallel=8``.

        Raises:
            ModelError: vLLM is not installed, or patches were given without a model.
            PatchError: a patch cannot be expressed.
        """
        source = {"revision": revision, "trust_remote_code": trust_remote_code}
        backend = cls(None, load_tokenizer(name_or_folder, **source), model, name=name_or_folder)
        needed = [name for _, acting in together(range(_rows(patches)), patches) for name in backend.compile(acting)]
        backend.hooks = frozenset(needed)
        backend.engine = boot_vllm(name_or_folder, backend.hooks, **source, **options)
        return backend

    def compile(self, patches: Sequence[Patch]) -> dict[str, Spec]:
        """The specs of patches that act on all prompts."""
        if not patches:
            return {}
        if self.model is None:
            raise ModelError("patches need the model's weights, to know what nodes write; give VLLMBackend a model=")
        return compile_patches(patches, self.model)

    def make(
        self,
        prompts: Mapping[int, Prompt],
        patches: Sequence[Patch],
        config: GenerationConfig,
        batch_size: int | None,
        on_made: OnMade,
    ) -> None:
        """See `emotion_circuits.generation.Backend`."""
        if config.no_repeat_ngram_size:
            raise ModelError("vLLM has no ban on repeated n-grams; set no_repeat_ngram_size=0, or generate with hooks")
        size = batch_size or AT_ONCE
        for indices, acting in together(prompts, patches):
            with_specs = self._checked(self.compile(acting))
            for start in range(0, len(indices), size):
                self._make_some(indices[start : start + size], prompts, with_specs, config, on_made)

    def _checked(self, specs: dict[str, Spec]) -> dict[str, Spec]:
        if missing := sorted(set(specs) - self.hooks):
            raise PatchError(
                f"vLLM was started without a hook at {missing[0]}; start it with VLLMBackend.boot(..., patches=...) "
                "that name the same layers and sites"
            )
        return specs

    def _make_some(
        self,
        indices: Sequence[int],
        prompts: Mapping[int, Prompt],
        specs: dict[str, Spec],
        config: GenerationConfig,
        on_made: OnMade,
    ) -> None:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
        from vllm.inputs import TokensPrompt  # pyright: ignore[reportMissingImports]

        asked = [TokensPrompt(prompt_token_ids=render(self.tokenizer, prompts[i])) for i in indices]
        params = [SamplingParams(**sampling(config, i)) for i in indices]
        if self.hooks:
            self.engine.collective_rpc("tl_set_interventions", args=(specs,))
        for index, output in zip(indices, self.engine.generate(asked, params, use_tqdm=False), strict=True):
            tokens = tuple(output.outputs[0].token_ids)
            on_made(index, Made(text_of(self.tokenizer, tokens, config.stop), tokens))

    def __repr__(self) -> str:
        return f"VLLMBackend({self.name.removeprefix('vllm:')}, {len(self.hooks)} hooks)"


def sampling(config: GenerationConfig, index: int) -> dict[str, Any]:
    """vLLM's sampling parameters for the prompt at one place of the list."""
    return {
        "max_tokens": config.max_new_tokens,
        "min_tokens": config.min_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": 0,
        "repetition_penalty": config.repetition_penalty,
        "stop": list(config.stop),
        "seed": config.seed_of(index) % 2**31,
    }


def together(indices: Iterable[int], patches: Sequence[Patch]) -> Iterator[tuple[list[int], list[Patch]]]:
    """Prompts on which the same patches act, with these patches for all rows."""
    rows = [None if patch.rows is None else set(patch.rows) for patch in patches]
    held: dict[tuple[int, ...], list[int]] = {}
    for i in indices:
        held.setdefault(tuple(k for k, mine in enumerate(rows) if mine is None or i in mine), []).append(i)
    for acting, alike in held.items():
        yield alike, [replace(patches[k], rows=None) for k in acting]


def _rows(patches: Sequence[Patch]) -> int:
    return 1 + max((row for patch in patches for row in patch.rows or ()), default=0)
