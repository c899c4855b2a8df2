"""Measuring a CPU: each rate and each time of a `Device` by itself, never a whole stage.

Rates     a product, a matrix times a row, an addition, a softmax, random numbers
Times     on the demo model, whose matrices take little: a forward pass of one token (per layer), the same with patches,
          a step of decoding less its forward pass, a prompt's tokens
Caching   decoding steps of some rows with a cache, less the same rows' forward pass without one
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from emotion_circuits.planning.devices import Device

if TYPE_CHECKING:
    from emotion_circuits.interventions import Patch
    from emotion_circuits.model import HookedModel

ROWS, CONTEXT, STEPS = 32, 64, 16
"""Of the decoding that `Device.caching` is measured on."""
GROUPS = 6
"""Emotions in a batch, each with patches of its own."""


def measured_device(clock: Callable[[], float] = time.perf_counter) -> Device:
    """This machine's CPU with its present number of threads, in float32; takes some ten seconds.

    Args:
        clock: ``time.process_time`` on a machine that is shared, with one thread.
    """
    import psutil
    import torch

    wide, tall = torch.randn(512, 1024), torch.randn(1024, 4096)
    row, matrix = torch.randn(1, 4096), torch.randn(4096, 4096)
    some, scores = torch.randn(1024, 1024), torch.randn(512, 2048)
    noise = torch.Generator().manual_seed(0)
    device = Device(
        "cpu",
        flops=2 * 512 * 1024 * 4096 / _usual(lambda: wide @ tall, clock),
        bandwidth=matrix.nbytes / _usual(lambda: row @ matrix, clock),
        memory=psutil.virtual_memory().total,
        passing=3 * some.nbytes / _usual(lambda: some + some, clock),
        exponentials=scores.numel() / _usual(lambda: scores.log_softmax(dim=-1), clock),
        noise_seconds=_usual(lambda: torch.rand(2048, generator=noise).log_().log_(), clock) / 2048,
        assumed=False,
    )
    return replace(device, **_on_demo(clock))


def _on_demo(clock: Callable[[], float]) -> dict[str, float]:
    import torch

    from emotion_circuits.data.sev import load_sev
    from emotion_circuits.generation import GenerationConfig, generate
    from emotion_circuits.model import HookedModel

    model, prompts = HookedModel.demo(), load_sev("demo")[0].prompts("anger")
    layers = model.dims.n_layers

    @torch.no_grad()
    def forward(rows: int, runs: int = 7) -> float:
        ids = torch.zeros(rows, 1, dtype=torch.long)
        return _usual(lambda: model.hf.base_model(input_ids=ids, use_cache=False), clock, runs)

    def patches() -> float:
        with model.patched(*circuit_patches(model)):
            patched = forward(ROWS, runs=1)
        return patched - forward(ROWS, runs=1)

    def reply(tokens: int) -> float:
        config = GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens)
        return _usual(lambda: generate(model, prompts[:1], config=config), clock, runs=3)

    one = forward(1)
    cached = max(1e-9, _decoding(model, clock) - forward(ROWS))
    return {
        "caching": _cached_bytes(model) / cached,
        "layer_seconds": one / layers,
        # A small difference: its parts are measured in turns, so that the machine's changes count for both.
        "patch_seconds": max(0.0, median(patches() for _ in range(9))) / layers,
        "step_seconds": max(0.0, (reply(24) - reply(4)) / 20 - one),
        "prompt_seconds": _usual(lambda: model.tokens(prompts), clock, runs=3) / len(prompts),
    }


def _decoding(model: HookedModel, clock: Callable[[], float], runs: int = 5) -> float:
    """Seconds of a step of ``ROWS`` rows, whose keys and values join those of ``CONTEXT`` tokens and more."""
    import torch

    times = []
    with torch.no_grad():
        for _ in range(runs):
            cache = model.hf.base_model(torch.zeros(ROWS, CONTEXT, dtype=torch.long), use_cache=True).past_key_values
            mask = torch.ones(ROWS, CONTEXT + STEPS, dtype=torch.long)
            mask[0, 0] = 0  # padding, which keeps attention from kernels that know no mask
            ids = torch.zeros(ROWS, 1, dtype=torch.long)
            start = clock()
            for step in range(STEPS):
                model.hf.base_model(ids, attention_mask=mask[:, : CONTEXT + step + 1], past_key_values=cache)
            times.append((clock() - start) / STEPS)
    return median(times)


def _cached_bytes(model: HookedModel) -> float:
    """Bytes of keys and values that such a step moves, in float32, as `emotion_circuits.planning.cost` counts them."""
    from emotion_circuits.planning.cost import cache_bytes

    return model.dims.n_layers * cache_bytes(model.dims, 4, ROWS, 1, CONTEXT + STEPS / 2)


def circuit_patches(model: HookedModel) -> list[Patch]:
    """For every group of rows a contrast at a twentieth of all neurons and heads, as a batch of emotions has."""
    import torch

    from emotion_circuits.activations import Activations, Contrast
    from emotion_circuits.interventions import Enhancement, Patch
    from emotion_circuits.nodes import NodeSet

    dims, draw = model.dims, torch.Generator().manual_seed(0)
    nothing = Activations(torch.zeros(dims.n_layers, dims.d_mlp), torch.zeros(dims.n_layers, dims.n_heads, dims.d_head))
    enhancement = Enhancement(Contrast("anger", "emotions", nothing, nothing))

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=draw) < 0.05

    return [
        Patch(
            NodeSet(drawn(dims.n_layers, dims.d_mlp), drawn(dims.n_layers, dims.n_heads)), enhancement,
            rows=tuple(range(group, ROWS, GROUPS)),
        )
        for group in range(GROUPS)
    ]  # fmt: skip


def _usual(work: Callable[[], Any], clock: Callable[[], float], runs: int = 7) -> float:
    """The median of several runs, each long enough for the clock; a plan is of what is usual, not of the best."""
    times = []
    for _ in range(runs):
        start, n = clock(), 0
        while clock() - start < 0.05 or n == 0:
            work()
            n += 1
        times.append((clock() - start) / n)
    return median(times)
