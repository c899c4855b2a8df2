# Set-up, tests and the demo. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
ARGS ?=
PYTEST_ARGS ?=

export HF_HUB_OFFLINE = 1

.PHONY: help setup demo test test-faults test-fast test-distributed lint bench load docs notebooks figures discovery wheel clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# torch goes first and pinned, so that the build without CUDA suffices; its file marks a finished set-up.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,figures]"
	touch $@

setup: $(VENV)/.ready ## make .venv with everything that is needed

demo: setup ## the whole pipeline on the demo model; OUT=folder ARGS=options
	$(BIN)/emotion-circuits run --model demo --out $(OUT) $(ARGS)

test: setup ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-fast: setup ## the tests that are not marked slow
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(PYTEST_ARGS)

test-distributed: setup ## the run of 2 and 3 processes is the run of one; a process that stops ends all
	$(BIN)/python -m pytest tests/test_distributed.py -m "faults or not faults" $(PYTEST_ARGS)

test-faults: setup ## fifty kills, a full disk, 20,000 hostile files, ten interruptions of many generations
	FUZZ=20000 $(BIN)/python -m pytest tests/test_faults.py tests/test_fuzz.py tests/test_load.py tests/test_security.py \
		-m "faults or not faults" $(PYTEST_ARGS)

lint: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup ## ratios of paired medians, written to benchmarks/results
	$(BIN)/python -m benchmarks

load: setup ## 99,999 items through the first stages, 10,000 generations through ten kills: memory and losses
	$(BIN)/python -m benchmarks.load

docs: setup ## the documentation site, built strictly into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebooks: setup ## run every notebook on the demo model and keep its outputs
	$(BIN)/python -m notebooks.execute

figures: setup ## the pictures of the README, from the run in OUT
	$(BIN)/python docs/make_figures.py $(OUT)
	$(BIN)/python docs/make_explorer_picture.py $(OUT)

discovery: setup ## the discovery benchmark: tables and picture of docs/ground-truth.md
	$(BIN)/emotion-circuits benchmark discovery --out runs/discovery/development
	$(BIN)/emotion-circuits benchmark discovery --grid ladder --out runs/discovery/ladder
	$(BIN)/python docs/make_discovery.py runs/discovery

wheel: setup ## build the wheel
	$(BIN)/python -m build --wheel --no-isolation

clean: ## remove what was built
	rm -rf $(VENV) build dist runs *.egg-info .pytest_cache .ruff_cache
