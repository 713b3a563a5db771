"""Processes that work for a run: their answers, and what becomes of a call when one is killed."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from missing_bits.data.workers import WorkerKilled, Workers

# `eval` is a function that other processes can import and that does whatever a test wants.
PID = "__import__('os').getpid()"
KILL = f"__import__('os').kill({PID}, 9)"


@pytest.fixture
def workers():
    workers = Workers(eval, 2)
    yield workers
    workers.close()


def test_calls_are_answered_by_other_processes_in_their_order(workers):
    answers = [workers.submit(f"({number}, {PID})").result() for number in range(10)]
    assert [number for number, _ in answers] == list(range(10))
    processes = {process for _, process in answers}
    assert os.getpid() not in processes
    assert len(processes) == 2


def test_calls_come_from_many_threads(workers):
    """Evaluation reads pictures while a thread gathers the next batches."""
    with ThreadPoolExecutor(4) as threads:
        answers = threads.map(lambda number: workers.submit(str(number)).result(), range(40))
        assert list(answers) == list(range(40))


def test_a_process_killed_at_work_loses_its_call_alone(workers):
    lost = workers.submit(KILL)
    others = [workers.submit(str(number)) for number in range(10)]
    with pytest.raises(WorkerKilled):
        lost.result()
    assert [other.result() for other in others] == list(range(10))


def test_a_process_killed_while_idle_is_missed_at_its_next_call_and_replaced(workers):
    first = workers.submit(PID).result()
    second = workers.submit(PID).result()
    os.kill(first, signal.SIGKILL)
    with pytest.raises(WorkerKilled):
        workers.submit(PID).result()
    assert workers.submit(PID).result() == second
    assert workers.submit(PID).result() not in (first, second)


def test_a_large_call_with_a_large_answer(workers):
    text = "x" * (1 << 22)  # more than a pipe holds
    assert workers.submit(repr(text)).result() == text
