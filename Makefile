# `make demo` and `make test` set up everything they need; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SEEDS ?= 1
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage test-all test-stack check format ui deploy clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv with every pinned version (nothing is done a second time)

# Before anything is installed, the interpreter is checked: the message must also be one that Python 2 can print.
CHECK_PYTHON = import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v[:2] < (3, 15) else \
  "Python 3.11, 3.12, 3.13 or 3.14 is needed, and $(PYTHON) is Python %d.%d: call make with PYTHON=/path/to/python3.13" % v[:2])

# The stamp is made last, so an interrupted set-up continues. `dataclasses` is a backport that img2dataset asks for; it
# shadows the standard library and ends Prefect's server at its start, and pip cannot be told to leave it out.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON): install Python 3.11 to 3.14 (on Debian and Ubuntu, apt install python3-venv), or call make with PYTHON=/path/to/python3.13"; exit 1; }
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,dev]'
	$(BIN)/pip uninstall --quiet --yes dataclasses 2>/dev/null || true
	@touch $(READY)

demo: setup  ## the whole chain at `tiny` scale on this machine; SEEDS=3 for the spread
	@$(BIN)/datacomp demo --seeds $(SEEDS)

test: setup  ## the tests (without those marked slow or gpu), in JOBS=2 processes
	$(BIN)/python -m pytest -m "not slow and not gpu" -n $(JOBS) --dist loadfile $(ARGS)

coverage: setup  ## the same tests with a report of the lines that none of them runs (takes half as long again)
	$(BIN)/python -m pytest -m "not slow and not gpu" -n $(JOBS) --dist loadfile --cov --cov-report=term:skip-covered $(ARGS)

test-all: setup  ## every test in random order (by module), types for the highest Python, then test-stack; gpu tests skip themselves without a device
	$(BIN)/python .ci/check_types.py 3.14
	$(BIN)/python -m pytest --random-order $(ARGS)
	$(MAKE) test-stack

test-stack: setup  ## build the image and run docker-compose.yml in a Docker engine of its own (as root; apt install docker.io debootstrap slirp4netns)
	DATACOMP_STACK_TESTS=1 $(BIN)/python -m pytest -m stack -v --durations=0 --durations-min=1 $(ARGS) tests/stack

check: setup  ## format, lint, layers, and types of what changed since the last time
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python .ci/check_types.py

format: setup  ## rewrite the code in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ui: setup  ## the Prefect UI over the runs made on this machine
	@$(BIN)/datacomp ui

deploy: setup  ## apply every deployment to the server named by PREFECT_API_URL
	@$(BIN)/datacomp deploy

clean:  ## remove the store, the local Prefect database and the pages (not .venv)
	rm -rf .datacomp
