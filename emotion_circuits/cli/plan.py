"""``emotion-circuits plan``: what a run will cost, before anything is loaded."""

from __future__ import annotations

from typing import Annotated

import typer

from emotion_circuits.cli import options as o
from emotion_circuits.cli import output

Model = Annotated[str, typer.Option(help="'demo', a Hugging Face name, a local folder or a config.json.")]
Data = Annotated[str, typer.Option(help="How many items (1e6), 'demo', 'own', or a SEV JSONL file.")]
DeviceName = Annotated[str, typer.Option(help="H100, H200, A100, L4 ... ; cpu is measured.")]
Devices = Annotated[
    int | None, typer.Option(min=1, help="How many of them. [default: the fewest that hold a copy of the model]")
]
Count = Annotated[int, typer.Option(min=2, help="How many labels.")]
PromptTokens = Annotated[int | None, typer.Option(min=1, help="Tokens of a prompt. [default: as in the data]")]
ReplyTokens = Annotated[int, typer.Option(min=1, help="Tokens of a reply.")]


def plan(
    model: Model = "demo",
    data: Data = "demo",
    device: DeviceName = "H100",
    devices: Devices = None,
    emotions: Count = 6,
    dtype: o.Dtype = None,
    batch_size: o.BatchSize = None,
    prompt_tokens: PromptTokens = None,
    reply_tokens: ReplyTokens = 60,
    json: o.Json = False,
) -> None:
    """FLOPs, bytes and time of every stage, from the model's configuration alone."""
    from emotion_circuits import planning
    from emotion_circuits.model.estimates import readable_time
    from emotion_circuits.model.loading import as_dtype

    shape, place = planning.shape_of(model), planning.device_named(device)
    scale, tokens = planning.data_of(data, emotions)
    itemsize = as_dtype(dtype or ("float32" if device.lower() == "cpu" else "bfloat16")).itemsize
    lengths = planning.Lengths(prompt_tokens or tokens, reply_tokens)
    found = planning.plan(shape, scale, lengths, place, devices, itemsize=itemsize, batch_size=batch_size)
    title = (
        f"{scale.items:,} items x {emotions} emotions, prompts of {lengths.prompt} tokens, replies of {reply_tokens}"
    )
    frame = found.to_frame()
    if json:
        output.print_frame(frame, title, as_json=True)
        return
    frame["device time"], frame["time"] = (frame.pop(c).map(readable_time) for c in ("device_seconds", "seconds"))
    output.print_frame(frame, title)
    output.console.print(str(found), highlight=False, soft_wrap=True)
