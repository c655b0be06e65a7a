# `make demo`: from a clone to a verified network. `make test`: every check. Both make the set-up where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Warnings of pip are about the machine it runs on, not about us; errors still show.
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test setup toolchain avr-toolchain clean

setup: toolchain $(STAMP)

# torch by itself first: it is by far the largest, and a later step that fails need not fetch it again.
$(STAMP): pyproject.toml constraints.txt
	@echo "installing sparse-mcu and what it needs into $(VENV) (PyTorch is large: this takes minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) torch
	@$(INSTALL) --editable '.[dev]'
	@touch $(STAMP)

toolchain:
	@sh tools/toolchain.sh

# An Arduino Uno needs none of the tools for Arm and RISC-V, which take a minute to install.
avr-toolchain:
	@sh tools/toolchain.sh avr

demo: avr-toolchain $(STAMP)
	@sh tools/demo.sh $(BIN)/sparse-mcu

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

clean:
	rm -rf $(VENV) build dist runs/demo
