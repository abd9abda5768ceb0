# `make demo` and `make test` need Python 3.10 or newer and nothing else; both make .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TRITON := .venv-triton
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help env triton demo test lint format clean

help:  ## list what can be made
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

env: $(STAMP)  ## make .venv with everything that development needs

# Installed anew only when what is wanted has changed; the package itself is installed editable.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "expected Python 3.10 or newer, got $$($(PYTHON) --version): type  make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "installing into $(VENV): about 5 GB, one to a few minutes" >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

triton: $(TRITON)/.installed  ## make .venv-triton with a real tritonserver that runs on a CPU

# An environment of its own, since its numpy is older. The Python backend starts the stub that lies
# beside it: the one for this Python.
$(TRITON)/.installed: requirements-triton.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' || \
	  { echo "expected Python 3.10 to 3.12, got $$($(PYTHON) --version): type  make triton PYTHON=python3.12" >&2; exit 1; }
	@echo "installing into $(TRITON): about 300 MB, half a minute" >&2
	$(PYTHON) -m venv --clear $(TRITON)
	$(TRITON)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-triton.txt
	cd $(TRITON)/lib/python*/site-packages/pytriton/tritonserver && \
	  cp python_backend_stubs/$$($(CURDIR)/$(TRITON)/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')/triton_python_backend_stub backends/python/
	@touch $@

demo: env  ## profile ResNet-18 for a Jetson; the run folder is runs/demo
	$(BIN)/splitdeploy profile resnet18 --device jetson --out runs/demo

# A thread for each test process, so that the processes do not fight for the cores.
test: env  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

lint: env  ## check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy -p splitdeploy
	$(BIN)/lint-imports

format: env  ## rewrite the code in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove what was built and cached; .venv, .venv-triton and runs stay
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './$(TRITON)/*' -prune -exec rm -rf {} +
