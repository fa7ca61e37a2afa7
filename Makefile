# Two commands: `make run` shows what flux-flex does, `make test` checks that it does it.
# Both need Python 3.10 or later and the package index; everything goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SCENARIO ?= examples/burst-queue/scenario.yaml
OUT ?= burst-plan

.PHONY: run test lint clean

run: $(VENV)/.installed
	$(BIN)/flux-flex simulate $(SCENARIO) --out $(OUT) --svg $(OUT)/timeline.svg

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(PIP) install --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml
	$(PIP) install --editable '.[test]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml
	$(PIP) install --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache
