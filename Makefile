# Every target sets itself up: a bare Python 3.11 with pip is enough. No GPU, no account, no model hub. What is installed is what
# requirements/ locks, by hash; only test-oldest and test-newest ask what else there is.
PYTHON ?= python3
# Of torch the version is locked and the build is yours: TORCH="--index-url https://download.pytorch.org/whl/cpu torch==2.13.0"
TORCH ?= --requirement requirements/torch.txt
VENV ?= .venv
VLLM ?= .venv-vllm
SMALLEST ?= .venv-smallest
OLDEST ?= .venv-oldest
NEWEST ?= .venv-newest
SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := $(VENV)/$(SCRIPTS)
STAMP := $(VENV)/installed
UV_VERSION := 0.13.9
# nltk refuses to read a file that has a second link.
export UV_LINK_MODE := copy
UV := .venv-uv/$(SCRIPTS)/uv

.PHONY: demo test test-fast test-smallest test-vllm test-oldest test-newest bench lint audit build lock clean

# $(call locked,VENV,LOCK): an environment that holds LOCK, torch and this package, and nothing else.
define locked
$(PYTHON) -m venv --clear $(1)
$(1)/$(SCRIPTS)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements/build.txt
$(1)/$(SCRIPTS)/python -m pip install --quiet --no-deps --require-hashes --no-build-isolation --requirement $(2)
$(1)/$(SCRIPTS)/python -m pip install --quiet $(TORCH)
$(1)/$(SCRIPTS)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
echo $(2) > $(1)/installed
endef

$(STAMP): pyproject.toml requirements/build.txt requirements/dev.txt requirements/torch.txt
	$(call locked,$(VENV),requirements/dev.txt)

$(VLLM)/installed: pyproject.toml requirements/build.txt requirements/vllm.txt requirements/torch.txt
	$(call locked,$(VLLM),requirements/vllm.txt)

$(SMALLEST)/installed: pyproject.toml requirements/build.txt requirements/base.txt requirements/torch.txt
	$(call locked,$(SMALLEST),requirements/base.txt)

demo: $(STAMP)  ## answer held-out questions about the example documents, beside all the text
	$(BIN)/lloco demo

test: $(STAMP)  ## all tests
	$(BIN)/python -m pytest

test-fast: $(STAMP)  ## without the slow ones and without the real model
	$(BIN)/python -m pytest -m "not slow and not real"

test-smallest: $(SMALLEST)/installed  ## the package without its extras: every module, and what needs no extra
	$(SMALLEST)/$(SCRIPTS)/python -m pytest -m "not slow and not real"

test-vllm: $(VLLM)/installed  ## against a real vLLM server on the CPU, in an environment of its own (2.5 GB)
	$(VLLM)/bin/python -m pytest tests/vllm

bench: $(STAMP)  ## measure speed on this machine and write docs/performance.md, some twenty minutes on two cores
	$(BIN)/python -m benchmarks.performance --measure

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(STAMP)  ## known holes in what is installed (asks the advisory database)
	$(BIN)/pip-audit --skip-editable

build: $(STAMP)  ## wheel and sdist into dist/
	$(BIN)/python -m build --no-isolation

# The lock, and the two lanes that look past it ------------------------------------------------------------------------

EVERYTHING := pyproject.toml --all-extras --group dev

$(UV): Makefile
	$(PYTHON) -m venv --clear .venv-uv
	.venv-uv/$(SCRIPTS)/python -m pip install --quiet uv==$(UV_VERSION)

# $(call lock,FILE,WHAT): keeps the versions that FILE has while they fit. No address and no path gets into it.
lock = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock" \
	--no-emit-package torch --excludes requirements/not-locked.txt --overrides requirements/torch.txt $(UPGRADE) --output-file requirements/$(1) $(2)

lock: $(UV)  ## write requirements/ anew after pyproject.toml changed; UPGRADE=--upgrade takes the newest of all
	$(call lock,dev.txt,$(EVERYTHING))
	$(call lock,base.txt,pyproject.toml --group test --constraints requirements/dev.txt)
	$(call lock,build.txt,--group build --constraints requirements/dev.txt)
	$(call lock,vllm.txt,pyproject.toml --extra llama-index --extra langchain --group vllm --overrides requirements/vllm-overrides.txt)

# $(call lane,VENV,RESOLUTION,OPTIONS): all tests in an environment of its own, with what RESOLUTION finds today, listed in VENV/requirements.txt.
define lane
$(UV) venv --quiet --clear --python $(PYTHON) $(1)
$(UV) pip compile --quiet --no-header --upgrade --python $(1) --resolution $(2) $(3) --output-file $(1)/requirements.txt $(EVERYTHING)
$(UV) pip install --quiet --python $(1) --requirement $(1)/requirements.txt
$(UV) pip install --quiet --python $(1) --no-deps --no-build-isolation --editable .
echo $(2) > $(1)/installed
$(1)/$(SCRIPTS)/python -m pytest
endef

test-oldest: $(UV)  ## all tests with the oldest of everything that pyproject.toml allows; UV_TORCH_BACKEND=cpu saves gigabytes
	$(call lane,$(OLDEST),lowest-direct)

test-newest: $(UV)  ## all tests with the newest of everything, of these four also what is not yet released
	$(call lane,$(NEWEST),highest,$(foreach name,transformers peft llama-index-core langchain-core,--prerelease-package $(name)=allow))

clean:
	rm -rf $(VENV) $(VLLM) $(SMALLEST) $(OLDEST) $(NEWEST) .venv-uv dist build
