"""Prompts for tiny models, and a naive forward pass with edits, written for Hugging Face's module names.

`naive_run` is the second implementation that recording, patching and suffix passes are held against: one unpadded
prompt, no cache, plain hooks, nothing of the package.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from jaxtyping import config
from torch import Tensor

from emotion_circuits.data.prompts import Prompt
from emotion_circuits.evaluation.judges import Score

EMOTIONS = ("anger", "sadness", "fear")
TEXTS = (
    "I moved my desk to the window .",
    "rain fell and the bus was late , and a friend called work",
    "home",
    "it was warm , dark , cold and bright",
    "a friend called",
    "I moved home and rain fell to my desk .",
)
Edit = Callable[[Tensor], Tensor]
T = TypeVar("T")


def prompts(n: int = 5) -> list[Prompt]:
    """Prompts of different lengths without an emotion."""
    return [Prompt.user(TEXTS[i % len(TEXTS)] + " work" * (i // len(TEXTS)), "keep the reply") for i in range(n)]


def instructed(n_items: int = 3, emotions=EMOTIONS, valences=("positive", "negative")) -> list[Prompt]:
    """Every item and valence under every emotion."""
    return [
        Prompt(
            (("system", f"always reply in {emotion}"), ("user", f"{TEXTS[i]} {' it was bright' * k}")),
            emotion, f"item_{i}", valence, f"theme_{i % 2}",
        )
        for i in range(n_items) for k, valence in enumerate(valences) for emotion in emotions
    ]  # fmt: skip


def ids_of(model, prompt: Prompt) -> list[int]:
    """Token ids straight from the tokenizer's template."""
    chat = [{"role": role, "content": text} for role, text in prompt.messages]
    return model.tokenizer.apply_chat_template(chat, tokenize=True, add_generation_prompt=True)["input_ids"]


def naive_run(hf, ids: list[int], edits: Mapping[tuple[str, int], Edit] | None = None) -> dict:
    """One prompt's activations after edits: ``result[site, layer]`` is ``[pos, unit]``; also ``"logits"``."""
    edits, seen, handles = edits or {}, {}, []
    n_heads = hf.config.num_attention_heads

    def change(site: str, layer: int, activation: Tensor) -> Tensor:
        value = activation[0]
        if site == "head":
            value = value.unflatten(-1, (n_heads, -1))
        if (site, layer) in edits:
            value = edits[site, layer](value)
        seen[site, layer] = value.clone()
        return (value.flatten(-2) if site == "head" else value)[None]

    def on_input(module, site, layer):
        def hook(module, args, kwargs):
            if args:
                return (change(site, layer, args[0]), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": change(site, layer, kwargs["hidden_states"])}

        handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def on_output(module, do):
        def hook(module, args, output):
            whole = isinstance(output, tuple)
            new = do(output[0] if whole else output)
            return (new, *output[1:]) if whole else new

        handles.append(module.register_forward_hook(hook))

    def after_attention(layer: int, activation: Tensor) -> Tensor:
        attn_out = change("attn_out", layer, activation)
        before = seen["resid_pre", layer][None]
        return change("resid_mid", layer, before + attn_out) - before if ("resid_mid", layer) in edits else (
            change("resid_mid", layer, before + attn_out), attn_out)[1]  # fmt: skip

    for l, layer in enumerate(hf.model.layers):
        sandwich = hasattr(layer, "post_feedforward_layernorm")
        on_input(layer, "resid_pre", l)
        on_input(layer.self_attn.o_proj, "head", l)
        on_output(layer.post_attention_layernorm if sandwich else layer.self_attn, lambda a, l=l: after_attention(l, a))
        on_input(layer.mlp.down_proj, "neuron", l)
        mlp = layer.post_feedforward_layernorm if sandwich else layer.mlp
        on_output(mlp, lambda a, l=l: change("mlp_out", l, a))
        on_output(layer, lambda a, l=l: change("resid_post", l, a))
    try:
        with torch.no_grad():
            seen["logits"] = hf(torch.tensor([ids], device=hf.device)).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return seen


def naive_record(model, asked: list[Prompt], site: str, reduce=lambda x: x[-1]) -> Tensor:
    """``[layer, sample, unit]`` by one naive run per prompt."""
    runs = [naive_run(model.hf, ids_of(model, p)) for p in asked]
    return torch.stack([torch.stack([reduce(run[site, l]) for run in runs]) for l in range(model.dims.n_layers)])


def hooks_left(*modules) -> int:
    """Forward hooks that are registered on any submodule."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for root in modules for m in root.modules())


def unchecked(function, *args, **kwargs):
    """Call without the test run's type checks, as a user's run is: for the errors that come after them."""
    config.update("jaxtyping_disable", True)
    try:
        return function(*args, **kwargs)
    finally:
        config.update("jaxtyping_disable", False)


def cpu_seconds(call: Callable[[], object]) -> float:
    """The smallest CPU time of three calls, after one that loads what is loaded once."""
    call()
    spent = []
    for _ in range(3):
        start = time.process_time()
        call()
        spent.append(time.process_time() - start)
    return min(spent)


@dataclass
class Background:
    """A process beside the test's.

    Attributes:
        process: the process.
        log: the file that holds what it prints.
    """

    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, look: Callable[[], T | None], seconds: float) -> T:
        """The first thing that ``look`` finds; fails with the log's end if the process ends or the time is over."""
        end = time.monotonic() + seconds
        while (found := look()) is None:
            code, late = self.process.poll(), time.monotonic() > end
            if code is not None or late:
                why = f"not there after {seconds} s" if code is None else f"the process ended with {code}"
                raise AssertionError(f"{why}; the log ends with:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.2)
        return found

    def printed(self, pattern: str, seconds: float = 120) -> str:
        """The first thing that matches in the whole lines that the process prints."""

        def look() -> str | None:
            lines = self.log.read_text(errors="replace").rpartition("\n")[0]
            match = re.search(pattern, lines)
            return match[0] if match else None

        return self.wait_for(look, seconds)


@contextmanager
def background(log: Path, *command: str, **environment: str) -> Iterator[Background]:
    """``python *command`` in a process of its own, ended at the end; what it prints goes to ``log``."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=out, stderr=subprocess.STDOUT, env=os.environ | environment
        )
    try:
        yield Background(process, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def served(log: Path) -> Iterator[str]:
    """``transformers serve`` in a process of its own, which loads the folders it is asked for; yields its URL."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason="transformers serve needs it: pip install transformers[serving]")
    run = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    # The server itself takes a free port and says which: a port that is looked for here may be gone by then.
    options = ["serve", "--host", "127.0.0.1", "--port", "0", "--device", "cpu", "--dtype", "float32"]
    with background(log, "-c", run, *options) as server:
        yield server.printed(r"(?<=Uvicorn running on )http://127\.0\.0\.1:\d+", 300) + "/v1"


class Parity:
    """A judge that answers by the sum of a text's characters: unscored, one of two emotions, or neutral."""

    name = "parity"

    def __call__(self, texts):
        return [Score((None, "anger", "fear", "neutral")[sum(map(ord, text)) % 4]) for text in texts]

    def match(self, texts, emotions):
        return self(texts)
