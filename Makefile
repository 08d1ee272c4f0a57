# make train   set up, train the quickstart model, print where its report is
# make test    set up, run linters and all tests
# make check   linters, types and the fast part of the tests, for the inner loop
# make test-long   what takes longer than `make test` should, run by hand
# make lint    linters and types alone, the Dockerfile's too
# make clean   remove the environment and the quickstart run

# The first Python of 3.11 or later that runs; override with PYTHON=...
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
VENV ?= .venv
WORKDIR ?= runs/quickstart
BIN := $(VENV)/bin
# Python compiles what it imports; the rest of the packages is never run.
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL := install --no-compile
# Two processes, each with tests that are neighbours: they share programs.
TWO := -n 2 --dist worksteal

.PHONY: train test check test-long lint slurm clean
.DELETE_ON_ERROR:

train: $(VENV)/train.done
	$(BIN)/python train.py --config=configs/lm.py:quickstart \
		--workdir=$(WORKDIR)

test: $(VENV)/test.done $(VENV)/cuda.done $(VENV)/xpk.done lint slurm
	$(BIN)/python -m pytest $(TWO) $(PYTEST_ARGS)

check: lint
	$(BIN)/python -m pytest $(TWO) -m 'not slow and not long' $(PYTEST_ARGS)

test-long: $(VENV)/test.done
	$(BIN)/python -m pytest $(TWO) -m long $(PYTEST_ARGS)

lint: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

# The programs of a SLURM cluster on this machine, for its tests.
slurm:
	@tests/launch/backends/slurm/install.sh

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or later"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/train.done: requirements.txt $(VENV)/bin/python
	$(PIP) $(INSTALL) -r requirements.txt
	touch $@

$(VENV)/test.done: requirements-test.txt requirements.txt $(VENV)/bin/python
	$(PIP) $(INSTALL) -r requirements-test.txt
	touch $@

# The CUDA compiler: where launch.plan looks for it.
$(VENV)/cuda.done: requirements-cuda.txt $(VENV)/bin/python
	rm -rf $(VENV)/cuda
	$(PIP) $(INSTALL) --no-deps --target $(VENV)/cuda \
		-r requirements-cuda.txt
	touch $@

# xpk's pins are not ours: it has an environment of its own.
$(VENV)/xpk.done: requirements-xpk.txt $(VENV)/bin/python
	$(PYTHON) -m venv --without-pip $(VENV)/xpk
	$(PIP) --python $(VENV)/xpk/bin/python $(INSTALL) --no-deps \
		-r requirements-xpk.txt
	touch $@

clean:
	rm -rf $(VENV) $(WORKDIR)
