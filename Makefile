# make demo   everything, on the bundled data             make test   the fast tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-dev
DEMO_STAMP := $(VENV)/.installed

.PHONY: demo test slow lint types format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    train, evaluate, index, search, report (about ten minutes on two cores; runs/demo/report.html)"
	@echo "make test    the fast tests          make slow    the slow ones too"
	@echo "make lint    ruff                    make types   mypy --strict"
	@echo "PYTHON=python3.12 and VENV=/some/place override the interpreter and the virtual environment"

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"vlp needs Python 3.11 to 3.13, and this is {v[0]}.{v[1]}; say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(DEMO_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[serve]'
	@touch $@

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@ $(DEMO_STAMP)

demo: $(DEMO_STAMP)
	$(BIN)/vlp demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu"

slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not gpu"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache
