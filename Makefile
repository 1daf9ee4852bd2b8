# `make demo` and `make test` do all the set-up themselves: a .venv with the locked packages and edgeskin in it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-all runtime-check lint format types lock clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BINDINGS := $(VENV)/.bindings
BINDING_LOCKS := $(wildcard requirements/tensorrt-bindings/*.txt)
# The first Python that is new enough and can make a virtual environment; override with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10 python3.14; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { echo $$p; break; }; done)
UV_COMPILE := $(BIN)/uv pip compile --universal --python-version 3.10 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --quiet
# One thread a test process: two processes with two threads each fight over two cores. A file shares its fixtures.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements/uv.txt requirements/dev.txt pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "edgeskin needs Python >= 3.10 with venv; found: $$(python3 --version 2>&1);" \
		"fix: install it (Debian: python3-venv) or pass make PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "edgeskin needs Python >= 3.10; got: $$($(PYTHON) --version 2>&1); fix: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "installing into $(VENV): about 6 GB the first time, most of it torch"
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

# What a test reads TensorRT's names from, version by version. It skips one that has no wheel for this Python or machine.
$(BINDINGS): $(STAMP) $(BINDING_LOCKS) requirements/tensorrt-rtx.txt
	@for lock in $(BINDING_LOCKS); do version=$$(basename $$lock .txt); \
		told=$$($(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes \
			--target $(VENV)/tensorrt-bindings/$$version -r $$lock 2>&1) && continue; \
		echo "note: no bindings of TensorRT $$version, so their test skips:" $$(head -n 3 <<< "$$told") >&2; \
		[[ $$told == *"has no wheels"* ]] || exit 0; \
	done; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes --target $(VENV)/tensorrt-rtx \
		-r requirements/tensorrt-rtx.txt || echo "note: no TensorRT for RTX, so its tests skip" >&2; \
	touch $@

demo: $(STAMP) ## the whole chain on drawn lesions; ends with the path of an HTML report
	$(BIN)/edgeskin demo --out demo

test: $(STAMP) $(BINDINGS) ## the tests, without network, GPU or real data
	$(PYTEST) -m "not slow"

test-all: $(STAMP) $(BINDINGS) ## the slow tests too
	$(PYTEST)

runtime-check: $(STAMP) ## the runtime in C under sanitizers, valgrind and fuzzers (FUZZ_SECONDS=60 each)
	devices/runtime/check.sh

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## mypy --strict on edgeskin/
	$(BIN)/mypy

lock: $(STAMP) ## compile requirements/*.txt anew
	$(UV_COMPILE) --extra dev -o requirements/dev.txt pyproject.toml
	$(UV_COMPILE) --extra openvino --extra onnxruntime -o requirements/device.txt pyproject.toml
	echo uv | $(UV_COMPILE) --no-annotate -o requirements/uv.txt -
	sed -n 's/ .*//; /==/p' requirements/tensorrt-rtx.txt | $(UV_COMPILE) --no-annotate -o requirements/tensorrt-rtx.txt -
	for lock in $(BINDING_LOCKS); do sed -n '1s/ .*//p' $$lock | $(UV_COMPILE) --no-annotate -o $$lock.new -; mv $$lock.new $$lock; done

clean: ## remove what the commands above made; the .venv stays
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find edgeskin tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
