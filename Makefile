# Every target sets itself up: a bare Python 3.11 with pip is enough. No GPU, no account, no model hub.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test test-fast lint build clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" --group dev
	touch $(STAMP)

demo: $(STAMP)  ## compress the example documents and answer held-out questions from the summaries
	$(BIN)/lloco demo

test: $(STAMP)  ## all tests
	$(BIN)/python -m pytest

test-fast: $(STAMP)  ## without the slow ones and without the real model
	$(BIN)/python -m pytest -m "not slow and not real"

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

build: $(STAMP)  ## wheel and sdist into dist/
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) dist build
