"""The options that every stage takes, and the settings that they make."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[str | None, typer.Option(help="'demo', a Hugging Face name, or a local folder. [default: demo]")]
Data = Annotated[str | None, typer.Option(help="'demo', 'own', or a SEV JSONL file. [default: demo]")]
Emotions = Annotated[str | None, typer.Option(help="Labels with commas, ekman, plutchik, circumplex, or a YAML file.")]
Lang = Annotated[str | None, typer.Option(help="Code of the instructions' language, e.g. zh. [default: en]")]
JudgeName = Annotated[
    str | None, typer.Option("--judge", help="lexicon, classifier:NAME, llm:MODEL or self. [default: lexicon]")
]
JudgeUrl = Annotated[str | None, typer.Option(help="Endpoint of an llm judge; its key is read from OPENAI_API_KEY.")]
Preset = Annotated[str | None, typer.Option(help="default, or paper: the reference's settings. [default: default]")]
Backend = Annotated[str | None, typer.Option(help="What elicits: local, vllm, or openai (a server). [default: local]")]
BaseUrl = Annotated[str | None, typer.Option(help="Of the server, e.g. http://localhost:8000/v1.")]
ServedModel = Annotated[str | None, typer.Option(help="The model's name at the server. [default: --model]")]
Out = Annotated[Path, typer.Option(help="Run folder; a stopped run in it goes on.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; auto: layers over all GPUs. [default: best]")]
Dtype = Annotated[str | None, typer.Option(help="bfloat16, float16, float32, float64. [default: by model]")]
BatchSize = Annotated[int | None, typer.Option(help="Rows in a batch, requests in flight. [default: by memory]")]
Seed = Annotated[int | None, typer.Option(help="Seed of every random choice. [default: 0]")]
Limit = Annotated[int | None, typer.Option(help="At most this many scenarios in each split. [default: all]")]
Size = Annotated[int | None, typer.Option(help="Nodes in a circuit. [default: 560, at most 5 % of the model's]")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest reply. [default: 60; 100 of the paper]")]
Temperature = Annotated[float | None, typer.Option(help="Sample replies at it too, for a second table. [default: 0.7]")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the hub.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code from the model's repository.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no tables.")]
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON.")]


@dataclass(frozen=True, kw_only=True)
class Given:
    """Options as they were given; None where they were not."""

    model: str | None = None
    revision: str | None = None
    data: str | None = None
    emotions: str | None = None
    dtype: str | None = None
    seed: int | None = None
    limit: int | None = None
    max_new_tokens: int | None = None
    size: int | None = None
    temperature: float | None = None
    trust_remote_code: bool = False
    device: str | None = None
    batch_size: int | None = None
    language: str | None = None
    judge: str | None = None
    judge_url: str | None = None
    preset: str | None = None
    backend: str | None = None
    base_url: str | None = None
    served_model: str | None = None

    def settings(self, out: Path, *, from_folder: bool) -> Any:
        """The settings: as given, else (for single stages) those that the run folder was started with."""
        from emotion_circuits.pipeline import Settings, read_manifest
        from emotion_circuits.pipeline.manifest import is_run
        from emotion_circuits.pipeline.settings import stored

        base: dict[str, Any] = {}
        if from_folder and is_run(out):
            base = stored(read_manifest(out)["settings"])
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in values.items() if value is not None and value is not False}
        return Settings.of(**(base | given))
