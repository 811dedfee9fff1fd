# The commands of this project. `make demo` and `make test` work from a clean clone with nothing but Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test soak fuzz test-machines reference lint check bench bench-engine bench-pipeline clean

help:  ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready  ## make the virtual environment with the pinned dependencies

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt pip
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[all]' --group test --group lint --group demo
	touch $@

demo: setup  ## ten thousand notebook fits and 142 countries through a private server, Celery and a worker
	$(BIN)/python examples/demo.py

test: setup lint  ## lint, types and the test suite
	$(BIN)/pytest

FAULTS ?= 1000
SEED ?= 1

soak: setup  ## FAULTS=1000 faults from SEED=1 on over servers, workers and clients; hours, if wanted
	$(BIN)/python -m tests.faults.soak --faults $(FAULTS) --seed $(SEED)

# How torch, its MKL, numpy and its OpenBLAS compute on processors without AVX-512, and on those without AVX2.
MACHINES := avx2 sse
avx2 := ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 OPENBLAS_CORETYPE=Haswell NPY_DISABLE_CPU_FEATURES=X86_V4
sse := ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Nehalem NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4"

test-machines: $(MACHINES:%=test-machine-%)  ## the engine's tests once more, as smaller processors compute

# Each builds kernels of its own. numpy warns of a feature that this processor does not have anyway.
test-machine-%: setup
	XDG_CACHE_HOME=$(CURDIR)/$(VENV)/$* $($*) $(BIN)/pytest -W ignore::ImportWarning tests/engine tests/worker/verify/test_checks.py

# What it finds fails `make test` from then on; what leads somewhere new is kept in .fuzz for the next time.
FUZZ_SECONDS ?= 600

fuzz: setup  ## bytes made to break the readers of frames and of JSONL, ten minutes each
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --group fuzz
	$(BIN)/python tests/fuzz/fuzz.py frames -max_total_time=$(FUZZ_SECONDS)
	$(BIN)/python tests/fuzz/fuzz.py jsonl -max_total_time=$(FUZZ_SECONDS)

reference: setup  ## write docs/jobs.md anew, from the fields of a job
	$(BIN)/python docs/write_jobs.py > docs/jobs.md

lint: setup  ## ruff, mypy and the layers of the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## the notebook's loop, the engine and the whole path, fits per second in one run
	$(BIN)/python benchmarks/throughput.py

bench-engine: setup  ## the engine alone on one core, beside JAX and C++
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --group bench
	$(BIN)/python benchmarks/engine.py

bench-pipeline: setup  ## a million jobs on the whole path, beside the engine alone and other queues
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --group bench
	$(BIN)/python benchmarks/pipeline.py

clean:  ## remove everything that the other targets made
	rm -rf $(VENV) .fuzz demo-output benchmarks/results .mypy_cache .ruff_cache .pytest_cache
