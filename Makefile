# make demo   install, then run the complete pipeline on the embedded sample: runs/tiny/report.html
# make test   install, then every test
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Package index for torch, such as https://download.pytorch.org/whl/cpu; pip's default if empty.
TORCH_INDEX ?=
TORCH := torch==2.13.0

.PHONY: install data demo test test-fast torture lint format bench image sample-hash projector pipeline lock clean

install: $(VENV)/.installed

# pip installs torch, because uv ignores pip's find-links and index settings; uv installs the rest, because it is faster.
$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is needed: install Python 3.11, or set PYTHON"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || \
	  $(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt $(TORCH) 2>&1 | (grep -v WARNING || true)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt uv 2>&1 | (grep -v WARNING || true)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/vhm pipeline run

test: install
	$(BIN)/python -m pytest

test-fast: install
	$(BIN)/python -m pytest -m "not slow"

torture: install            # the reliability proofs in their full size, and their table
	VHM_TORTURE=1 $(BIN)/python -m pytest tests/proofs

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/python -m benchmarks

image:                       # tagged with the package's version
	docker build -f Containerfile -t "$$($(PYTHON) -c 'from components import IMAGE; print(IMAGE)')" .

# Checked-in files that are generated from others:
pipeline: install            # pipelines/vhm.yaml from pipelines/vhm.py
	$(BIN)/vhm pipeline compile --out pipelines/vhm.yaml

data: install                # the embedded sample
	$(BIN)/vhm sample data

sample-hash: install         # data.dvc from the sample
	rm -rf data && $(BIN)/vhm sample data && $(BIN)/dvc commit --force data.dvc

projector: install           # the projector that the tiny recipe starts from, trained by `align`
	rm -rf build/projector && $(BIN)/vhm sample build/projector/data
	$(BIN)/python -c "from pathlib import Path; from vhm.sample import remake_projector as make; make(Path('build/projector/data'), Path('build/projector'))"

lock: install                # constraints.txt from what resolves now
	$(BIN)/uv pip compile --quiet --python $(BIN)/python --universal --all-extras --no-emit-package flash-attn --no-annotate --no-header -c constraints.txt pyproject.toml -o constraints.txt

clean:
	rm -rf $(VENV) build runs data
