# Each target makes what it needs: .venv with the project (editable) and the versions of constraints.txt.
# make study ARGS="--quick"    make test ARGS="tests/results -x"    make study PYTHON=python3.12

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --constraint constraints.txt --editable

.PHONY: study agree test gpu drift lint format docs clean

study: .venv/installed
	$(BIN)/cropr-study run --reducers all $(ARGS)

# The default study made here, held against the committed records of another machine.
agree: .venv/installed
	$(BIN)/cropr-study report out/pareto docs/records/pareto --agree

test: .venv/installed-test
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# Tests and benchmark of a GPU, under nine minutes; with the Python that is there, as it may be all that has one.
# make gpu GPU_ARGS="--part 2"    make gpu GPU_ARGS=--dry-run    make gpu PYTHON=.venv/bin/python
gpu:
	$(PYTHON) tests/benchmarks/gpu.py $(GPU_ARGS)

# Which speedups moved since the stored baseline of this kind of machine: about a minute. make drift DRIFT_ARGS=--keep
drift: .venv/installed
	$(BIN)/python tests/benchmarks/drift.py $(DRIFT_ARGS)

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/installed
	$(BIN)/python -c "from pathlib import Path; from studies.docs import PAGES; \
	    [Path('docs', name).write_text(page()) for name, page in PAGES.items()]"

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

# Stamps, newer than what they depend on: a second run installs nothing.
.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP_INSTALL) .
	touch $@

.venv/installed-test: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP_INSTALL) ".[test]"
	touch $@ .venv/installed
