"""What a run does not do by itself, or only among other things: tables of every method, written by the first process.

Beside them ``rows-<rank>.txt``: how many rows this process ran through the model.
"""

import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

import emotion_circuits as ec
from emotion_circuits import distributed
from emotion_circuits.control.share import residual_share

EMOTIONS = ("anger", "happiness")
out = Path(sys.argv[1])
torch.set_num_threads(1)

with distributed.joined():
    model, rows = ec.HookedModel.demo(), []
    model.hf.base_model.register_forward_pre_hook(
        lambda *given: rows.append(len(given[2]["input_ids"])), with_kwargs=True
    )
    model.batch_size = 2
    data = ec.SEV(ec.load_sev("demo")[0].records[:4])
    asked = [prompt for emotion in EMOTIONS for prompt in data.prompts(emotion)]
    directions = ec.check_directions(model, asked)
    target = directions.targets()["anger"]
    scores = ec.attribute(model, asked, target, ec.DirectAttribution())
    circuit, ablation = scores.top(4), ec.MeanAblation(scores.means)
    replies = ec.generate(model, asked, config=ec.GenerationConfig(max_new_tokens=3))
    steer = ec.Patch(ec.Residual.of(model, 2), ec.Steering(directions.of("anger"), 0.3), "generated")
    config = ec.GenerationConfig(max_new_tokens=3)
    effects = ec.SideEffectTest(
        model, EMOTIONS, config, requests=["List three colours.", "Tell me about bread.", "Where is my key?"],
        questions=[("What is two and two?", ["four"])],
    )(ec.Prompting())  # fmt: skip
    tables = {
        "quality": directions.quality.to_frame(),
        "samples": ec.project_samples(model, asked, directions),
        "curves": ec.validation_curves(model, asked, target, scores, intervention=ablation, ks=(0, 2), n_random=3),
        "edges": ec.circuit_edges(model, ec.groups_of(circuit, "node"), asked, target, ablation),
        "gradients": ec.attribute_edges(model, ec.groups_of(circuit, "node"), asked, target, ablation),
        "stability": ec.stability(
            model, asked, target, ec.DirectAttribution(), lambda values: values.top(8), n_draws=20
        ).to_frame(),
        "shares": pd.DataFrame({"share": residual_share(model, [steer], replies).tolist()}),
        "side effects": pd.DataFrame([asdict(effects)]),
    }
    (out / f"rows-{distributed.rank()}.txt").write_text(str(sum(rows)))
    if distributed.is_first():
        for name, table in tables.items():
            table.to_parquet(out / f"{name}.parquet")
