# Two commands do all the set-up: `make demo` and `make test`. Needs Python >= 3.11 with venv, and make.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
INSTALL := -m pip install --quiet --disable-pip-version-check --require-virtualenv
UV := .cache/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help demo test lint type arch fmt bench bench-quick docs lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(READY) ## two example upstreams and the sidecar; shows what it does (Ctrl-C ends it)
	@$(BIN)/python examples/demo.py

test: $(READY) ## every test
	@$(BIN)/pytest

lint: $(READY) ## style and common mistakes
	@$(BIN)/ruff check && $(BIN)/ruff format --check

type: $(READY) ## types, strict
	@$(BIN)/mypy

arch: $(READY) ## who may import whom
	@$(BIN)/lint-imports --no-cache

fmt: $(READY) ## format, and repair what can be repaired by itself
	@$(BIN)/ruff format && $(BIN)/ruff check --fix

bench: $(READY) ## compare with Envoy (and nginx, HAProxy where installed); writes docs/benchmarks.md
	@$(BIN)/python -m bench

bench-quick: $(READY) ## the same in about two minutes, writes nothing
	@$(BIN)/python -m bench --quick

docs: $(READY) ## write docs/configuration.md from the model again
	@$(BIN)/python -m sidecar.config.reference --write

lock: .cache/uv/bin/uv ## resolve the dependencies again (UPGRADE=--upgrade for newer ones)
	@$(UV) $(UPGRADE) pyproject.toml --output-file requirements.lock
	@$(UV) $(UPGRADE) pyproject.toml --group dev --constraint requirements.lock --output-file requirements-dev.lock
	@$(UV) $(UPGRADE) bench/requirements.in --output-file bench/requirements.lock

clean: ## remove everything that is made here, .venv too
	@rm -rf .venv .cache .mypy_cache .ruff_cache .hypothesis bench/out dist && find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Outrider needs Python >= 3.11; name it with 'make PYTHON=/path/to/python3'" >&2; exit 1; }
	@echo "Setting up .venv ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { echo "venv failed: on Debian and Ubuntu it is the package python3-venv" >&2; exit 1; }
	@$(BIN)/python $(INSTALL) --require-hashes --only-binary :all: --requirement requirements-dev.lock
	@$(BIN)/python $(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

.cache/uv/bin/uv:
	@$(PYTHON) -m venv .cache/uv && .cache/uv/bin/python $(INSTALL) uv==0.13.9
