"""Is the cost model right? Its seconds for every kind of job and stage, against measured ones, on this CPU.

Processor time on one thread, so that other work on the machine counts as little as possible; the rates of the machine
are measured just before (`emotion_circuits.planning.measured_device`). Two sizes of model:

demo    the pipeline itself, stage by stage
random  a model of 8 layers, 512 wide, with random weights: each kind of job by itself
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from statistics import mean
from typing import Any

import torch

import emotion_circuits as ec
from benchmarks.models import prompts, random_directions, random_model
from benchmarks.timing import Comparison
from emotion_circuits import planning
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.evaluation.text_quality import log_likelihoods
from emotion_circuits.generation import GenerationConfig
from emotion_circuits.pipeline import Settings, run_pipeline
from emotion_circuits.planning.cost import cost_of
from emotion_circuits.planning.workload import Job

FACTOR = 1.5
ROWS = 32


def run(n_pairs: int) -> list[Comparison]:
    """The ratios of both models; ``n_pairs`` is of no use here."""
    torch.set_num_threads(1)
    device = planning.measured_device(time.process_time)
    return [_jobs(device), _stages(device)]


def _compared(
    name: str, predicted: dict[str, float], measured: dict[str, float], device: planning.Device
) -> Comparison:
    ratios = {part: predicted[part] / measured[part] for part in measured}
    worst = max(max(r, 1 / r) for r in ratios.values())
    details: dict[str, Any] = {
        part: f"predicted {predicted[part]:.3g} s, measured {measured[part]:.3g} s, ratio {ratios[part]:.2f}"
        for part in measured
    }
    details["all"] = f"ratio {sum(predicted[p] for p in measured) / sum(measured.values()):.2f}"
    details["device"] = (
        f"{device.flops:.3g} FLOP/s, {device.bandwidth:.3g} bytes/s, {1e6 * device.layer_seconds:.0f} us a layer call, "
        f"{1e6 * device.prompt_seconds:.0f} us a prompt"
    )
    return Comparison(name, worst, "largest factor between predicted and measured", f"<= {FACTOR}", worst <= FACTOR,
                      None, details)  # fmt: skip


def _jobs(device: planning.Device, n: int = 96, length: int = 64, reply: int = 24) -> Comparison:
    """Each kind of job on the random model."""
    model = random_model(layers=8, heads=8, key_value_heads=2, d_head=64, d_model=512, d_mlp=1536, vocabulary=4000)
    shape = planning.ModelShape("random", model.dims)
    asked, directions = _grouped(prompts(n, length, 4000)), random_directions(model)
    targets = directions.targets()
    config = GenerationConfig(max_new_tokens=reply, min_new_tokens=reply)
    made = ec.generate(model, asked, config=config, batch_size=ROWS)
    variants = 2 * model.dims.n_layers * len(directions.emotions) * 4
    few = asked[:8]
    work: dict[str, tuple[Job, Callable[[], Any]]] = {
        "directions": (Job("", "read", n, length), lambda: ec.fit_directions(model, asked, batch_size=ROWS)),
        "direct attribution": (
            Job("", "read", n, length),
            lambda: ec.attribute_each(model, asked, targets, ec.DirectAttribution(), batch_size=ROWS),
        ),
        "head importance": (
            Job("", "read", n, length, heads=True),
            lambda: ec.attribute_each(model, asked, targets, ec.HeadImportance(), batch_size=ROWS),
        ),
        "influence": (
            Job("", "suffix", len(few), length, variants=variants),
            lambda: ec.sublayer_influence(model, few, directions, batch_size=ROWS),
        ),
        "generate": (
            Job("", "generate", n, length, reply),
            lambda: ec.generate(model, asked, config=config, batch_size=ROWS),
        ),
        "score": (Job("", "score", n, length, reply), lambda: log_likelihoods(model, made, batch_size=ROWS)),
    }
    predicted = {name: cost_of(job, shape, device, 4, ROWS).seconds for name, (job, _) in work.items()}
    return _compared("plan_jobs", predicted, {name: _seconds(call) for name, (_, call) in work.items()}, device)


def _stages(device: planning.Device, limit: int = 8) -> Comparison:
    """The pipeline on the demo model."""
    settings = Settings(limit=limit, batch_size=ROWS, device="cpu")
    marks: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        run_pipeline(settings, folder, on_stage=lambda stage: marks.append((stage, time.process_time())))
        done = ec.load_run(folder)
        replies = done.replies(None)
        prompt = mean(map(len, done.model.tokens(replies.prompts)))
    measured = {name: end - start for (name, start), (_, end) in pairwise(marks)}
    lengths = planning.Lengths(round(prompt), round(mean(len(reply.tokens) for reply in replies)))
    scale = planning.Scale(*(len(part.items) for part in (done.train, done.validation, done.test)))
    shape = planning.shape_of("demo")
    found = planning.plan(shape, scale, lengths, device, itemsize=4, batch_size=ROWS)
    compared = {stage: seconds for stage, seconds in measured.items() if stage in found.elapsed}
    return _compared("plan_stages", found.elapsed, compared, device)


def _grouped(asked: list[Prompt]) -> list[Prompt]:
    """Every six prompts are one scenario under six emotions."""
    return [replace(prompt, item=str(i // 6), valence="neutral") for i, prompt in enumerate(asked)]


def _seconds(work: Callable[[], Any]) -> float:
    """Processor time of the quicker of two runs."""
    times = []
    for _ in range(2):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)
