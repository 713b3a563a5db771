"""Processes that work for a run: they outlive the signals that it gets, but not the run itself.

Schedulers and terminals signal all processes of a run, which then still needs its workers until it
has saved. So workers ignore SIGINT and SIGTERM, and end when the pipe to the run closes, however
the run has ended.

`concurrent.futures.ProcessPoolExecutor` cannot have such workers. Once one is killed, it sends
SIGTERM to all others and waits until they are gone, holding the lock that each new request needs.
"""

import atexit
import contextlib
import multiprocessing
import queue
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any


class WorkerKilled(Exception):
    """The process that worked on a call is gone; another takes its place."""


class Workers:
    """Processes that call one function. They start when first needed.

    Args:
      function: stands at the top of a module, for the processes to import; must not raise.
      count: of processes.
    """

    def __init__(self, function: Callable[..., Any], count: int) -> None:
        self.count = count
        self._threads = ThreadPoolExecutor(count, "workers")  # each waits for one process
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(_Worker(function))
        # Before multiprocessing's own function at exit, which waits for all processes to end.
        atexit.register(self.close)

    def submit(self, *arguments: Any) -> Future[Any]:
        """Calls the function in one of the processes.

        Returns:
          What it will return; its `result` raises `WorkerKilled` if the process is killed.
        """
        return self._threads.submit(self._call, arguments)

    def close(self) -> None:
        """Waits for the calls under way, then lets the processes end."""
        self._threads.shutdown()
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def _call(self, arguments: tuple[Any, ...]) -> Any:
        worker = self._idle.get()
        try:
            return worker.call(arguments)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process at a time, and this end of the pipe to it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._pipe: Connection | None = None

    def call(self, arguments: tuple[Any, ...]) -> Any:
        if self._pipe is None:
            self._pipe = self._start()
        try:
            self._pipe.send(arguments)
            return self._pipe.recv()
        except (EOFError, OSError):  # so a pipe tells that nobody is at its other end
            self.close()
        raise WorkerKilled  # without the pipe's error, which would keep buffers of the pipe

    def close(self) -> None:
        """Lets the process end; the next call starts another."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _start(self) -> Connection:
        # A fork would inherit JAX's threads in the middle of their work.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, self._function)).start()
        theirs.close()  # so that the pipe breaks when the process is gone
        return ours


def _serve(pipe: Connection, function: Callable[..., Any]) -> None:
    """What a process does: answers calls until the pipe closes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            arguments = pipe.recv()
            pipe.send(function(*arguments))
