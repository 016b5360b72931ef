# Two commands do all the set-up: `make demo` and `make test`. Needs Python >= 3.11 with venv, and make.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
INSTALL := -m pip install --quiet --disable-pip-version-check --require-virtualenv
UV := .cache/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: --custom-compile-command "make lock"

REVISION = $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
DOCKER ?= docker
BASE_IMAGE ?= python:3.13-slim-trixie

.DEFAULT_GOAL := help
.PHONY: help demo test compiled-test soak bounds e2e image fuzz lint type arch fmt bench bench-quick docs audit sbom tools dashboards charts screenshots lock clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(READY) ## two example upstreams and the sidecar; shows what it does (Ctrl-C ends it)
	@$(BIN)/python examples/demo.py

test: $(READY) ## every test (ARGS="tests/engine -x" for some)
	@$(BIN)/pytest $(ARGS)

compiled-test: $(READY) ## every test over the package as mypyc compiles it (ARGS="tests/engine -x" for some); needs a C compiler
	@PYTHONPATH=tests $(BIN)/python -m tools.compiled $(ARGS)

SECONDS ?= 3600
soak: $(READY) ## mixed load for SECONDS (3600) while upstreams, endpoints, listeners and the document change at random (ARGS="--seed 7 --workers 2 --plot FILE")
	@PYTHONPATH=tests $(BIN)/python -m soak.chaos --seconds $(SECONDS) $(ARGS)

bounds: $(READY) ## what crowds of bad clients cost beside the peers that are installed; writes docs/bounds.md
	@$(BIN)/python -m bench.bounds

e2e: $(READY) ## end-to-end tests on a cluster that kind makes, or on yours (E2E_USE_CURRENT_CLUSTER=1); needs docker, kind, helm, kubectl
	@$(BIN)/pytest -c e2e/pytest.ini e2e $(ARGS)

image: ## build outrider:REVISION and outrider-injector:REVISION, REVISION being the commit
	@set -e; for target in sidecar injector; do \
	  name=outrider; test $$target = sidecar || name=outrider-injector; \
	  $(DOCKER) build --quiet --target $$target --tag $$name:$(REVISION) --build-arg BASE=$(BASE_IMAGE) --build-arg REVISION=$(REVISION) . >/dev/null; \
	  echo $$name:$(REVISION); \
	done

fuzz: .cache/fuzz/.ready ## fuzz each target of tests/fuzz (ARGS="router chunked" for some) for a share of FUZZ_SECONDS (120)
	@PYTHONPATH=tests:. .cache/fuzz/bin/python -m fuzz $(ARGS)

lint: $(READY) ## style and common mistakes
	@$(BIN)/ruff check && $(BIN)/ruff format --check

type: $(READY) ## types, strict
	@$(BIN)/mypy

arch: $(READY) ## who may import whom
	@$(BIN)/lint-imports --no-cache

fmt: $(READY) ## format, and repair what can be repaired by itself
	@$(BIN)/ruff format && $(BIN)/ruff check --fix

bench: $(READY) ## compare with Envoy (and nginx, HAProxy where installed); writes docs/benchmarks.md and docs/benchmarks/
	@$(BIN)/python -m bench

bench-quick: $(READY) ## the same in a few minutes, writes nothing
	@$(BIN)/python -m bench --quick

docs: $(READY) ## write docs/configuration.md from the model, docs/failures.md from the table of faults, docs/licences.md from the locks again
	@$(BIN)/python -m sidecar.config.reference --write
	@PYTHONPATH=tests $(BIN)/python -m faults.failures --write
	@PYTHONPATH=tests $(BIN)/python -m tools.licences --write

audit: $(READY) ## known vulnerabilities of what the locks name, from a copy of an advisory database (.cache/advisories)
	@PYTHONPATH=tests $(BIN)/python -m tools.audit $(ARGS)

sbom: $(READY) ## write a bill of materials (CycloneDX) for each image to dist/
	@PYTHONPATH=tests $(BIN)/python -m tools.sbom dist

tools: $(READY) ## the real programs that some tests run: etcd, kube-apiserver, kubectl (NAMES="helm kind" for others); needs Go
	@PYTHONPATH=tests $(BIN)/python -m tools.build $(NAMES)

dashboards: $(READY) ## write the dashboards and rules of the chart from charts/source again
	@$(BIN)/python -m charts.source --write

charts: $(READY) ## write what is generated of the charts and manifests/ again (needs Helm: make tools NAMES=helm)
	@$(BIN)/python -m sidecar.injector.charts
	@$(BIN)/python -m charts.source.packaging --write

screenshots: $(READY) ## take the pictures of the admin page in docs/images again (six minutes; needs Chromium)
	@$(BIN)/python docs/make_screenshots.py

lock: .cache/uv/bin/uv ## resolve the dependencies again (UPGRADE=--upgrade for newer ones)
	@$(UV) $(UPGRADE) pyproject.toml --extra kubernetes --extra tracing --extra httpx --output-file requirements.lock
	@$(UV) $(UPGRADE) pyproject.toml --all-extras --group dev --constraint requirements.lock --output-file requirements-dev.lock
	@$(UV) $(UPGRADE) pyproject.toml --extra injector --constraint requirements-dev.lock --output-file requirements-injector.lock
	@$(UV) $(UPGRADE) --group build --constraint requirements-dev.lock --output-file requirements-build.lock
	@$(UV) $(UPGRADE) pyproject.toml --group fuzz --constraint requirements-dev.lock --output-file requirements-fuzz.lock
	@$(UV) $(UPGRADE) bench/requirements.in --output-file bench/requirements.lock

clean: ## remove everything that is made here, .venv too
	@rm -rf .venv .cache .mypy_cache .ruff_cache .hypothesis bench/out dist && find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Outrider needs Python >= 3.11; name it with 'make PYTHON=/path/to/python3'" >&2; exit 1; }
	@echo "Setting up .venv (once; half a minute on an idle machine) ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { echo "venv failed: on Debian and Ubuntu it is the package python3-venv" >&2; exit 1; }
	@$(BIN)/python $(INSTALL) --require-hashes --only-binary :all: --requirement requirements-dev.lock
	@$(BIN)/python $(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

.cache/fuzz/.ready: requirements-fuzz.lock
	@echo "Setting up .cache/fuzz ..."
	@test -n "$(PYTHON)" || { echo "Outrider needs Python >= 3.11; name it with 'make PYTHON=/path/to/python3'" >&2; exit 1; }
	@$(PYTHON) -m venv .cache/fuzz
	@.cache/fuzz/bin/python $(INSTALL) --require-hashes --only-binary :all: --requirement requirements-fuzz.lock
	@touch $@

.cache/uv/bin/uv:
	@$(PYTHON) -m venv .cache/uv && .cache/uv/bin/python $(INSTALL) uv==0.13.9
