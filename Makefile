# `make run` and `make test` need python3 (3.11 or newer, with venv), git and make, and nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup run test sim lint types test-real lock clean

help: ## show what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is older" >&2; exit 1; }
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

setup: $(READY) ## create .venv with the locked dependencies

run: setup ## run a whole devnet with the appliance in it
	@$(BIN)/appliance dev $(ARGS)

test: setup ## run the tests
	@$(BIN)/python -m pytest -n auto $(ARGS)

sim: setup ## the simulation of replication, on more seeds: SEEDS=100000 FROM=0
	@$(BIN)/python -m tests.replication.simulation --seeds $(or $(SEEDS),10000) --from $(or $(FROM),0)

test-real: setup ## the tests against programs of others: execution clients, websocket clients (needs Node)
	@$(BIN)/python -m pytest tests/real $(ARGS)

lint: setup ## ruff, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: setup ## mypy --strict
	@$(BIN)/mypy

lock: ## renew requirements.lock (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --extra devnet --group dev pyproject.toml -o requirements.lock --custom-compile-command "make lock"

clean: ## remove what make created
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
