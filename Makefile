# make explore install into .venv, then walk in a world in the browser
# make demo    install into .venv, then walk a short generated video and film it   (one to three minutes after installing)
# make test    the checks and every test
# make lint    the checks alone: ruff, mypy, import contract
# make base    install into .venv-base what `pip install .` gives, without extras, and walk three chunks there
# make cluster the tests on a local Ray cluster of two workers (installs the extra `cluster`; two minutes more than `make test`)
# make hashes  note the SHA-256 of every file that is installed, in requirements-hashed.txt; from then on make refuses others
# make docs    pages from the guides and the docstrings, in site/
# make clean   remove .venv, outputs and caches; data, runs and weights stay
#
# Variables: PYTHON=python3.12  VENV=.venv  JOBS=2 (test workers)  PIP_ARGS="..." (passed on to pip)

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help explore demo install install-test hashes lint test cluster base docs clean

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PIP_ARGS ?=

BIN := $(VENV)/bin
ANY := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
PIP := $(ANY) -c constraints.txt
# Where it exists, exactly its files are installed, for every target: what `make test` needs, and no others.
HASHED := $(wildcard requirements-hashed.txt)
WITH_HASHES = $(ANY) --no-deps --require-hashes -r $(HASHED) && $(ANY) --no-deps --no-build-isolation -e .

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# ---- installation: the stamps make a repeated call instantaneous; the install is editable, so edits need none -----

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "This Python cannot make virtual environments (ensurepip is missing)." \
	         "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The extra `fast` is taken where it can be had: not every machine has a wheel of it.
$(VENV)/.installed: pyproject.toml constraints.txt $(HASHED) | $(BIN)/python
	@echo "Installing into $(VENV) ..."
	$(if $(HASHED),$(WITH_HASHES),$(PIP) -e '.[fast]' || $(PIP) -e .)
	@touch $@

$(VENV)/.installed-explore: pyproject.toml constraints.txt $(HASHED) | $(BIN)/python
	@echo "Installing with the explore extra into $(VENV) ..."
	$(if $(HASHED),$(WITH_HASHES),$(PIP) -e '.[explore,fast]' || $(PIP) -e '.[explore]')
	@touch $(VENV)/.installed $@

$(VENV)/.installed-test: pyproject.toml constraints.txt $(HASHED) | $(BIN)/python
	@echo "Installing with the test extra into $(VENV) ..."
	$(if $(HASHED),$(WITH_HASHES),$(PIP) -e '.[test]')
	@touch $(VENV)/.installed $(VENV)/.installed-explore $@

# Resolved anew from constraints.txt, whatever is installed. `editables` is what an editable install is built with.
hashes: | $(BIN)/python
	@report=$$(mktemp) && trap 'rm -f "$$report"' EXIT && \
	  $(PIP) --dry-run --ignore-installed --report "$$report" '.[test]' editables && \
	  $(BIN)/python scripts/pin_hashes.py "$$report" > requirements-hashed.txt.partial && \
	  mv requirements-hashed.txt.partial requirements-hashed.txt
	@echo "wrote requirements-hashed.txt; remove it to install without hashes"

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

# ---- use ------------------------------------------------------------------------------------------------------------

explore: $(VENV)/.installed-explore
	$(BIN)/cam explore

demo: $(VENV)/.installed
	$(BIN)/cam generate --demo --out outputs/demo

lint: $(VENV)/.installed-test
	$(BIN)/ruff check src tests benchmarks scripts examples
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# One thread per worker: two workers that each start a thread per core are slower than one.
test: lint docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --durations 40

# Apart from `make test`: Ray is half a gigabyte, and most of the time it starts.
cluster: $(VENV)/.installed-test
	$(PIP) -e '.[cluster]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster

# A plain install: no extra, not editable, run from elsewhere. What it imports by accident is missing there.
base:
	rm -rf $(VENV)-base build
	$(PYTHON) -m venv $(VENV)-base
	$(VENV)-base/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt .
	cd $$(mktemp -d) && base=$(abspath $(VENV)-base)/bin && examples=$(CURDIR)/examples && \
	  $$base/cam --help > /dev/null && $$base/python $$examples/00_retrieve.py && \
	  $$base/python $$examples/01_walk.py vault j-12

# A reference or link that leads nowhere fails. Reads the sources, imports nothing.
docs: $(VENV)/.installed-test
	$(BIN)/mkdocs build --quiet --strict

clean:
	rm -rf $(VENV) $(VENV)-base site outputs build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
