"""Load, in small: memory stays flat while prompts stream, and interrupted generation loses and doubles nothing.

The large version is `benchmarks/load.py`.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

import emotion_circuits as ec
from benchmarks.load import killed, write_scenarios
from emotion_circuits.journal import open_journal
from emotion_circuits.replies import Reply

SHORT = ec.GenerationConfig(max_new_tokens=4)


@pytest.fixture(scope="module")
def demo() -> ec.HookedModel:
    return ec.HookedModel.demo()


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> ec.SEV:
    path = tmp_path_factory.mktemp("load") / "load.jsonl"
    write_scenarios(path, 100)
    return ec.SEV.from_jsonl(path)


def test_generation_goes_on_after_ten_interruptions(demo: ec.HookedModel, scenarios: ec.SEV, tmp_path: Path) -> None:
    prompts, rng, made = scenarios.prompts("anger")[:120], random.Random(0), []
    whole = ec.generate(demo, prompts, config=SHORT, batch_size=8)
    for life in range(11):
        left = rng.randint(1, 11) if life < 10 else len(prompts)

        def on_reply(index: int, reply: Reply, stop: int = len(made) + left) -> None:
            made.append(index)
            if len(made) == stop:
                raise KeyboardInterrupt

        with open_journal(tmp_path / "journal") as journal:
            try:
                replies = ec.generate(demo, prompts, config=SHORT, batch_size=8, on_reply=on_reply, journal=journal)
            except KeyboardInterrupt:
                continue
            break
    assert life == 10
    assert sorted(made) == list(range(len(prompts)))  # each once
    assert replies == whole


@pytest.mark.faults
def test_ten_kills_lose_and_double_nothing(demo: ec.HookedModel, tmp_path: Path) -> None:
    result = killed(demo, tmp_path, 600)
    assert (result.kills, result.lost, result.doubled, result.different) == (10, 0, 0, 0)


def peak(work, prompts: Sequence[ec.Prompt]) -> int:
    """Most bytes that Python held at once, over what it held before."""
    tracemalloc.start()
    work(prompts)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_what_is_held_for_a_waiting_prompt_is_its_tokens(demo: ec.HookedModel, scenarios: ec.SEV) -> None:
    few = scenarios.prompts("anger")[:30]

    def drain(prompts: Sequence[ec.Prompt]) -> None:
        for _ in demo.batches(prompts, 8):
            pass

    drain(few)
    small, large = peak(drain, few), peak(drain, few * 20)
    n_tokens = sum(len(sequence) for sequence in demo.tokens(few)) / len(few)
    assert (large - small) / (19 * len(few)) < 4 * n_tokens + 400
