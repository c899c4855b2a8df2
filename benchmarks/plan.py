"""Is the cost model right? Its seconds for every kind of job and stage, against measured ones, on this CPU.

Processor time on one thread, so that other work on the machine counts as little as possible; the rates of the machine
are measured just before and after (`emotion_circuits.planning.measured_device`). Two sizes of model:

demo    the pipeline itself, stage by stage
random  a model of 8 layers, 512 wide, with random weights: each kind of job by itself
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
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
from emotion_circuits.pipeline import Settings, comparison, run_pipeline
from emotion_circuits.pipeline.stages import decodings
from emotion_circuits.planning.cost import cost_of
from emotion_circuits.planning.workload import Job

FACTOR = 1.5
ROWS = 32

Predict = Callable[[planning.Device], dict[str, float]]
"""Seconds by part, on a device."""


def run(n_pairs: int) -> list[Comparison]:
    """The ratios of both models; ``n_pairs`` is of no use here."""
    torch.set_num_threads(1)
    before = planning.measured_device(time.process_time)
    held = {"plan_jobs": _jobs(), "plan_stages": _stages()}
    # On a shared machine rates change with what else runs: those before and after count alike.
    device = _between(before, planning.measured_device(time.process_time))
    return [
        _compared(name, predict(device), measured, device, facts) for name, (predict, measured, facts) in held.items()
    ]


def _between(one: planning.Device, other: planning.Device) -> planning.Device:
    """The geometric mean of every rate and time."""
    numbers = {name: (value, getattr(other, name)) for name, value in asdict(one).items() if isinstance(value, float)}
    return replace(one, **{name: (a * b) ** 0.5 for name, (a, b) in numbers.items()})


def _compared(
    name: str, predicted: dict[str, float], measured: dict[str, float], device: planning.Device, facts: dict[str, str]
) -> Comparison:
    ratios = {part: predicted[part] / measured[part] for part in measured}
    worst = max(max(r, 1 / r) for r in ratios.values())
    details: dict[str, Any] = {
        part: {"predicted": predicted[part], "measured": measured[part], "ratio": ratios[part]} for part in measured
    }
    details["all"] = {"ratio": sum(predicted[p] for p in measured) / sum(measured.values())}
    return Comparison(name, worst, "largest factor between predicted and measured", f"<= {FACTOR}", worst <= FACTOR,
                      None, details | facts | {"device": asdict(device)})  # fmt: skip


def _jobs(n: int = 64, length: int = 64, reply: int = 24) -> tuple[Predict, dict[str, float], dict[str, str]]:
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
    measured = {name: _seconds(call) for name, (_, call) in work.items()}

    def predict(device: planning.Device) -> dict[str, float]:
        return {name: cost_of(job, shape, device, 4, ROWS).seconds for name, (job, _) in work.items()}

    return predict, measured, {}


def _stages(limit: int = 8) -> tuple[Predict, dict[str, float], dict[str, str]]:
    """The pipeline on the demo model."""
    settings = Settings(limit=limit, batch_size=ROWS, device="cpu")
    marks: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        # Imports and the model's loading come before the first stage.
        run_pipeline(
            settings, folder, until="evaluate", on_stage=lambda stage: marks.append((stage, time.process_time()))
        )
        marks.append(("", time.process_time()))
        done = ec.load_run(folder)
        compared = [made for label, _ in decodings(done) for made in comparison(done, label).evaluations.values()]
        prompt = mean(len(ids) for made in compared for ids in done.model.tokens(made.replies.prompts))
        # A batch takes as long as its longest reply.
        longest = mean(
            max(len(reply.tokens) for reply in made.replies.replies[start : start + ROWS])
            for made in compared
            for start in range(0, len(made.replies), ROWS)
        )
        searched = {kind: done.calibration_of(kind).n_generations for kind in ("circuit", "steering")}
    measured = {name: end - start for (name, start), (_, end) in pairwise(marks)}
    lengths = planning.Lengths(round(prompt), round(longest))
    scale = planning.Scale(*(len(part.items) for part in (done.train, done.validation, done.test)))
    shape = planning.shape_of("demo")

    def predict(device: planning.Device) -> dict[str, float]:
        return planning.plan(shape, scale, lengths, device, itemsize=4, batch_size=ROWS).elapsed

    jobs = planning.workload(shape, scale, lengths)
    planned = sum(job.n for job in jobs if (job.stage, job.kind) == ("circuit", "generate"))
    facts = {
        "lengths": f"{lengths.prompt} tokens of a compared method's prompt, {lengths.reply} of a batch's longest reply",
        "replies of the search": f"planned {planned}, made {sum(searched.values())}",
    }
    stages = {job.stage for job in jobs}
    return predict, {stage: seconds for stage, seconds in measured.items() if stage in stages}, facts


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
