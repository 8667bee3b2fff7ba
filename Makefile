# What a person types. Everything is installed into .venv, and nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Versions are pinned for our own packages and for what builds them.
export PIP_CONSTRAINT := $(CURDIR)/.constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help run test lint demo clean

help:
	@echo 'make run    serve boot-assets/ now (ARGS="--config FILE ..." for options of bootserve serve)'
	@echo 'make demo   netboot a virtual machine on this terminal, without root'
	@echo 'make test   run the tests (ARGS="-k NAME ..." for options of pytest)'
	@echo 'make lint   ruff and mypy'
	@echo 'make clean  remove what the above have made'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'bootserve needs Python 3.11 or newer; name one with make PYTHON=...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo 'install the package python3-venv and try again' >&2; exit 1; }

$(VENV)/.run: pyproject.toml .constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.test: pyproject.toml .constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.run

run: $(VENV)/.run
	@exec $(BIN)/bootserve serve $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(VENV)/.run
	@$(BIN)/python -m tests.real.demo $(ARGS)

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
