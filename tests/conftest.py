"""Shared fixtures. The package is imported inside them, since jaxtyping must get hold of it first."""

from __future__ import annotations

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
# For the processes that tests start: two workers on two cores leave one thread to each.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_models: dict = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "faults: many kills, inputs or items; run by `make test-faults` alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "faults" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("faults"):
                item.add_marker(pytest.mark.skip(reason="run by `make test-faults`"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`any_model` and `plain_model` are every model of `tiny`, which is imported when tests are collected."""
    for fixture in ("any_model", "plain_model"):
        if fixture not in metafunc.fixturenames:
            continue
        import tiny

        names = [name for name in tiny.ARCHITECTURES if fixture == "any_model" or "gemma" not in name]
        metafunc.parametrize(fixture, names, indirect=True)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _model(architecture: str):
    if architecture not in _models:
        import tiny

        _models[architecture] = tiny.model(architecture)
    return _models[architecture]


@pytest.fixture(scope="session")
def qwen():
    """The tiny Qwen2 model."""
    return _model("qwen2")


@pytest.fixture
def any_model(request):
    """A tiny model of every architecture."""
    return _model(request.param)


@pytest.fixture
def plain_model(request):
    """A tiny model of every architecture that adds what a sublayer writes without another norm."""
    return _model(request.param)


@pytest.fixture(params=["qwen2", "gemma3"])
def either_model(request):
    """One model without and one with norms after the sublayers."""
    return _model(request.param)
