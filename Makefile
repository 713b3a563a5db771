# Each target is one command, to read as much as to run. PYTHON picks the interpreter.
PYTHON ?= python

.PHONY: install test lint format bench constraints

install:  ## the suite and what developing it takes, into the current environment
	$(PYTHON) -m pip install -r requirements-dev.txt

test:  ## all tests, in two processes; with many cores, pytest -n auto is faster
	$(PYTHON) -m pytest

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

bench:  ## speeds against the peers: DQN, replay, augmentation, training steps of pretraining and of networks on sequences
	$(PYTHON) benchmarks/dqn_speed.py
	$(PYTHON) benchmarks/minatar_speed.py
	$(PYTHON) benchmarks/replay_speed.py
	$(PYTHON) benchmarks/augment_speed.py
	$(PYTHON) benchmarks/barlow_speed.py
	$(PYTHON) benchmarks/masked_speed.py
	$(PYTHON) benchmarks/gpt_speed.py
	$(PYTHON) benchmarks/sequence_speed.py

constraints:  ## resolve every version anew on Python 3.11, 3.12 and 3.13
	$(PYTHON) .ci/constraints.py
