# make help lists the targets. Each sets up what it needs; a second run takes seconds.
#
#   PYTHON=python3.12      the Python that makes the environments
#   TORCH_INDEX=<URL>      an extra package index with torch's CPU builds. On Linux the
#                          default registry's torch carries several GB of CUDA libraries;
#                          torch's installation page names the index of the CPU builds.
#   DATA=omniglot          what `make demo` learns images from (default: digits)
#   JOBS=4                 processes that run the tests (default: 2)
#   LOWEST_TORCH=2.6.0     the torch of `make test-lowest` (default: the pinned one)

TORCH_INDEX ?=
DATA ?= digits
JOBS ?= 2
LOWEST_TORCH ?= 2.13.0

VENV := .venv
LOWEST := .venv-lowest
STAMP := $(VENV)/.installed
LOWEST_STAMP := $(LOWEST)/.installed-torch-$(LOWEST_TORCH)
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11
LOWEST_PYTHONS := python3.11 python3.12 python3

PIP_FLAGS := --quiet --disable-pip-version-check
TORCH_FLAGS := $(PIP_FLAGS) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# One thread for each test process: the tensors of the tests are small.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n $(JOBS) --dist worksteal

# $(call make_venv,FOLDER,PYTHONS,NEWEST MINOR VERSION): a bare environment, made by
# $(PYTHON), or else by the first of the Pythons that is of a fitting version and can.
# One that works is kept: pip brings it up to date.
define make_venv
	@set -e; if $(1)/bin/python -m pip --version >/dev/null 2>&1; then exit 0; fi; \
	found=; \
	for python in $(or $(PYTHON),$(2)); do \
	    if $$python -c 'import sys, venv, ensurepip; \
	sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $(3)))' >/dev/null 2>&1; \
	    then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "Found no Python 3.11 to 3.$(3) that can make virtual environments" >&2; \
	    echo "(tried: $(or $(PYTHON),$(2)). On Debian and Ubuntu it also needs the" >&2; \
	    echo "package python3-venv.) Say which one to use: make PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	fi; \
	echo "== $(1): new environment of $$($$found --version)"; \
	$$found -m venv --clear $(1)
endef

.PHONY: help demo test test-slow test-lowest lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         set up, run the demonstration (DATA=digits or DATA=omniglot)"
	@echo "make test         set up, then lint, types, doctests and tests"
	@echo "make test-slow    the tests marked slow, which 'make test' leaves out"
	@echo "make test-lowest  the tests on the lowest supported dependencies"
	@echo "make lint         ruff and mypy"
	@echo "make format       format and mend what ruff can"
	@echo "make clean        remove the environments and caches"

demo: $(STAMP)
	@$(VENV)/bin/python examples/demo.py --data $(DATA)

test: lint
	@echo "== doctests and tests"
	@$(PYTEST)

test-slow: $(STAMP)
	@$(PYTEST) -m slow

# Doctests stay out: they show what the pinned versions print.
test-lowest: $(LOWEST_STAMP)
	@echo "== tests on the lowest supported dependencies"
	@OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q -n $(JOBS) --dist worksteal tests

lint: $(STAMP)
	@echo "== ruff check"
	@$(VENV)/bin/ruff check
	@echo "== ruff format"
	@$(VENV)/bin/ruff format --check
	@echo "== mypy"
	@$(VENV)/bin/mypy

format: $(STAMP)
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

clean:
	rm -rf $(VENV) $(LOWEST) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: an environment is made again only when what it is made from has changed.
$(STAMP): pyproject.toml requirements/dev.txt
	$(call make_venv,$(VENV),$(PYTHONS),14)
	@echo "== $(VENV): torch (a large download; see TORCH_INDEX in the Makefile for a smaller one)"
	@$(VENV)/bin/python -m pip install $(TORCH_FLAGS) -c requirements/dev.txt torch
	@echo "== $(VENV): sklmeta and its other dependencies"
	@$(VENV)/bin/python -m pip install $(PIP_FLAGS) -c requirements/dev.txt -e '.[dev]'
	@touch $@

$(LOWEST_STAMP): pyproject.toml requirements/lowest.txt
	$(call make_venv,$(LOWEST),$(LOWEST_PYTHONS),12)
	@echo "== $(LOWEST): torch $(LOWEST_TORCH)"
	@$(LOWEST)/bin/python -m pip install $(TORCH_FLAGS) -c requirements/lowest.txt \
	    torch==$(LOWEST_TORCH)
	@echo "== $(LOWEST): sklmeta and the lowest supported dependencies"
	@$(LOWEST)/bin/python -m pip install $(PIP_FLAGS) -c requirements/lowest.txt \
	    -e '.[plot,images,rl]' pytest pytest-xdist
	@touch $@
