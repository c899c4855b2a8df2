"""Load: ``python -m benchmarks.load``: many scenarios through the first stages, many generations through many kills.

1. ``--items`` scenario items, in one SEV file, stream through elicitation (replies of ``--new-tokens`` tokens, for two
   emotions), directions and direct attribution on the demo model. Elicitation takes the file part by part and appends
   its replies to a file; the other two stages take all prompts at once. Memory is the process's resident set, sampled
   ten times a second; *growth* is its largest value in a stage after the first tenth, over the largest in that tenth.
   What grows with the data is held from the start: scenarios, prompts and their tokens, which are measured too.
2. ``--replies`` generations with a journal, by a process that is killed ten times at random moments. None may be lost,
   made twice, or come out different from an undisturbed run's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch

import emotion_circuits as ec
from emotion_circuits import records
from emotion_circuits.data.sev import Record
from emotion_circuits.journal import open_journal

EMOTIONS = ("anger", "happiness")
PART = 1_000
"""Scenarios of which elicitation holds the replies at a time."""

KILLS = 10


@dataclass(frozen=True)
class Stage:
    """One stage under load.

    Attributes:
        name: the stage.
        items: scenario items.
        prompts: prompts run.
        seconds: time.
        start_mb: resident set when it began, in MB.
        first_tenth_mb: largest in the first tenth of its time.
        rest_mb: largest after that.
    """

    name: str
    items: int
    prompts: int
    seconds: float
    start_mb: float
    first_tenth_mb: float
    rest_mb: float

    @property
    def growth(self) -> float:
        """How much memory grows while prompts stream."""
        return self.rest_mb / self.first_tenth_mb - 1

    def __str__(self) -> str:
        return (
            f"{self.name:10} {self.items:,} items, {self.prompts:,} prompts in {self.seconds:,.0f} s "
            f"({self.prompts / self.seconds:,.0f}/s); {self.start_mb:,.0f} MB at the start, {self.first_tenth_mb:,.0f} "
            f"MB in the first tenth, {self.rest_mb:,.0f} MB after it: {100 * self.growth:+.1f} %"
        )


class Memory:
    """Samples the resident set of this process."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []
        self._done = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[Memory]:
        """Sample while the block runs."""
        process = psutil.Process()

        def sample() -> None:
            while not self._done.wait(0.1):
                self.samples.append((time.perf_counter(), process.memory_info().rss / 1e6))

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._done.set()
            thread.join()

    def stage(self, name: str, items: int, prompts: int) -> Stage:
        """What the samples say."""
        start, end = self.samples[0][0], self.samples[-1][0]
        early = [mb for at, mb in self.samples if at <= start + 0.1 * (end - start)]
        late = [mb for at, mb in self.samples if at > start + 0.1 * (end - start)]
        return Stage(name, items, prompts, end - start, self.samples[0][1], max(early), max(late or early))


def write_scenarios(path: Path, n: int) -> None:
    """A SEV file of ``n`` scenarios: each demo scenario with another one's events."""
    held, _, _ = ec.load_sev("demo")
    base = held.records

    def made() -> Iterator[Record]:
        for i in range(n):
            first, second = base[i % len(base)], base[(i // len(base) + i) % len(base)]
            yield Record(f"load_{i:06}", first.theme, first.scenario, second.event)

    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in made())


def parts(data: ec.SEV, size: int) -> Iterator[ec.SEV]:
    """The scenarios, ``size`` at a time."""
    for start in range(0, len(data), size):
        yield ec.SEV(data.records[start : start + size])


def held_bytes(folder: Path, model: ec.HookedModel, prompts: int = 20_000) -> float:
    """Bytes that a prompt takes with its share of the scenarios and its tokens, by itself."""
    write_scenarios(folder / "held.jsonl", prompts // (3 * len(EMOTIONS)))
    process = psutil.Process()
    before = process.memory_info().rss
    data = ec.SEV.from_jsonl(folder / "held.jsonl")
    held = [item.prompt(emotion) for item in data.items for emotion in EMOTIONS]
    tokens = [array("i", sequence) for sequence in model.iterate_tokens(held)]
    return (process.memory_info().rss - before) / len(tokens)


def stream(model: ec.HookedModel, folder: Path, items: int, new_tokens: int) -> Iterator[Stage]:
    """The three stages."""
    write_scenarios(folder / "load.jsonl", items // 3)
    data = ec.SEV.from_jsonl(folder / "load.jsonl")
    config = ec.GenerationConfig(max_new_tokens=new_tokens)
    n, count = len(data.items), 0
    with Memory().watched() as memory:
        out = records.Appender(folder / "replies.jsonl")
        for part in parts(data, PART):
            for reply in ec.elicit(model, part, EMOTIONS, config=config):
                out.add({"text": reply.text, "tokens": reply.tokens, "item": reply.prompt.item})
                count += 1
        out.close()
    assert count == len(EMOTIONS) * n
    yield memory.stage("elicit", n, count)

    prompts = [item.prompt(emotion) for item in data.items for emotion in EMOTIONS]
    with Memory().watched() as memory:
        directions = ec.fit_directions(model, prompts, EMOTIONS)
    yield memory.stage("directions", n, len(prompts))
    with Memory().watched() as memory:
        ec.attribute_each(model, prompts, directions.targets(), ec.DirectAttribution())
    yield memory.stage("attribute", n, len(prompts))


@dataclass(frozen=True)
class Killed:
    """Generations through kills.

    Attributes:
        replies: generations asked for.
        kills: kills before all were made.
        made: records in the journal over all lives.
        lost: prompts without a reply.
        doubled: prompts that were generated, and kept, twice.
        different: replies unlike those of an undisturbed run.
        seconds: time of all lives.
    """

    replies: int
    kills: int
    made: int
    lost: int
    doubled: int
    different: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.replies:,} generations through {self.kills} kills in {self.seconds:,.0f} s: {self.lost} lost, "
            f"{self.doubled} doubled, {self.different} different from an undisturbed run's"
        )


def killed(model: ec.HookedModel, folder: Path, replies: int, kills: int = KILLS, new_tokens: int = 8) -> Killed:
    """Generate in forked processes that are killed at random moments, and compare with an undisturbed run."""
    write_scenarios(folder / "killed.jsonl", -(-replies // 3))
    prompts = ec.SEV.from_jsonl(folder / "killed.jsonl").prompts("anger")[:replies]
    config = ec.GenerationConfig(max_new_tokens=new_tokens, temperature=0.7)
    journal, rng, done = folder / "journal", random.Random(0), 0
    start = time.perf_counter()
    whole = ec.generate(model, prompts, config=config)
    alone = time.perf_counter() - start
    start = time.perf_counter()
    while True:
        child = os.fork()
        if child == 0:
            with open_journal(journal) as kept:
                ec.generate(model, prompts, config=config, journal=kept).save(folder / "replies.jsonl")
            os._exit(0)
        if done < kills:
            time.sleep(alone / (kills + 1) * rng.uniform(0.5, 1))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        done += 1
    seconds = time.perf_counter() - start
    # A line that a kill cut off is no record; its reply was made again.
    made = [r["index"] for _, r in records.scan(journal) if not isinstance(r, ValueError)]
    final = ec.Replies.load(folder / "replies.jsonl")
    different = sum(a != b for a, b in zip(final, whole, strict=True))
    return Killed(replies, done, len(made), replies - len(set(made)), len(made) - len(set(made)), different, seconds)


def main() -> int:
    """Run both, print, and return 1 if memory grows by more than a tenth or a reply was lost, doubled or different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=99_999)
    parser.add_argument("--replies", type=int, default=10_000)
    parser.add_argument("--new-tokens", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "load.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = ec.HookedModel.demo()
    with tempfile.TemporaryDirectory() as name:
        held = held_bytes(Path(name), model)
        print(f"{held:,.0f} bytes are held per prompt: itself, its tokens, its share of the scenarios", flush=True)
        through = killed(model, Path(name), options.replies)
        print(through, flush=True)
        stages = []
        for stage in stream(model, Path(name), options.items, options.new_tokens):
            stages.append(stage)
            print(stage, flush=True)
    found = {"stages": [{**asdict(s), "growth": s.growth} for s in stages], "killed": asdict(through)}
    options.out.write_text(json.dumps({"bytes_held_per_prompt": round(held), **found}, indent=2) + "\n")
    grown = any(stage.growth > 0.1 for stage in stages)
    return int(grown or through.lost + through.doubled + through.different > 0)


if __name__ == "__main__":
    raise SystemExit(main())
