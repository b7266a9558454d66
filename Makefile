# Everything a person or CI runs. Needs Python 3.11+ and make; the rest is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Three workers suit a two-core machine, since many tests wait for processes. A file stays with one worker, since some
# share a running Dagster; in the order of the folders, since a file that takes long must not come last.
TEST_WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help venv demo test check format bench lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## build .venv from the lock, with hashes

# uv is some five times faster than pip; where it cannot be had, pip does the same. Bytecode is compiled once, here:
# a run is a process of its own, and compiling Dagster and pandas anew in each would cost more than its work.
$(STAMP): requirements.lock pyproject.toml setup.cfg
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	if $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; then \
	  env -u PYTHONDONTWRITEBYTECODE $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock && \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ; \
	fi
	touch $@

demo: $(STAMP)  ## everything on this machine: databases, stand-ins, Dagster, one cycle; Ctrl-C stops it
	@$(BIN)/symvanta demo

test: $(STAMP)  ## the whole test suite
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

check: $(STAMP)  ## lint, format, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## what a cycle costs, beside a floor measured in the same run
	$(BIN)/python bench/cycle.py

lock: $(STAMP)  ## pin requirements.lock anew
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-strip-extras --no-header --no-annotate \
	  --python-version 3.11 --extra sandbox --group dev --upgrade pyproject.toml --output-file requirements.lock

clean:  ## remove what was built; the demo's data in .symvanta stays
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
