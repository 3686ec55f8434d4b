# Everything below sets itself up in $(VENV); nothing else on the machine is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt
DEMO := $(VENV)/.demo# stamp: what the demo uses is installed
READY := $(VENV)/.ready# stamp: everything is

.PHONY: demo demo-events test lanes lint fuzz dist docs clean

## demo: train, evaluate and report a deep spiking ResNet on handwritten digits
demo: RECIPE := digits_ms_resnet20
## demo-events: the same on the digits as a simulated event camera records them
demo-events: RECIPE := camera_digits_ms_resnet8

demo demo-events: $(DEMO)
	$(BIN)/isospike train --recipe $(RECIPE)
	@run=$$(ls -td runs/$(RECIPE)* | head -n 1); for command in analyze energy report; do \
	  echo "$(BIN)/isospike $$command $$run"; $(BIN)/isospike $$command "$$run" || exit 1; done

## test: style, types and tests; a file of tests runs in one process, so that what its tests share is made once
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

## lanes: tests of the compiled library again, with lower instruction sets and under sanitizers; LANE=address for one
lanes: $(READY)
	$(BIN)/python .ci/lanes.py $(LANE)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

## fuzz: thousands of damaged files for every reader, about 15 minutes
fuzz: $(READY)
	$(BIN)/python tests/fuzz.py --cases 2000

## dist: the source archive, the wheel for Linux on x86-64 with the compiled libraries, the wheel without them; both tried
dist: $(READY)
	@$(INSTALL) -e '.[dist]'
	$(BIN)/python .ci/dist.py

## docs: the pages as a site, in site/
docs: $(READY)
	@$(INSTALL) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(DEMO): pyproject.toml constraints.txt hatch_build.py src/isospike/ops/cpu/build.py $(wildcard src/isospike/ops/cpu/csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "isospike needs Python 3.11 or newer; name one with: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing PyTorch unless it is there (about 200 MB; several GB where pip picks a build for CUDA) ..."
	@$(INSTALL) torch==2.13.0
	@echo "Installing isospike and what the demo uses, and compiling its library ..."
	@$(INSTALL) -e '.[digits,train,report]'
	@touch $@

$(READY): $(DEMO)
	@echo "Installing what the tests use: linters, pytest, Triton, every extra ..."
	@$(INSTALL) -e '.[all,dev]'
	@touch $@

clean:
	rm -rf $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache
