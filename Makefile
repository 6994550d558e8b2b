# make help lists what there is.
PYTHON ?= python3
PORT ?= 5000
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo ui test lint types check format clean bench bench-gpu

help:  ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 10

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fourstage needs Python 3.11 or later, found " + sys.version.split()[0] + "; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/installed  ## run both models on the demo dataset, compare them, say how to browse
	$(BIN)/fourstage -m model=eventgpt,videollava generation=greedy
	@echo "Browse the runs: make ui, then open http://127.0.0.1:$(PORT)"

ui: .venv/installed  ## MLflow's UI on the local store (PORT=5000)
	$(BIN)/fourstage ui port=$(PORT)

test: .venv/installed  ## run every test, a file at a time on each processor
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

bench: .venv/installed  ## what measuring, a million records, comparing a thousand runs and sweeps cost
	$(BIN)/python benchmarks/harness.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/sweep.py

bench-gpu: .venv/installed  ## engines side by side at 7B on a GPU, with the spread between processes
	$(BIN)/python benchmarks/gpu.py processes=6

lint: .venv/installed  ## formatting and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed  ## strict types
	$(BIN)/mypy

check: lint types test  ## lint, types and tests

format: .venv/installed  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove .venv and caches; data and runs stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build
