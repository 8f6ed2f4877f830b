# `make` lists the targets. Everything is installed into .venv, from the hashed locks in requirements/.
PYTHON ?= python3
BIN := .venv/bin
UV := .uv/bin/uv
SHELL := bash
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
.PHONY: help setup setup-demo setup-services demo test fuzz isolation sweep protos lint format bench soak conformance size docs lock clean compiled

help:  ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/.dev  ## Install everything for development into .venv

setup-demo: .venv/.demo  ## Install only what the demo needs

setup-services:  ## Install the system programs that tests and benchmarks start (needs root or sudo)
	@requirements/services

demo: .venv/.demo  ## Train, package, serve, score and verify a model on real data
	$(BIN)/python demo/run.py

# loadgroup: what needs a cluster goes to one worker, which starts it once.
test: .venv/.dev  ## Run all tests
	$(BIN)/python -m pytest -n logical --dist loadgroup

fuzz: .venv/.dev  ## Send a server 10,000 fuzzed requests and sequences of frames (make test sends some)
	TIDEMILL_FUZZ=10000 $(BIN)/python -m pytest tests/realtime/test_fuzz.py tests/realtime/test_http2_fuzz.py tests/realtime/grpc/test_fuzz.py --timeout 900

isolation: .venv/.dev  ## Ask a server for 10,000,000 marked answers, none of which may be another's (make test asks for some)
	TIDEMILL_ISOLATION=10000000 $(BIN)/python -m pytest tests/realtime/test_isolation.py

sweep: .venv/.dev  ## kill -9 before and after every outside effect of a batch run, for every target (make test takes some; MOMENTS=30 of each half)
	TIDEMILL_SWEEP=$(or $(MOMENTS),all) $(BIN)/python -m pytest -n logical --dist loadgroup --timeout 7200 tests/batch/sweep \
	  tests/batch/databases/test_database_crash.py tests/batch/lake/test_lake_crash.py

lint: .venv/.dev  ## Check format, style, types and the direction of imports
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

format: .venv/.dev  ## Format the code and mend what ruff can mend
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: .venv/.dev build/compiled/.done  ## Measure against raw echo, Granian and a hand-written loop; writes benchmarks/REPORT.md
	$(BIN)/python -m benchmarks

soak: .venv/.dev  ## Ten minutes each of everything at once against one process and replicas (SECONDS=60 for less); writes benchmarks/SOAK.md
	$(BIN)/python -m benchmarks soak $(if $(SECONDS),--seconds $(SECONDS))

compiled: build/compiled/.done  ## Compile the hot path into build/compiled, as published wheels have it (needs a C compiler)

conformance: .venv/.dev  ## Hold Tidemill, MLServer and Triton to the Open Inference Protocol; writes docs/conformance.md
	$(BIN)/python -m benchmarks.conformance

size: .uv/bin/uv  ## Print the size of a core install and the time of its import
	$(PYTHON) benchmarks/size.py

GRPC := src/tidemill/realtime/protocols/grpc/protos
protos: .venv/.dev  ## Compile the vendored protocol buffer files of gRPC into the one file that the server reads
	cd $(GRPC) && $(CURDIR)/$(BIN)/python -m grpc_tools.protoc -I triton -I grpc -I google --include_imports \
	  --descriptor_set_out=descriptors.binpb $$(cd triton && echo *.proto) \
	  $$(cd grpc && find . -name '*.proto' -printf '%P\n' | sort) $$(cd google && find . -name '*.proto' -printf '%P\n' | sort)

docs: .venv/.dev  ## Write docs/reference anew; run every code block and check every link of the README and docs/
	$(BIN)/python docs/reference/generate.py && $(BIN)/python -m pytest tests/docs

# Universal: one file serves every platform. No index address is written; set UV_DEFAULT_INDEX to use a mirror.
COMPILE := $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock'
lock: .uv/bin/uv  ## Write requirements/*.txt anew from pyproject.toml (make lock UPGRADE=--upgrade for new versions)
	$(COMPILE) $(UPGRADE) pyproject.toml --all-extras --group dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra sklearn --group build --group demo -c requirements/dev.txt -o requirements/demo.txt
	$(COMPILE) pyproject.toml -c requirements/dev.txt -o requirements/core.txt
	$(COMPILE) requirements/uv.in -o requirements/uv.txt

# From a copy: the compiler leaves its modules beside the source, where they would hide what is edited later.
build/compiled/.done: $(shell find src -name '*.py') pyproject.toml .venv/.dev
	rm -rf build/source build/wheel build/compiled && mkdir -p build/source
	cp -r src pyproject.toml README.md LICENSE build/source/
	PATH="$(CURDIR)/$(BIN):$$PATH" HATCH_BUILD_HOOKS_ENABLE=1 $(UV) build --wheel --no-build-isolation -p .venv -o build/wheel build/source \
	  > build/log 2>&1 || { cat build/log >&2; exit 1; }
	$(UV) pip install -q -p .venv --no-deps --target build/compiled build/wheel/*.whl
	@touch $@

clean:  ## Remove what was built, the environment included
	rm -rf .venv .uv build dist demo/out benchmarks/out .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# pip is asked once, for uv. A pip configuration of this machine may point elsewhere; the hashes would refuse its files.
.uv/bin/uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tidemill needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1): make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian, Ubuntu: apt-get install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv --clear .uv
	PIP_CONFIG_FILE=/dev/null .uv/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

.venv/bin/python: | .uv/bin/uv
	$(UV) venv -q --allow-existing --no-python-downloads --python "$$(command -v $(PYTHON))" .venv

INSTALL_SELF := $(UV) pip install -q -p .venv --no-deps --no-build-isolation -e .
.venv/.dev: requirements/dev.txt pyproject.toml .uv/bin/uv | .venv/bin/python
	$(UV) pip sync -q -p .venv --require-hashes requirements/dev.txt
	$(INSTALL_SELF)
	@touch .venv/.dev .venv/.demo

.venv/.demo: requirements/demo.txt pyproject.toml .uv/bin/uv | .venv/bin/python
	$(UV) pip install -q -p .venv --require-hashes -r requirements/demo.txt
	$(INSTALL_SELF)
	@touch $@
