# Every target explains itself: `make help`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= out/demo

# Measured data sets, where they lie beside the checkout; otherwise they are downloaded on demand.
export REALIZATION_DATA ?= $(abspath $(wildcard ../shared/data/sysid))

.DEFAULT_GOAL := help

help:  ## show what each target does
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else "Python 3.11 to 3.13 is needed, this is %d.%d; name another: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV)

# One stamp per extra: installed again when the package's requirements change. torch goes first, at the
# pinned version, so that no other package pulls in a newer one.
$(VENV)/stamp-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

demo: $(VENV)/stamp-demo  ## run the main job: leaves out/demo/report.html and its pictures
	$(BIN)/python -m bmojo.demo --out $(OUT)

# The tests' matrices are small: threads of the linear algebra would only wait for each other.
test test-all: export OMP_NUM_THREADS ?= 1

test: $(VENV)/stamp-test  ## run the tests (long ones excepted)
	$(BIN)/python -m pytest

test-all: $(VENV)/stamp-test  ## run every test, the long ones too
	$(BIN)/python -m pytest -m ''

lint: $(VENV)/stamp-lint $(VENV)/stamp-test  ## ruff (style, imports, docstrings) and pyright (types)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(VENV)/stamp-lint  ## let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/stamp-docs  ## build the documentation into docs/_build/html
	$(BIN)/python docs/build.py

bench: $(VENV)/stamp-bench  ## run the benchmarks, one JSON file each under benchmarks/results
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

# The eight questions in order; what was done before is taken over, and an interrupted run goes on.
EVIDENCE := recall levers crossing selection length mad language storage growth theory

results-quick: $(VENV)/stamp-bench  ## train and judge every model of the evidence at its quick size (CPU, hours)
	for name in $(EVIDENCE); do $(BIN)/python benchmarks/evidence_$$name.py --size quick || exit 1; done

results-full: $(VENV)/stamp-bench  ## the same at the full size, on a GPU
	for name in $(EVIDENCE); do $(BIN)/python benchmarks/evidence_$$name.py --size full --device cuda || exit 1; done

# Needs no installation: on a machine with a GPU, its own python3 with torch and Triton will do.
gpu-check:  ## on a machine with a GPU: are its kernels right, and how fast (GPU_PYTHON=..., GPU_OPTIONS=--dry)
	PYTHONPATH=.:kernels $(or $(GPU_PYTHON),$(PYTHON)) benchmarks/gpu_check.py $(GPU_OPTIONS)

goals: $(BIN)/python  ## print every measured row with its goal, and what is met
	$(BIN)/python benchmarks/goals.py

notebook: $(VENV)/stamp-notebooks  ## open the notebooks in Jupyter
	$(BIN)/jupyter lab notebooks

release-check: $(VENV)/stamp-release  ## build wheel and archive, check them, install the wheel alone and try it
	rm -rf out/release
	$(BIN)/python -m build --outdir out/release .
	$(BIN)/twine check --strict out/release/*
	$(PYTHON) -m venv out/release/env
	out/release/env/bin/pip install --quiet --disable-pip-version-check -c constraints.txt out/release/*.whl
	cd out/release && env/bin/python -I $(CURDIR)/tests/smoke.py

clean:  ## remove what was built (the environment stays)
	rm -rf out docs/_build docs/_generated .pytest_cache .ruff_cache

.PHONY: help demo test test-all lint format docs bench results-quick results-full gpu-check goals notebook release-check clean
