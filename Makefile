# `make run` and `make test` make the environment themselves. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
EXTRAS := airflow,lora,gym,onnx,dev
INSTALLED := $(VENV)/.installed
ARGS ?=

# uv does not read pip's settings. Both are lists; pip separates them by spaces, uv by commas.
empty :=
comma := ,
UV_FIND_LINKS ?= $(subst $(empty) $(empty),$(comma),$(strip $(PIP_FIND_LINKS)))
export UV_FIND_LINKS

# Some environments set this, and then every start compiles torch and Airflow anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test parity lint format types constraints install clean

help: ## Lists the targets.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

run: install ## Runs the demo through the Airflow DAGs, from logs to a registered policy. ARGS='--preset standard' adds options.
	$(BIN)/python dags/run_chain.py $(ARGS)

test: lint types ## Lint, types and all tests.
	$(BIN)/python -m pytest -q $(ARGS)

parity: install ## Compares the simulated world with stock RecSim NG on TensorFlow, in an environment of its own.
	$(BIN)/python -m recolam bench parity $(ARGS)

lint: install ## Checks style and formatting.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install ## Formats the code and applies the safe fixes.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install ## Checks types.
	$(BIN)/mypy

# Compiled without find-links, so that the file holds the pins of the usual (GPU) torch build on every machine. Where a
# find-links folder offers a CPU build of the same version, `install` takes that one and those pins go unused.
constraints: install ## Recompiles constraints/py311.txt from pyproject.toml; ARGS=--upgrade takes the newest versions.
	UV_FIND_LINKS= $(BIN)/uv pip compile pyproject.toml --all-extras --overrides constraints/overrides.txt --python-version 3.11 \
		--custom-compile-command 'make constraints' --quiet -o constraints/py311.txt $(ARGS)
	sed -i -E 's/^([A-Za-z0-9._-]+==[^+ ;]+)\+[A-Za-z0-9.]+/\1/' constraints/py311.txt

install: $(INSTALLED) ## Makes the virtual environment, or brings it up to date.

$(INSTALLED): pyproject.toml constraints/py311.txt constraints/overrides.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo 'recolam needs Python 3.11: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'uv==$(UV_VERSION)'
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --compile-bytecode --overrides constraints/overrides.txt \
		-c constraints/py311.txt -e '.[$(EXTRAS)]'
	@touch $@

clean: ## Removes the environment and caches. Feature store, runs and models stay.
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find recolam dags tests -name __pycache__ -prune -exec rm -rf {} +
