# `make help` lists the targets. Everything is installed into .venv, from pyproject.toml under constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --constraint constraints.txt
DEMO := demo
# Tests start hundreds of commands, each of which would compile the package again.
export PYTHONDONTWRITEBYTECODE :=
GENERATED := $(addprefix docs/,development/modules.md explanation/claims.md explanation/reliability.md explanation/search.md \
	reference/cli.md reference/configuration.md reference/errors.md reference/experiments.md results/articles.md results/reproduction.md)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all unit faults docker-test check docs docs-serve dist bench clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

setup: .venv/installed  ## Make .venv and install sweeper into it

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python %d.%d is too old: sweeper needs 3.11 or newer; name one with make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing sweeper into .venv: 2 to 4 minutes the first time"
	$(INSTALL) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "installing the tools for tests and checks into .venv"
	$(INSTALL) --editable '.[dev,docs,ray,server]'
	@touch $@

demo: .venv/installed  ## Run a 50-trial sweep on the embedded data, and say where to look
	@mkdir -p $(DEMO)
	@SWEEPER_HOME=$(DEMO) MLFLOW_TRACKING_URI= $(BIN)/sweeper optimize --trials 50 --study demo --exp 6 --model small \
		--epochs 6 --workers 2 --dataset sample

test: .venv/installed-dev  ## Pass the tests
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 15

test-all: .venv/installed-dev  ## Pass all tests, the slow ones too (one to two hours)
	$(BIN)/python -m pytest -m 'slow or not slow' --numprocesses 2 --dist worksteal

unit: .venv/installed-dev  ## Pass the unit tests alone: no commands, faults, browsers or contracts
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --ignore tests/browser --ignore tests/contract \
		--ignore tests/faults --ignore tests/process

faults: .venv/installed-dev  ## Run the long fault suite and write docs/explanation/reliability.md (20 to 40 minutes)
	@mkdir -p build && rm -f build/faults.jsonl
	@FAULTS_TALLY=$(CURDIR)/build/faults.jsonl $(BIN)/python -m pytest tests/faults tests/process/test_bad_input.py \
		-m 'slow or not slow' --numprocesses 2 --dist worksteal; status=$$?; \
		$(BIN)/python -m tests.faults.tools.tally build/faults.jsonl docs/explanation/reliability.md && exit $$status

docker-test:  ## Run a sweep in the containers, and check how they are closed (docs/how-to/containers.md; 10 to 30 minutes)
	$(PYTHON) docker/test.py

check: .venv/installed-dev  ## Lint, types, who imports whom, generated pages, links and the site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python docker/check.py
	$(BIN)/python docs/links.py
	PYTHONPATH=. $(BIN)/cog --check -r $(GENERATED)
	$(BIN)/zensical build --strict

docs: .venv/installed-dev  ## Write the generated parts of the documentation, and build it into build/site
	PYTHONPATH=. $(BIN)/cog -r $(GENERATED)
	$(BIN)/zensical build --strict

docs-serve: .venv/installed-dev  ## Show the documentation at http://127.0.0.1:8000 while it is edited
	$(BIN)/zensical serve --dev-addr 127.0.0.1:8000

dist: .venv/installed-dev  ## Build the source distribution and the wheel into dist/
	$(BIN)/python -m build --no-isolation --outdir dist .

bench: .venv/installed-dev  ## Run the benchmarks and keep their results (about 40 minutes on 2 quiet cores)
	$(BIN)/python -m benchmarks.peers --save
	$(BIN)/python -m benchmarks.bare_loop --save
	$(BIN)/python -m benchmarks.scale --save
	$(BIN)/python -m benchmarks.first_metric --save
	$(BIN)/python -m benchmarks.throughput --save

clean:  ## Remove the environment and the demo's state
	rm -rf .venv $(DEMO)
