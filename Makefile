# Two commands are all a newcomer needs:   make demo    and    make test
# Each makes its own environment in .venv on first use; nothing outside this folder is changed but
# pip's cache. torch is installed first and by itself, so that a CPU build that is at hand is taken.

PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= demo

# Idle worker threads sleep instead of spinning: several times faster on few, shared cores.
export OMP_WAIT_POLICY = passive
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test lint format bench clean

help:
	@echo "make demo    the whole story on a real model (downloads about 100 MB once)"
	@echo "make test    all tests"
	@echo "make lint    ruff and mypy"
	@echo "make bench   what is measured, against whom"
	@echo "make clean   remove the environment and the demo's models"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet "$(TORCH)"

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,demo]"
	@touch $@

demo: $(VENV)/.dev
	SAFELATCH_CACHE="$(abspath $(DEMO))/cache" $(BIN)/safelatch demo --out $(DEMO)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/fingerprint.py $(or $(MODEL),$(DEMO)/models/smollm2-135m-instruct)

clean:
	rm -rf $(VENV) $(DEMO)
