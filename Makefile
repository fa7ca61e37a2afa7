# Two commands: `make run` shows what flux-flex does, `make test` checks that it does it.
# Both need Python 3.10 or later and the package index; everything goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SCENARIO ?= examples/burst-queue/scenario.yaml
OUT ?= burst-plan
# Files of tests at a time.
JOBS ?= 2

.PHONY: run test cover test-docker test-flux test-kube lint clean

run: $(VENV)/.installed
	$(BIN)/flux-flex simulate $(SCENARIO) --out $(OUT) --svg $(OUT)/timeline.svg

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not docker'

# The same, with the lines that no test runs; it takes half as long again.
cover: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not docker' \
	    --cov=flux_flex --cov-report=term:skip-covered --cov-fail-under=90

# Against a real container engine: needs docker, docker-compose and a static busybox.
test-docker: $(VENV)/.installed-test
	$(BIN)/python -m pytest -rs -m 'docker and not flux'

# Against a real Flux, where `flux` is on PATH; what also needs an engine says so. And what a step of
# the controller costs an instance with 1,000 nodes and 5,000 jobs that wait.
test-flux: $(VENV)/.installed-test
	$(BIN)/python -m pytest -rs -m flux
	if command -v flux >/dev/null; then $(BIN)/python -m benchmarks.burst_cycle; fi

# Against a real kube-apiserver with its etcd, found by KUBEBUILDER_ASSETS or on PATH.
test-kube: $(VENV)/.installed-test
	$(BIN)/python -m pytest -rs -m kube

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
