"""Backends by name: what ``Settings.backend`` and ``--backend`` mean.

A backend elicits; every other stage needs hooks, and so the model itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from emotion_circuits import distributed
from emotion_circuits.backends import OpenAIBackend, VLLMBackend
from emotion_circuits.demo import MODEL_FOLDER
from emotion_circuits.errors import ModelError
from emotion_circuits.generation import Backend
from emotion_circuits.model import HookedModel
from emotion_circuits.model.remote import load_tokenizer
from emotion_circuits.pipeline.settings import Settings


def generator_of(settings: Settings, model: Callable[[], HookedModel]) -> HookedModel | Backend:
    """What replies, as the settings say.

    Args:
        settings: of the run.
        model: gives the model, if it is that.

    Raises:
        ModelError: vLLM is not installed or was asked for by several processes; or the server's address is missing.
    """
    if settings.backend == "local":
        return model()
    demo = settings.model == "demo"
    name = str(MODEL_FOLDER) if demo else settings.model
    if settings.backend == "vllm":
        if distributed.size() > 1:
            raise ModelError("vLLM spreads over the GPUs by itself: start one process, with --device auto for all GPUs")
        return VLLMBackend.boot(
            name,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            dtype=settings.dtype or ("float32" if demo else "bfloat16"),
            tensor_parallel=max(1, torch.cuda.device_count()) if settings.device == "auto" else 1,
        )
    base_url = settings.base_url or os.environ.get("OPENAI_BASE_URL")
    if not base_url:
        raise ModelError("the server's address is missing: give --base-url http://..., or set OPENAI_BASE_URL")
    tokenizer = load_tokenizer(name, settings.revision, trust_remote_code=settings.trust_remote_code)
    return OpenAIBackend(settings.served_model or name, base_url, tokenizer)
