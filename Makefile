# A fresh machine needs Python 3.11 or newer and make; each target brings its own virtual environment.
# PYTHON: the interpreter that makes the environments.
# TORCH: what pip installs as PyTorch for the tests; pinned, and installed by itself before anything that needs it.
PYTHON ?= python3
TORCH ?= torch==2.13.0

DEMO := .venvs/demo
DEV := .venvs/dev
WHEEL := .venvs/wheel
SOURCES := $(shell find engine trainer export -type f -not -name '*.py[cod]')

export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH
unexport VIRTUAL_ENV
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test lint test-engine test-others test-slow docs benchmark-quick benchmark clean

say = @printf '==> %s\n' "$(1)"

# Creates the environment $(1) unless it exists.
define venv
@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 11) or sys.exit(f"Python {v} found, 3.11 or newer needed; set PYTHON, e.g. make PYTHON=python3.12")'
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
endef

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "make %-16s %s\n", $$1, $$2}'

demo: $(DEMO)/.ready  ## Simulate, calibrate, reconstruct and measure on built-in data (no torch)
	$(call say,engine demo demo-output)
	@$(DEMO)/bin/engine demo demo-output

test: lint test-engine test-others docs  ## Everything that has to pass: lint, types, imports, tests, wheel, docs
	$(call say,all checks passed)

lint: $(DEV)/.ready  ## Style, types and import directions
	$(call say,ruff)
	@$(DEV)/bin/ruff check --quiet .
	@$(DEV)/bin/ruff format --quiet --check .
	$(call say,mypy)
	@$(DEV)/bin/mypy
	$(call say,import contracts)
	@$(DEV)/bin/lint-imports --no-logo

# Tests run on all cores, each process of them on one: two that want both only wait for each other. Work is handed out
# in long runs of neighbours, which share the fixtures of their file. No test depends on a time, so none needs a core of
# its own.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST_OPTIONS := -q -n auto --maxprocesses 8 --dist worksteal

# tests/engine/test_torch_free.py is among these too: that engine does not import torch says most where torch is there.
test-others: $(DEV)/.ready  ## The tests of everything but engine
	$(call say,tests of trainer export benchmarks and the whole)
	@$(ONE_THREAD) $(DEV)/bin/pytest $(PYTEST_OPTIONS) --ignore-glob 'tests/engine/*/*'

test-slow: $(DEV)/.ready  ## The tests left out of the sets above
	$(call say,slow tests)
	@$(DEV)/bin/pytest -q -m slow

# The tests of engine run once, where they prove most: on the built wheel, in an environment without torch, with the
# source tree out of reach.
test-engine: $(WHEEL)/.ready  ## The tests of engine, on the built wheel in an environment without torch
	$(call say,tests of engine on the wheel without torch)
	@copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && here=$$(pwd) && mkdir "$$copy/tests" && \
	cp -R tests/engine tests/fixtures tests/conftest.py "$$copy/tests/" && cp pyproject.toml "$$copy/" && cd "$$copy" && \
	"$$here/$(WHEEL)/bin/python" -c 'import sys, engine; from importlib.util import find_spec as find; \
	there = [name for name in ("torch", "onnx") if find(name)]; \
	sys.exit(f"{there} found in an environment that must not have them") if there else None; \
	sys.exit(f"engine was imported from {engine.__file__}, not from the wheel") if not engine.__file__.startswith(sys.prefix) else None' && \
	$(ONE_THREAD) "$$here/$(WHEEL)/bin/pytest" $(PYTEST_OPTIONS) tests/engine

docs: $(DEV)/.ready  ## Build the documentation into site/
	$(call say,documentation)
	@$(DEV)/bin/mkdocs build --quiet --strict
	@echo "site/index.html"

# One thread per process: times are those of one core, and networks of this size gain nothing from more.
benchmark-quick: $(DEV)/.ready  ## Every benchmark with few frames, in minutes, into benchmark-output/
	$(call say,quick benchmarks into benchmark-output)
	@OMP_NUM_THREADS=1 $(DEV)/bin/python -m benchmarks all --quick --output benchmark-output

benchmark: $(DEV)/.ready  ## Every benchmark in full, in hours, into benchmarks/results/ (resumes)
	$(call say,benchmarks into benchmarks/results)
	@OMP_NUM_THREADS=1 $(DEV)/bin/python -m benchmarks all

clean:  ## Remove environments, builds, caches and outputs
	rm -rf .venvs build dist site demo-output benchmark-output benchmarks/.bundles .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEMO)/.ready: pyproject.toml $(SOURCES)
	$(call say,installing deq-mpi[cpu] into $(DEMO))
	$(call venv,$(DEMO))
	@$(DEMO)/bin/pip install -qq '.[cpu]'
	@touch $@

$(DEV)/.ready: pyproject.toml Makefile
	$(call say,installing $(TORCH) and the development tools into $(DEV) (some minutes the first time))
	$(call venv,$(DEV))
	@$(DEV)/bin/pip install -qq $(TORCH)
	@$(DEV)/bin/pip install -qq --editable '.[cpu,live,train,export,plans,dev]'
	@touch $@

# What the tests of engine need beside it; none of these brings torch.
TEST_TOOLS := pytest pytest-xdist hypothesis scikit-image cvxpy playwright

dist/.ready: pyproject.toml README.md LICENSE $(SOURCES) $(DEV)/.ready
	$(call say,building the wheel)
	@rm -rf dist && mkdir dist
	@$(DEV)/bin/python -m build --wheel --no-isolation --outdir dist . >dist/build.log 2>&1 || { cat dist/build.log; exit 1; }
	@touch $@

$(WHEEL)/.ready: dist/.ready
	$(call say,installing the wheel into $(WHEEL))
	@rm -rf $(WHEEL)
	$(call venv,$(WHEEL))
	@wheel=$$(ls dist/*.whl) && $(WHEEL)/bin/pip install -qq "$$wheel[cpu,live,plans]" $(TEST_TOOLS)
	@touch $@
