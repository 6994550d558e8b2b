# `make help` lists the targets.
PYTHON ?= python3
PORT ?= 5000
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo demo-weights ui test lint types docs check bench bench-gpu format clean

help:  ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 10

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fourstage needs Python 3.11 or later, found " + sys.version.split()[0] + "; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

# What a user needs
.venv/user: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e .
	touch $@

# Launchers, servers, test and documentation tools on top
.venv/developer: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[dev]'
	touch .venv/user $@

demo: .venv/user  ## run both models on the demo dataset and compare them (installs what a user needs)
	$(BIN)/fourstage run -m model=eventgpt,videollava generation=greedy max_new_tokens=128 dataset.samples=12 replicates=3 sweep.name=demo
	@echo "Browse the runs: make ui, then open http://127.0.0.1:$(PORT)"

demo-weights: .venv/user  ## train the stand-ins of weights=demo anew, in build/stand_ins (minutes on a GPU, hours on a CPU)
	$(BIN)/python -m fourstage.train model=eventgpt
	$(BIN)/python -m fourstage.train model=videollava

ui: .venv/user  ## MLflow's UI on the local store (PORT=5000)
	$(BIN)/fourstage ui port=$(PORT)

test: .venv/developer  ## every test, one file at a time on each processor (this and all below install the development tools)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

lint: .venv/developer  ## formatting, lint and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: .venv/developer  ## strict types
	$(BIN)/mypy

docs: .venv/developer  ## build the documentation in build/site/; a dead link is an error
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

check: lint types docs test  ## all of lint, types, docs and test

bench: .venv/developer  ## the cost of measuring, of a long run's report, of a large comparison, of a sweep and of reading; false claims between processes
	$(BIN)/python benchmarks/harness.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/aa.py

bench-gpu: .venv/developer  ## engines side by side at 7B on a GPU, with the spread between processes
	$(BIN)/python benchmarks/gpu.py processes=6

format: .venv/developer  ## format the code and apply safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove .venv, caches and build/; data and runs stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .cache build
