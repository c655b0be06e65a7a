# `make demo`: from a clone to a verified network. `make test`: every check. Both make the set-up where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test setup toolchain clean

setup: $(STAMP) toolchain

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

toolchain:
	sh tools/toolchain.sh

demo: setup
	sh tools/demo.sh $(BIN)/sparse-mcu

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses 2

clean:
	rm -rf $(VENV) build dist runs/demo
