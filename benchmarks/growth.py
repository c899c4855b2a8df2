"""How time and memory grow: with samples, tokens, layers and variants, as the exponent of a fitted power law.

Times are those of one thread on the processor, the least of a few, which other work on the machine changes little.
Linear growth is an exponent of 1. Tokens may go above it, because attention is quadratic; layers may too, because of
more variants (one per head) each of which passes more layers.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import torch

from benchmarks import models
from benchmarks.timing import Comparison, timed
from emotion_circuits.attribution import ActivationPatching, DirectAttribution, attribute
from emotion_circuits.interventions import ZeroAblation
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import NodeSet

SMALL = {"layers": 8, "heads": 8, "key_value_heads": 4, "d_head": 16, "d_model": 128, "d_mlp": 384}


def exponent(sizes: list[int], times: list[float]) -> float:
    """Slope of log time against log size."""
    x, y = (torch.tensor([float(v) for v in values]).log() for values in (sizes, times))
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / x.square().sum())


def best(work, n: int) -> float:
    """Least of n processor times on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work()
        return min(timed(work)[0].processor for _ in range(n))
    finally:
        torch.set_num_threads(threads)


def patch(model: HookedModel, n: int, length: int, nodes: NodeSet | None = None) -> None:
    """Activation patching of heads for one target."""
    target = models.random_directions(model).target("anger")
    attribute(
        model, models.prompts(n, length, emotions=()), target, ActivationPatching(ZeroAblation(), nodes), batch_size=16
    )


def direct(model: HookedModel) -> None:
    """Direct attribution of all nodes for one target."""
    target = models.random_directions(model).target("anger")
    attribute(model, models.prompts(16, 80, emotions=()), target, DirectAttribution(), batch_size=16)


def first_neurons(model: HookedModel, n: int) -> NodeSet:
    """The first n neurons of the first layer."""
    nodes = NodeSet.empty(model)
    nodes.neurons[0, :n] = True
    return nodes


def peak(n_samples: int) -> float:
    """Peak memory in MiB of a fresh process that attributes and patches ``n_samples`` prompts."""
    command = [sys.executable, "-m", "benchmarks.growth", str(n_samples)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def alone(n_samples: int) -> None:
    """What `peak` runs in its process."""
    torch.set_num_threads(2)
    model = models.random_model(**SMALL)
    target = models.random_directions(model).target("anger")
    prompts = models.prompts(n_samples, 80, emotions=())
    attribute(model, prompts, target, DirectAttribution(), batch_size=16)
    attribute(model, prompts, target, ActivationPatching(ZeroAblation()), batch_size=16)
    print(highest())


def highest() -> float:
    """Most memory that this process has had resident, in MiB; Linux counts it anew for every program."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def run(n_pairs: int):
    """Five curves."""
    model = models.random_model(**SMALL)
    curves = {
        "samples": ([32, 64, 128], lambda n: patch(model, n, 80), 1.1),
        "tokens": ([64, 128, 256], lambda n: patch(model, 16, n), 1.3),
        "variants": ([96, 192, 384], lambda n: patch(model, 16, 20, first_neurons(model, n)), 1.1),
    }
    for name, (sizes, work, limit) in curves.items():
        times = [best(partial(work, n), n_pairs) for n in sizes]
        found = exponent(sizes, times)
        yield Comparison(
            f"growth_{name}", found, "exponent of the time", f"<= {limit}", found <= limit, None,
            {name: sizes, "seconds": [round(t, 4) for t in times]},
        )  # fmt: skip
    sizes = [4, 8, 16, 32]
    deep = [models.random_model(**SMALL | {"layers": n}) for n in sizes]
    times = [best(partial(direct, m), n_pairs) for m in deep]
    found = exponent(sizes, times)
    yield Comparison(
        "growth_layers", found, "exponent of the time", "<= 1.1", found <= 1.1, None,
        {"layers": sizes, "seconds": [round(t, 4) for t in times], "of": "direct attribution"},
    )  # fmt: skip
    times = [best(partial(patch, m, 16, 80), n_pairs) for m in deep]
    found = exponent(sizes, times)
    yield Comparison(
        "growth_layers_patching", found, "exponent of the time", "<= 2.1", found <= 2.1, None,
        {"layers": sizes, "seconds": [round(t, 4) for t in times], "of": "patching of every head of every layer"},
    )  # fmt: skip
    sizes = [32, 512]
    peaks = [peak(n) for n in sizes]
    ratio = peaks[1] / peaks[0]
    yield Comparison(
        "growth_memory", ratio, "peak at 512 samples / peak at 32", "<= 1.05", ratio <= 1.05, None,
        {"samples": sizes, "peak MiB of the process": peaks},
    )  # fmt: skip


if __name__ == "__main__":
    alone(int(sys.argv[1]))
