# `make demo` and `make test` need nothing before them but Python 3.11+ and a package index.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types unit campaign benchmarks clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/kdcache demo

test: lint types unit

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed
	$(BIN)/mypy

# One process a core, each with one thread: threads that share their cores wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal

unit: .venv/installed
	$(PYTEST) -m "not slow"

campaign: .venv/installed
	$(PYTEST) -m slow

benchmarks: .venv/installed
	$(BIN)/pip install --quiet --editable '.[benchmarks]'
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
