# Each target is one command, to read as much as to run. PYTHON picks the interpreter.
PYTHON ?= python

.PHONY: install test lint format bench constraints

install:  ## the suite and what developing it takes, into the current environment
	$(PYTHON) -m pip install -r requirements-dev.txt

test:  ## all tests; with many cores, pytest -n auto is faster
	$(PYTHON) -m pytest

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

bench:  ## environment steps per second of DQN against its peers
	$(PYTHON) benchmarks/dqn_speed.py

constraints:  ## resolve every version anew on Python 3.11, 3.12 and 3.13
	$(PYTHON) .ci/constraints.py
