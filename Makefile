# Two commands are enough on a fresh machine: `make demo` and `make test`. Both make the environment first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
unexport VIRTUAL_ENV
# Where bytecode may not be kept, every process compiles what it imports: PyTorch takes twice as long to load.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## What can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The environment, from hash-locked requirements alone. Without pip inside, since Debian's Python may lack ensurepip.
$(VENV)/.installed: requirements.lock requirements-dev.lock ops/bootstrap.lock pyproject.toml
	@echo "Making the environment in $(VENV) (the first time fetches PyTorch)"
	@test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV)
	@$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --no-input \
		--root-user-action=ignore --require-hashes -r ops/bootstrap.lock
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements-dev.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: install
install: $(VENV)/.installed ## The environment alone.

.PHONY: demo
demo: install ## Trains a model on an uploaded file, live, through Kafka.
	@$(BIN)/ravand demo

.PHONY: test
test: install ## Lint, types, import contracts, and all tests on a real Kafka and PostgreSQL.
	@$(MAKE) --no-print-directory -j 2 checks tests

.PHONY: checks
checks: lint types imports

.PHONY: tests
# Three processes on two cores, since much of the time is spent waiting for what was killed to come back. Each takes whole
# files, so that what a file shares is started once; in the order that tests/conftest.py gives them.
tests: install
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 15

.PHONY: storm
SEED ?=
MINUTES ?= 3
storm: install ## Faults of every kind under load, then a judgement: make storm SEED=7 MINUTES=3.
	@$(BIN)/python -m storm $(if $(SEED),--seed $(SEED)) --minutes $(MINUTES)

.PHONY: test-all
test-all: test ## All tests, the drills on whole installations, then a storm of three minutes.
	@$(BIN)/python -m pytest -m drill
	@$(BIN)/python -m storm --seed 20 --minutes 3

.PHONY: lint
lint: install
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

.PHONY: types
types: install
	@$(BIN)/mypy

.PHONY: imports
imports: install
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

.PHONY: format
format: install ## Formats the code.
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

.PHONY: schemas
schemas: install ## Writes the published JSON Schemas.
	@$(BIN)/python -m schemas

.PHONY: bench
bench: install ## Measures on real processes and writes docs/performance.md.
	@$(BIN)/python -m bench

.PHONY: lock
lock: install ## Resolves the dependencies anew, with hashes.
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --custom-compile-command "make lock" \
		--upgrade pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --custom-compile-command "make lock" \
		--group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --custom-compile-command "make lock" ops/bootstrap.in -o ops/bootstrap.lock
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --custom-compile-command "make lock" \
		-c requirements-dev.lock ops/image-build.in -o ops/image-build.lock

.PHONY: clean
clean: ## Removes the environment and caches; state folders stay.
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
