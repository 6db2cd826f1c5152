# Every command a person or CI needs. Each does its own set-up, can be run again, and works in a path with spaces.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXAMPLES := transformer lora mlflow_model bucket exported

.PHONY: help setup check format test test-gpu chaos soak load containers demo examples run bench clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## make .venv with everything that demo, check and test need

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@bash scripts/setup.sh "$(PYTHON)"

check: setup ## formatting, lint, docstrings, types, import rules
	@bash scripts/check.sh

format: setup ## rewrite the code in the project's format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

# Two at a time: most tests wait for processes. Each file's tests stay together, for they share what they have started.
test: setup ## the whole test suite, against real servers and workers
	@OMP_NUM_THREADS=1 exec $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-gpu: setup ## the tests that need a CUDA device; without one none is run, and that is said
	@exec $(BIN)/python -m pytest tests/gpu -m gpu

chaos: setup ## each fault on a real service, then 300 jobs under random ones; prints counts and the seed, SEED=n repeats it
	@SEED="$(SEED)" exec $(BIN)/python -m pytest tests/chaos tests/benchmarks/test_load.py tests/workers/test_deaf_worker.py \
		-m "chaos or not chaos" -s

soak: setup ## MINUTES=10 of steady traffic: memory and descriptors of each part, a plot (.bench/soak), a verdict
	@exec $(BIN)/python -m tests.chaos.soak --minutes "$(or $(MINUTES),10)"

load: setup ## submits, polls and streams a second beside a bare FastAPI on Redis (benchmarks/load/load.md); QUICK=1
	@exec $(BIN)/python -m benchmarks.load $(if $(QUICK),--quick) $(if $(KEPT),--kept $(KEPT))

containers: setup ## builds the images, starts the compose file, kills parts of it under load; a table (benchmarks/containers.md)
	@exec $(BIN)/python -m pytest tests/containers tests/deployment -m "containers or not containers" -q -rs

demo: setup ## the main job end to end: train, submit, certify, show influence (demo/influence.png)
	@exec $(BIN)/python -m examples.demo

examples: setup ## models of many kinds, each solved on and certified: transformers, LoRA, MLflow, S3, .pt2; ONLY=bucket
	@for name in $(or $(ONLY),$(EXAMPLES)); do printf '\n== python -m examples.%s\n' "$$name"; $(BIN)/python -m examples.$$name; done

bench: setup ## solvers against their peers, side by side (benchmarks/results.md); ROW=name for one row, QUICK=1
	@exec bash scripts/bench.sh "$(PYTHON)"

run: setup ## the service on http://127.0.0.1:8000, data in ./ihvp-data
	@exec $(BIN)/ihvp up

# Images of a checkout whose path the tools cannot take lie behind a link: scripts/containers/engine.py.
clean: ## remove what these commands made
	@place="$$(readlink -f .bench/containers 2>/dev/null || true)"; \
	! mountpoint -q "$$place/storage/overlay" 2>/dev/null || umount "$$place/storage/overlay"; \
	rm -rf "$$place"
	@rm -rf $(VENV) .bench demo ihvp-data .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
