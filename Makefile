# Two commands do all set-up: `make demo` runs the main job on real data, `make test` runs every test.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test lint stress bench clean
venv: .venv/.ready

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: venv
	$(BIN)/mshare demo

test: venv lint
	$(BIN)/python -m pytest

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

stress: venv
	$(BIN)/python -m pytest -m stress tests/stress

bench: venv
	$(BIN)/python -m benchmarks --json docs/results/benchmarks-host.json --markdown docs/results/benchmarks-host.md

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
