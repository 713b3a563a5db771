"""Trains the trials of a sweep, several at once, until all have ended."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TextIO

from missing_bits.loop.process import Guest, Owner
from missing_bits.sweeps.folder import Folder, Standing
from missing_bits.sweeps.machine import Executor, Job
from missing_bits.sweeps.pruners import Pruner

_PAUSE = 0.2  # seconds between two looks at the trials
_ATTEMPTS = 3  # at work whose process is killed
OVER = ("finished", "failed", "pruned")


class Stopped(Exception):
    """The sweep was asked to stop; its trials are saved."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class Watcher(Protocol):
    """What shows a person how the sweep goes."""

    def began(self, work: str) -> None:
        """Is told of work that begins."""

    def ended(self, name: str, standing: Standing, seconds: float) -> None:
        """Is told of a trial that ends."""

    def looked(self) -> None:
        """Is told after every look at what runs."""


class _Running(NamedTuple):
    job: Job
    claim: TextIO
    slot: int


class Drive:
    """Trains trials until all have ended.

    A piece of work is what one process does: a trial, or several that are rows of one program.

    Args:
      folder: of the sweep.
      works: the trials of each piece of work, by its name.
      arguments: maps the name of a work that has been claimed to the arguments of `run.py`.
      executor: where it runs.
      pruner: what gives up trials; None for none.
      resume: the command that goes on with the sweep, for folders of trials that end early.
      watcher: is told of what happens.
    """

    def __init__(
        self,
        folder: Folder,
        works: Mapping[str, Sequence[str]],
        arguments: Callable[[str], list[str]],
        executor: Executor,
        pruner: Pruner | None,
        resume: str,
        watcher: Watcher,
    ) -> None:
        self._folder = folder
        self._works = works
        self._arguments = arguments
        self._executor = executor
        self._pruner = pruner
        self._resume = resume
        self._watcher = watcher
        self._running: dict[str, _Running] = {}
        self._open = list(works)
        self._attempts = dict.fromkeys(works, 0)
        self._began: dict[str, float] = {}

    def run(self) -> None:
        """Starts work where there is room, until none is left, here or with others.

        Raises:
          Stopped: a signal came; all trials are saved.
        """
        with Owner() as process:
            self.drive(process)

    def drive(self, process: Guest) -> None:
        """As `run`, in a process whose signals somebody else takes."""
        try:
            while self._open or self._running:
                self._look()
                self._watcher.looked()
                if process.received:
                    raise Stopped(process.received)
                self._start()
                time.sleep(_PAUSE)
        finally:
            self._stop_all()

    def _start(self) -> None:
        """Takes up work that nobody does, in order, while there is room."""
        for name in list(self._open):
            if name in self._running:
                continue
            if all(self._folder.standing(trial).state in OVER for trial in self._works[name]):
                self._open.remove(name)
                continue
            if len(self._running) == self._executor.slots:
                return
            claim = self._folder.claim(name)
            if claim is None:  # somebody else is at it
                continue
            if all(self._folder.standing(trial).state in OVER for trial in self._works[name]):
                claim.close()  # somebody else has just done it
                continue
            taken = {one.slot for one in self._running.values()}
            slot = min(set(range(self._executor.slots)) - taken)
            self._began.setdefault(name, time.perf_counter())
            self._attempts[name] += 1
            try:
                arguments = self._arguments(name)
                self._watcher.began(name)
                job = self._executor.start(arguments, slot, self._folder.log_path(name), claim)
            except BaseException:
                claim.close()
                raise
            self._running[name] = _Running(job, claim, slot)

    def _look(self) -> None:
        """Takes note of what has ended, and gives up what is not worth going on."""
        for name, one in list(self._running.items()):
            status = one.job.poll()
            if status is None:
                if self._verdict(name) is not None:
                    one.job.stop()
                continue
            del self._running[name]
            self._end(name, status)
            one.claim.close()

    def _end(self, name: str, status: int) -> None:
        seconds = time.perf_counter() - self._began[name]
        is_pruned = self._prune(name)
        if not is_pruned and status < 0 and self._attempts[name] < _ATTEMPTS:
            return  # killed: it goes on from its checkpoint, when its turn comes again
        # Above 128 stand signals: somebody else stopped it, and it is saved.
        if not is_pruned and status and status <= 128:
            reason = _last_words(self._folder.log_path(name))
            if status < 0:
                killer = signal.Signals(-status).name
                reason = f"killed by {killer} {_ATTEMPTS} times, perhaps for want of memory"
            for trial in self._works[name]:
                if self._folder.standing(trial).state not in OVER:
                    self._folder.end(trial, "failed", reason, 0, self._resume)
        self._open.remove(name)
        for trial in self._works[name]:
            self._watcher.ended(trial, self._folder.standing(trial), seconds)

    def _prune(self, name: str) -> bool:
        """Whether a trial that has just ended is pruned, however far it got in the meantime."""
        verdict = self._verdict(name)
        if verdict is None:
            return False
        score = self._folder.curve(name)[verdict]
        why = f"pruned at step {verdict:,} with {score:.4g}"
        self._folder.end(name, "pruned", why, verdict, self._resume)
        return True

    def _verdict(self, name: str) -> int | None:
        """The step at which a trial is given up; None if it goes on."""
        budget = self._folder.budget(name)
        headline = self._folder.headline()
        if self._pruner is None or budget is None or headline is None:
            return None
        trials = [trial for trials in self._works.values() for trial in trials]
        others = [self._folder.curve(trial) for trial in trials if trial != name]
        mine = self._folder.curve(name)
        return self._pruner(mine, others, budget, headline.larger_is_better)

    def _stop_all(self) -> None:
        """Asks all that runs to save and stop, and waits; a second Ctrl-C ends them at once."""
        running = list(self._running.values())
        try:
            for one in running:
                one.job.stop()
            while any(one.job.poll() is None for one in running):
                time.sleep(_PAUSE)
        except KeyboardInterrupt:
            for one in running:
                one.job.kill()
            raise
        finally:
            for one in running:
                one.claim.close()


def _last_words(log: Path) -> str:
    """The last line of an output, which is where errors stand."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].removeprefix("error: ") if lines else "it said nothing"
