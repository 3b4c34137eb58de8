# Everything runs in .venv, which the first target that needs it makes: python3 (3.11 or later) and make are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
TORCH := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help demo sid-demo test test-all check bench clean

help:  ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.installed  ## the same budget of steps spent three ways, with a report: runs/demo/report.html
	@$(BIN)/holdfast demo

ITEMS ?= ../shared/data/rec/amazon_industrial
sid-demo: $(VENV)/.installed  ## items as new words, recommended: runs/sid-demo/report.html (ITEMS=FOLDER for your own)
	@$(PIP) --constraint constraints.txt --editable '.[items]'
	@$(BIN)/holdfast sid demo $(if $(wildcard $(ITEMS)),--data $(ITEMS))

test: $(VENV)/.installed-dev  ## the fast tests
	@$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-all: $(VENV)/.installed-dev  ## all tests
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/.installed-dev  ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

bench: $(VENV)/.installed-dev  ## the benchmarks, which take hours; see benchmarks/
	@missed=0; for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python "$$script" || missed=1; done; exit $$missed

clean:  ## take away .venv and everything that tools left here; runs/ stays
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Holdfast needs Python 3.11 or later as '$(PYTHON)'; another one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "This Python cannot make virtual environments: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# torch first and by its pinned version: nothing that comes after can then choose another one.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing $(TORCH) and the other pinned packages into $(VENV) (once, some minutes) ..."
	@$(PIP) --constraint constraints.txt $(TORCH)
	@$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@
