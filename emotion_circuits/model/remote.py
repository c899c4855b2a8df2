"""What other engines need of Hugging Face and TransformerLens: a tokenizer, and a vLLM with transforms in it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from emotion_circuits.errors import ModelError
from emotion_circuits.model.loading import as_dtype, prepare_tokenizer


def load_tokenizer(name_or_folder: str, revision: str | None = None, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model whose weights are elsewhere.

    Raises:
        ModelError: there is none of that name.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name_or_folder, revision=revision, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # transformers, huggingface_hub and tokenizers each raise their own
        raise ModelError(
            f"cannot load the tokenizer of {name_or_folder!r}: {str(error).splitlines()[0][:300]}"
        ) from error
    return prepare_tokenizer(tokenizer)


def boot_vllm(
    name_or_folder: str,
    hooks: Collection[str],
    *,
    dtype: str = "bfloat16",
    revision: str | None = None,
    trust_remote_code: bool = False,
    tensor_parallel: int = 1,
    max_batched_tokens: int = 8192,
    **options: Any,
) -> Any:
    """A ``vllm.LLM``, with TransformerLens's transforms at ``hooks``.

    A transform costs a buffer of ``max_batched_tokens * d_model`` numbers, so only what is needed is put in; without
    any this is vLLM as it comes.

    Args:
        name_or_folder: of the model.
        hooks: TransformerLens names such as ``blocks.3.mlp.hook_out``.
        dtype: of the weights.
        revision: branch, tag or commit on the hub.
        trust_remote_code: let the model's repository run code of its own.
        tensor_parallel: GPUs that share every layer.
        max_batched_tokens: tokens of one forward, over all requests.
        options: handed to ``vllm.LLM``.

    Raises:
        ModelError: vLLM is not installed, or the model has no such hooks in it.
    """
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModelError(
            'vLLM is not installed: pip install "emotion-circuits[vllm]"; it needs Linux and a CUDA GPU'
        ) from error
    common = {"dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code, **options}
    if not hooks:
        limits = {"tensor_parallel_size": tensor_parallel, "max_num_batched_tokens": max_batched_tokens}
        return vllm.LLM(name_or_folder, **limits, **common)
    from transformer_lens.model_bridge.sources.vllm.source import construct_instrumented_llm

    return construct_instrumented_llm(
        name_or_folder,
        capture_specs=_hook_places(name_or_folder, hooks, revision, trust_remote_code=trust_remote_code),
        max_num_batched_tokens=max_batched_tokens,
        dtype=as_dtype(dtype),
        tensor_parallel_size=tensor_parallel,
        llm_kwargs=common,
    )


def _hook_places(
    name_or_folder: str, hooks: Collection[str], revision: str | None, *, trust_remote_code: bool
) -> dict[str, tuple[str, int]]:
    """Path in vLLM's model, and width, of each hook."""
    from transformer_lens.model_bridge.sources.vllm.overlays import DEFAULT_VLLM_OVERLAY
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name_or_folder, revision=revision, trust_remote_code=trust_remote_code)
    known = DEFAULT_VLLM_OVERLAY.capture_specs(config.get_text_config())
    if missing := sorted(set(hooks) - set(known)):
        raise ModelError(f"vLLM's {name_or_folder} has no hook {missing[0]}; the patches were made for another model")
    return {name: known[name] for name in hooks}
