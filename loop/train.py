"""The one training loop: every method runs through `train`."""

import contextlib
import datetime
import importlib
import importlib.metadata
import math
import platform
import signal
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from missing_bits import options
from missing_bits.errors import UserError, remedy, require
from missing_bits.eval import statistics
from missing_bits.loop.checkpoint import Checkpoints, Saved
from missing_bits.loop.config import RunConfig
from missing_bits.loop.experiment import (
    Acting,
    DeviceSource,
    Experiment,
    Generating,
    HandingOver,
    Pretraining,
)
from missing_bits.loop.family import Family
from missing_bits.loop.folder import ENDED, read_json, read_rows
from missing_bits.loop.member import Member, mean
from missing_bits.loop.parallel import Layout
from missing_bits.loop.process import Guest
from missing_bits.loop.report import Report
from missing_bits.numeric import ceil_div
from missing_bits.pictures import canvas, curves

_VERSIONS = ("jax", "dm-haiku", "optax", "rlax", "gymnasium", "numpy", "scikit-learn")
Judge = Callable[[int, Mapping[str, float]], dict[str, str]]
"""(step, headline of each run, by the name of its folder) -> why some are given up."""
_MOST_INNER_STEPS = 1_000  # updates per call where no source limits them


class Interrupted(SystemExit):
    """SIGINT or SIGTERM arrived; the run was saved."""


class Result(NamedTuple):
    """What a finished run leaves."""

    scores: dict[str, Any]
    """What `result.json` holds: means over seeds, each seed's own, facts of the run."""
    folder: Path
    learned: list[Any]
    """What each seed has learned, as arrays on the host."""


def train(
    method: type[Experiment],
    config: Any = None,
    run: RunConfig | None = None,
    *,
    name: str = "",
    process: Guest | None = None,
) -> Result:
    """Trains a method from its start or its last checkpoint to the end of its budget.

        result = train(DQN, options.make(dqn.Config, env_steps=5_000), RunConfig(dir="runs/mine"))

    Args:
      method: the method's class.
      config: its configuration; None for the default.
      run: the options of the run.
      name: what the run is called in its folder; by default the class, as "module:Class".
      process: the process the run is in; by default somebody else's, in which nothing is touched.

    Raises:
      UserError: a mistake in the options, an unusable folder, or a disk that refused.
      Interrupted: the process was told to stop, and the run was saved.
    """
    process = process or Guest()
    name = name or f"{method.__module__}:{method.__qualname__}"
    run = run or RunConfig()
    if config is None:
        config = importlib.import_module(method.__module__).Config()
    member = Member(name, config, run, Path(run.dir) if run.dir else _new_path(name, run))
    _check(method, member)
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        stack.enter_context(process)
        process.before_computing(run.devices, run.compilation_cache)
        resources = method.resources(config)
        session = _Session(method, [member], resources, run.devices, process, stack, began)
        with session.saying_why_it_ends():
            session.write_new_configs()
            better = session.headline.larger_is_better
            checkpoints = Checkpoints(member.path / "checkpoints", better)
            stack.enter_context(contextlib.closing(checkpoints))
            found = checkpoints.load(run.start) if run.resume else None
            return session.run_to_the_end(checkpoints, found)[0]


def train_rows(
    method: type[Experiment],
    members: Sequence[Member],
    home: Path,
    judge: Judge | None = None,
    process: Guest | None = None,
) -> list[Result]:
    """Trains several runs as rows of one program, or goes on with them.

    They may differ in numbers that are arguments of the program (`options.row`) and in seeds. They
    share checkpoints; each has a folder of its own for all else. A run that is not finite or is
    given up stops, and says so in its folder; the rows of those given up are dropped.

    Args:
      method: the class of all.
      members: the runs.
      home: the folder of their checkpoints.
      judge: says which of them to give up; None for none.
      process: the process they are in, as of `train`.

    Returns:
      What each leaves that was not given up, in order.

    Raises:
      UserError, Interrupted: as `train`.
    """
    for member in members:
        _check(method, member)
    process = process or Guest()
    run = members[0].run
    with process:
        process.before_computing(run.devices, run.compilation_cache)
        resources = method.resources(members[0].config)
        better = method(members[0].config, resources).evaluation.headline.larger_is_better
        left = list(members)
        while left:
            began = time.perf_counter()
            with contextlib.ExitStack() as stack:
                checkpoints = Checkpoints(home / "checkpoints", better)
                stack.enter_context(contextlib.closing(checkpoints))
                found = checkpoints.load("last")
                left = _left(left, found)
                count = sum(len(member.seeds) for member in left)
                devices = max(n for n in range(1, run.devices + 1) if count % n == 0)
                session = _Session(method, left, resources, devices, process, stack, began)
                with session.saying_why_it_ends():
                    session.write_new_configs()
                    session.judge = judge
                    results = session.run_to_the_end(checkpoints, found)
                    if results:
                        return results
    return []


def _left(members: Sequence[Member], found: Saved | None) -> list[Member]:
    """Those whose rows go on after a checkpoint; the others are told so, if they were not yet."""
    if found is None:
        return list(members)
    kept = {label for label, _ in found.facts["members"]}
    left = [member for member in members if member.path.name in kept]
    for member in left:
        why = found.facts["dropped"].get(member.path.name)
        if why is not None and not member.has_ended:
            member.open()
            member.end("pruned", why, found.step)
            member.close()
    return [member for member in left if member.path.name not in found.facts["dropped"]]


def _check(method: type[Experiment], member: Member) -> None:
    options.check(member.run, "run.")
    options.check(member.config)
    method.check(member.config)


class _Session:
    """One process's part of a run, or of several: their state, and what is done when it is due.

    Args:
      method: the class.
      members: the runs, each with as many rows as seeds.
      resources: of the method.
      devices: to use.
      process: the process it is in.
      stack: closes what is opened here.
      began: when the clock was started.

    Raises:
      UserError: a folder, or what it holds, cannot be used.
    """

    def __init__(
        self,
        method: type[Experiment],
        members: Sequence[Member],
        resources: Any,
        devices: int,
        process: Guest,
        stack: contextlib.ExitStack,
        began: float,
    ) -> None:
        configs = [member.config for member in members for _ in member.seeds]
        seeds = [seed for member in members for seed in member.seeds]
        self.family = Family(method, configs, resources)
        self.experiment = self.family.first
        self.plan = self.experiment.plan
        self.headline = self.experiment.evaluation.headline
        process.knows_size(self.plan.small)
        self.layout = Layout(seeds, devices)
        self.layout.check_split(self.experiment, configs[0])
        self.source = self.experiment.source(seeds)
        self.host_source = None if isinstance(self.source, DeviceSource) else self.source
        if self.host_source is not None:
            stack.callback(self.host_source.close)
        for member in members:
            member.open()
            stack.callback(member.close)
        self.members = members
        self.judge: Judge | None = None
        self.asked = members[0].run
        self.run = self.asked.with_periods(self.plan.budget, self.plan.evaluations)
        self.process = process
        self.began = began

        self.quantum = self.plan.per_update
        period = self.run.eval_period
        # Steps of further evaluations, where curves are steep; none where periods are given.
        early = self.plan.early and not self.asked.eval_period
        self.early = [0, ceil_div(period, 4), ceil_div(period, 2)] if early else []
        self.end = ceil_div(self.plan.budget, self.quantum)
        most = self.host_source.inner_steps if self.host_source else _MOST_INNER_STEPS
        require(
            self.asked.inner_steps <= most,
            f"--run.inner-steps={self.asked.inner_steps}; this method allows at most {most} "
            "updates per call.",
        )
        self.inner_steps = min(self.asked.inner_steps or most, self.end)

        self.update = 0  # updates made
        self.window: Any = None  # of metrics, once their names are known
        is_acting = isinstance(self.experiment, Acting)
        self.acting = self.layout.acting(self.family) if is_acting else None
        self.stack = stack
        self.pending: Future[tuple[Any, Any]] | None = None  # an update that is computed beside
        self.begun = False  # whether anything has been trained or restored in this session
        self.before = 0.0  # seconds spent by earlier sessions
        self.compile_seconds = 0.0
        self.evaluation_seconds = 0.0
        self.first_update_seconds: float | None = None
        self.idle = 0.0  # seconds of this session spent on anything but training
        self.told = False  # that something is not finite
        # Why members were given up, by the names of their folders.
        self.dropped: dict[str, str] = {}

    @property
    def parts(self) -> list[tuple[Member, slice]]:
        """The members, each with its rows."""
        found = []
        first = 0
        for member in self.members:
            found.append((member, slice(first, first + len(member.seeds))))
            first += len(member.seeds)
        return found

    @contextlib.contextmanager
    def saying_why_it_ends(self) -> Iterator[None]:
        """Leaves `ended.json` where training ends before its budget is spent.

        What the user can mend becomes a `UserError` with the command that goes on.
        """
        for member in self.members:
            if not member.over:
                member.folder.remove(ENDED)
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            for member in self.members:
                with contextlib.suppress(OSError):  # the disk itself may be why
                    if not member.over:
                        state = "stopped" if stopped else "failed"
                        member.end(state, textwrap.shorten(_reason(error), 500), self.step)
            told = str(error)
            if isinstance(error, OSError) and error.errno:
                place = error.filename or self.members[0].path
                told = f"{place} cannot be written: {error.strerror}. {remedy(error)}"
                if self.begun:
                    told += " Nothing up to the last checkpoint is lost."
            elif not isinstance(error, UserError) or not self.begun:
                raise
            if self.begun:
                told = f"{told.removesuffix('.')}. {self.how_to_go_on}"
            raise UserError(told) from error

    def write_new_configs(self) -> None:
        """First: a run that is killed at any later moment can be resumed."""
        for member in self.members:
            if not member.run.resume:
                member.write_config(self.experiment)

    def run_to_the_end(self, checkpoints: Checkpoints, found: Saved | None) -> list[Result]:
        """Sets up or restores, trains, and leaves finished folders.

        Args:
          checkpoints: where to save.
          found: what to go on from; None for the start.

        Returns:
          What each member leaves; nothing if it ended at a step where some were given up.
        """
        with contextlib.ExitStack() as stack:
            self.checkpoints = checkpoints
            self.running = self.layout.init(self.family, self.source)
            self._restore(found)
            for member in self.members:
                member.write_config(self.experiment)
                member.begin(self.step)
            self.start_update = self.update
            self.clock = time.perf_counter()
            self.report = Report(self.plan, self.headline.name, self.step)
            stack.enter_context(contextlib.closing(self.report))
            if self.update < self.end:
                for member in self.members:
                    member.folder.set_aside_result()
                self.begun = True
                self._train()
                if self.dropped:
                    return []
            elif all(self._has_result(member) for member in self.members):
                self.learned = self.layout.learned(self.experiment, self.running)
            else:  # killed after its last checkpoint
                self._measure()
            self.wall_seconds = self._seconds()
            return [self._finish(*part) for part in self.parts]

    def _has_result(self, member: Member) -> bool:
        """Whether the scores of a finished run stand in its folder."""
        result = read_json(member.path / "result.json")
        return member.over or result.get(self.plan.unit) == self.step

    @property
    def step(self) -> int:
        """Budget units done."""
        return self.update * self.quantum

    def _train(self) -> None:
        def ask(*seen: np.ndarray) -> Any:
            return self.acting(self.running, *seen)

        updates = self.layout.updates(self.family, self.source)
        behind = self.plan.behind and self.host_source is not None
        if behind and self.acting.held is None:
            self.acting.hold(self.running)
        compiling = time.perf_counter()
        ready: list[Any] = []
        batches = None
        acted = False
        if self.host_source:
            acted = self._waits(self.update)
            ready = [self.host_source.next(ask, self.update)]
            batches = _stacked(ready, self.inner_steps)
        if self.window is None:
            self.window = self.layout.window(self.family, self.source, self.running, batches)
        # The first call makes no update: it compiles, apart from the clock of training.
        self.running, self.window = updates(self.running, self.window, batches, self.update, 0)
        jax.block_until_ready(self.running)
        self.compile_seconds = time.perf_counter() - compiling

        self.idle = 0.0
        self.clock = time.perf_counter()
        if self.update == 0 and 0 in self.early:
            self._evaluate()
        beside = self.stack.enter_context(ThreadPoolExecutor(1)) if behind else None
        while self.update < self.end:
            count = min(self.inner_steps, self._next_event() - self.update)
            if self.host_source:
                if not ready:
                    acted = self._waits(self.update)
                    ready = [self.host_source.next(ask, self.update)]
                while len(ready) < count and not self._waits(self.update + len(ready)):
                    ready.append(self.host_source.next(ask, self.update + len(ready)))
                count = len(ready)
                batches = _stacked(ready, self.inner_steps)
                ready = []
            self._wait()
            due = self.running, self.window, batches, self.update, count
            if beside is None:
                self.running, self.window = updates(*due)
            else:
                if acted:
                    self.acting.hold(self.running)
                self.pending = beside.submit(updates, *due)
            if self.first_update_seconds is None:
                self._wait()
                jax.block_until_ready(self.running)
                self.first_update_seconds = time.perf_counter() - self.began
            self.update += count
            if self._due(self.run.log_period):
                self._log()
            if self._to_be_evaluated():
                self._evaluate()
                self._judge()
            received = self.process.received
            is_last = self.update == self.end or self.dropped
            if self._due(self.run.checkpoint_period) or is_last or received:
                self._save()
            if self.dropped:
                self._drop()
                return
            if received and self.update < self.end:
                self._stop(received)
            self.report.progress(self.step, self._rate())

    def _waits(self, update: int) -> bool:
        """Whether the batch of an update needs actions by the parameters of the update before."""
        return self.acting is not None and self.host_source.waits(update)

    def _wait(self) -> None:
        """Waits for an update that is computed beside."""
        if self.pending is not None:
            self.running, self.window = self.pending.result()
            self.pending = None

    def _stop(self, received: int) -> NoReturn:
        """Names the command that resumes; leaves with the status shells use for the signal."""
        name = signal.Signals(received).name
        command = self.members[0].resume_command
        self.report.say(f"Stopped by {name}; the run is saved. Continue with:\n  {command}")
        raise Interrupted(128 + received)  # the status of shells

    def _next_event(self) -> int:
        """The first update after this one at which something is due."""
        periods = (self.run.log_period, self.run.eval_period, self.run.checkpoint_period)
        due = [(self.step // period + 1) * period for period in periods]
        due += [step for step in self.early if step > self.step]
        return min(self.end, *(ceil_div(step, self.quantum) for step in due))

    def _due(self, period: int) -> bool:
        return self.step // period > (self.step - self.quantum) // period

    def _to_be_evaluated(self) -> bool:
        early = any(self.step - self.quantum < step <= self.step for step in self.early)
        return early or self._due(self.run.eval_period) or self.update == self.end

    def _rate(self) -> float:
        seconds = time.perf_counter() - self.clock - self.idle
        done = (self.update - self.start_update) * self.quantum * len(self.layout.seeds)
        return done / max(seconds, 1e-9)

    def _log(self) -> None:
        """Writes the means over the window, and begins another."""
        self._wait()
        rows = self._means()
        self.window = self.layout.empty_window(list(self.window))
        for row, known in zip(rows, self._known(len(rows)), strict=True):
            row |= known
        self._write(rows)
        self._check_finite(rows)

    def _means(self) -> list[dict[str, float]]:
        """Each row's means over the window, of what was counted in it."""
        rows = []
        for window in self.layout.rows(self.window):
            means = {name: (float(mean.total), float(mean.count)) for name, mean in window.items()}
            rows.append({name: total / count for name, (total, count) in means.items() if count})
        return rows

    def _check_finite(self, rows: list[dict[str, float]]) -> None:
        """Ends the run of which a figure is not finite, or warns once: it learns no more."""
        for member, mine in self.parts:
            for seed, row in zip(member.seeds, rows[mine], strict=True):
                astray = [name for name, value in row.items() if not math.isfinite(value)]
                if astray and not member.over:
                    self._went_astray(member, seed, astray[0], row[astray[0]])

    def _went_astray(self, member: Member, seed: int, name: str, value: float) -> None:
        what = (
            f"{name} is {value} at step {self.step:,} (seed {seed}): the run has diverged, or its "
            "environment or data give values that are none"
        )
        if member.run.on_nan == "warn":
            if not self.told:
                warnings.warn(f"{what}. It goes on, as --run.on-nan=warn says.", stacklevel=2)
                self.told = True
            return
        others = [other for other in self.members if other is not member and not other.over]
        if others:  # rows of one program share a clock: its row goes on, unseen
            member.end("failed", what, self.step)
            return
        member.flags = ["--run.on-nan=warn"]
        raise UserError(
            f"{what}. A new run with a smaller step size often helps; this one is saved as it was "
            "before."
        )

    def _known(self, count: int) -> list[dict[str, float]]:
        return self.host_source.metrics() if self.host_source else [{}] * count

    def _write(self, rows: list[dict[str, float]]) -> None:
        facts = {"time/seconds": self._seconds(), "time/steps_per_second": self._rate()}
        for member, mine in self.parts:
            if not member.over:
                member.write(self.step, rows[mine], facts, self.headline)
        seen = [row for member, mine in self.parts if not member.over for row in rows[mine]]
        self.report.row(self.step, mean(seen, self.headline.name), self._rate())

    def _evaluate(self) -> None:
        self._wait()
        jax.block_until_ready(self.running)
        paused = time.perf_counter()
        self.report.doing("evaluating")
        self._measure()
        seconds = time.perf_counter() - paused
        self.idle += seconds
        self.evaluation_seconds += seconds
        self._write(self.scores)
        finite = [all(map(_is_finite, jax.tree.leaves(learned))) for learned in self.learned]
        parameters = [{"a parameter": 0.0 if good else math.nan} for good in finite]
        self._check_finite(parameters)
        self._check_finite(self.scores)

    def _judge(self) -> None:
        """Asks which members are to be given up."""
        if self.judge is None or self.update == self.end:
            return
        scores = {
            member.path.name: float(np.mean([row[self.headline.name] for row in self.scores[mine]]))
            for member, mine in self.parts
            if not member.over
        }
        dropped = self.judge(self.step, scores)
        if dropped:
            over = {member.path.name: "" for member in self.members if member.over}
            self.dropped = {**over, **dropped}

    def _drop(self) -> None:
        """Tells members that they were given up."""
        for member in self.members:
            if member.path.name in self.dropped and not member.over:
                member.end("pruned", self.dropped[member.path.name], self.step)

    def _measure(self) -> None:
        self.learned = self.layout.learned(self.experiment, self.running)
        last = self.update == self.end
        self.scores = []
        for i, (method, learned) in enumerate(zip(self.family.rows, self.learned, strict=True)):
            key = self.layout.evaluation_key(i, self.update)
            self.scores.append(method.evaluation.scores(learned, key, last))
        self.score = float(np.mean([row[self.headline.name] for row in self.scores]))

    def _seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    def _save(self) -> None:
        self._wait()
        jax.block_until_ready(self.running)
        paused = time.perf_counter()
        self._check_finite(self._means())  # rather the checkpoint before than one that is spoiled
        source = self.host_source.save() if self.host_source else {}
        remembers = self.acting is not None and self.acting.memory is not None
        holds = self.acting is not None and self.acting.held is not None
        everything = {
            "running": self.layout.fetch(self.experiment, self.running),
            "window": self.layout.by_row(self.window),
            "memory": self.layout.by_row(self.acting.memory) if remembers else None,
            "held": self.layout.by_row(self.acting.held) if holds else None,
            "source": source,
        }
        for member in self.members:
            member.folder.sync()
        facts = {
            "update": self.update,
            "members": [[member.path.name, len(member.seeds)] for member in self.members],
            "dropped": self.dropped,
            "written": [member.folder.rows for member in self.members],
            "seconds": self._seconds(),
            "source": sorted(source),
            "window": sorted(self.window),
            "remembers": remembers,
            "holds": holds,
        }
        score = self.score if self._to_be_evaluated() else None
        self.digest = self.checkpoints.save(self.step, everything, facts, score)
        self.idle += time.perf_counter() - paused

    def _restore(self, found: Saved | None) -> None:
        """Goes on from a checkpoint, of these members or of more; without one, from the start."""
        if found is None:
            for member in self.members:
                if member.run.resume:
                    member.folder.keep_rows(-1, 0)
            return
        facts = found.facts
        like = {
            "running": self.running,
            "window": self.layout.empty_window(facts["window"]),
            "memory": self.experiment.memory(1) if facts["remembers"] else None,
            "held": self.experiment.learned(self.running.state) if facts.get("holds") else None,
            "source": dict.fromkeys(facts["source"], 0),
        }
        saved = self._as(like, found.leaves)
        self.update = facts["update"]
        self.begun = True
        if len(self.members) > 1 or len(facts["members"]) > 1:
            mine = self._rows_in(facts["members"])
            saved = jax.tree.map(lambda x: x[mine], saved)
        self.running = self.layout.put(self.experiment, saved["running"])
        self.window = self.layout.of_rows(saved["window"])
        self.before = facts["seconds"]
        self.digest = facts["digest"]
        if facts["remembers"]:
            self.acting.memory = self.layout.of_rows(saved["memory"])
        if facts.get("holds"):
            self.acting.held = self.layout.of_rows(saved["held"])
        if self.host_source:
            self.host_source.restore(saved["source"])
        written = facts["written"]
        if len(facts["members"]) > 1:
            labels = [label for label, _ in facts["members"]]
            written = [written[labels.index(member.path.name)] for member in self.members]
        for member, rows in zip(self.members, written, strict=True):
            member.folder.keep_rows(self.step, rows)

    def _as(self, like: dict[str, Any], leaves: Sequence[np.ndarray]) -> dict[str, Any]:
        """What was saved, if it is of this version: as many arrays, of the state's shapes."""
        structure = jax.tree.structure(like)
        same = structure.num_leaves == len(leaves)
        if same:
            saved = jax.tree.unflatten(structure, leaves)
            state = jax.eval_shape(self.experiment.init, jax.random.key(0))
            same = all(
                before.shape[before.ndim - now.ndim :] == now.shape and before.dtype == now.dtype
                for name, part in state._asdict().items()
                if name not in self.experiment.plan.owned  # the others are as on one device
                for before, now in zip(
                    jax.tree.leaves(getattr(saved["running"].state, name)),
                    jax.tree.leaves(part),
                    strict=True,
                )
            )
        require(
            same,
            f"The checkpoint in {self.members[0].path} and this version of the suite differ in the "
            "arrays of the state: another version wrote it, with other networks. Go on with that "
            "version, or train anew in another --run.dir.",
        )
        return saved

    def _rows_in(self, members: Sequence[tuple[str, int]]) -> list[int]:
        """Where the rows of these members stand among those of more."""
        first: dict[str, int] = {}
        count = 0
        for label, rows in members:
            first[label] = count
            count += rows
        return [
            first[member.path.name] + i for member in self.members for i in range(len(member.seeds))
        ]

    @property
    def how_to_go_on(self) -> str:
        """A sentence with the command that continues this run."""
        return f"Continue with: {self.members[0].resume_command}"

    def _facts(self, member: Member, mine: slice) -> dict[str, Any]:
        """Scores of a member, and how they came about."""
        scores = self.scores[mine]
        seeds = zip(member.seeds, scores, strict=True)
        versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
        facts = {
            "exp": member.name,
            "seed": member.run.seed,
            "num_seeds": member.run.num_seeds,
            self.plan.unit: self.step,
            **mean(scores, self.headline.name),
            "seeds": [{"seed": seed, **row} for seed, row in seeds],
            "wall_seconds": self.wall_seconds,
            "compile_seconds": self.compile_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "first_update_seconds": self.first_update_seconds,
            "steps_per_second": self._rate() if self.update > self.start_update else None,
            "digest": self.digest,
            "devices": [f"{d.platform}:{d.device_kind}" for d in self.layout.devices],
            "versions": {"python": platform.python_version()} | versions,
        }
        protocol = self.experiment.evaluation.protocol
        if protocol:
            facts["protocol"] = {**protocol, "seeds": member.seeds}
        if isinstance(self.experiment, Pretraining | Generating):
            facts["data_digest"] = self.experiment.data_digest
        return facts

    def _finish(self, member: Member, mine: slice) -> Result:
        """Writes the result of a member, and then what may fail without costing it.

        What failed is named in it, and made when the run is resumed.
        """
        path = member.path
        learned = self.learned[mine]
        result = read_json(path / "result.json")
        if member.over:
            return Result(result, path, learned)
        if not self._has_result(member):
            result = self._facts(member, mine)
        elif not result.get("missing") and not self._lacks_what_it_hands_over(member):
            self.report.say(f"{path} holds a finished run: nothing is left to do.")
            return Result(result, path, learned)
        evaluation = self.experiment.evaluation
        baselines: dict[str, float] = {}
        parts: dict[str, Callable[[], None]] = {}
        if isinstance(self.experiment, HandingOver):
            parts[self._handed] = lambda: self._hand_over(member, learned, result["seeds"])
        parts["baselines"] = lambda: baselines.update(self._baselines(mine))
        parts["learning curve"] = lambda: self._draw_curve(member, baselines)
        parts["pictures"] = lambda: evaluation.pictures(learned[0], member.run.seed, path)
        begun = {**result, "missing": list(parts), "finishing": True}
        member.folder.write_json("result.json", begun)
        missing = [what for what, make in parts.items() if not self._made(member, what, make)]
        gone = ("missing", "finishing")
        result = {name: value for name, value in result.items() if name not in gone} | baselines
        if missing:
            result["missing"] = missing
        member.folder.write_json("result.json", result)
        told = ", ".join(_told(result, baselines, self.headline.name, evaluation.told))
        done = f"{self.step:,} {self.plan.unit.replace('_', ' ')}"
        self.report.say(f"{told} after {done}: {path}")
        return Result(result, path, learned)

    def _made(self, member: Member, what: str, make: Callable[[], None]) -> bool:
        """Whether a part of what a finished run leaves could be made; warns with the reason."""
        if self.process.received:
            self._stop(self.process.received)
        self.report.doing(what)
        try:
            make()
        except Exception as error:  # whatever it is, the run is finished
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
            warnings.warn(
                f"{what}: could not be made ({reason}). The scores stand in "
                f"{member.path / 'result.json'}; to try again: {member.resume_command}",
                stacklevel=2,
            )
            return False
        return True

    def _draw_curve(self, member: Member, baselines: dict[str, float]) -> None:
        """The headline's curve, and those of all measures the method wants drawn."""
        name = self.headline.name
        subject = canvas.subject(str(options.value(member.config, self.experiment.subject)))
        title = f"{member.name} on {subject}"
        rows = list(read_rows(member.path).rows)
        curves.draw(
            rows,
            name,
            self.plan.unit,
            title,
            member.path / "learning_curve.png",
            statistics.interval,
            _beside(baselines, name),
        )
        curves.panels(
            rows,
            self.plan.drawn,
            self.plan.unit,
            title,
            member.path / "curves.png",
            statistics.interval,
            lambda metric: _beside(baselines, metric),
        )

    def _hand_over(
        self, member: Member, learned: Sequence[Any], scores: Sequence[dict[str, float]]
    ) -> None:
        """Writes what each seed of a member hands over."""
        facts: dict[str, Any] = {
            "exp": member.name,
            "config": options.to_json(member.config),
            "step": self.step,
        }
        if isinstance(self.experiment, Pretraining | Generating):
            facts["data_digest"] = self.experiment.data_digest
        if self.experiment.evaluation.protocol:
            facts["protocol"] = dict(self.experiment.evaluation.protocol)
        for seed, mine, row in zip(member.seeds, learned, scores, strict=True):
            file = self._handed_file(member, seed)
            self.experiment.hand_over(mine, file, {**facts, "seed": seed, "scores": row})

    @property
    def _handed(self) -> str:
        """What is handed over: the name of its folder."""
        if isinstance(self.experiment, Generating):
            return "generator"
        return "encoder" if isinstance(self.experiment, Pretraining) else "policy"

    def _handed_file(self, member: Member, seed: int) -> Path:
        return member.path / self._handed / f"seed{seed}.safetensors"

    def _lacks_what_it_hands_over(self, member: Member) -> bool:
        """Whether a finished run has left nothing, as those of versions without policies."""
        hands_over = isinstance(self.experiment, HandingOver)
        return hands_over and not all(
            self._handed_file(member, seed).is_file() for seed in member.seeds
        )

    def _baselines(self, mine: slice) -> dict[str, float]:
        """What simpler methods reach in the same evaluation."""
        against = self.experiment.evaluation.against
        if against:
            self.report.say(f"Comparing with {against}.")
        rows = []
        for i in range(mine.start, mine.stop):
            key = self.layout.evaluation_key(i, 0)
            rows.append(self.family.rows[i].evaluation.baselines(key))
        return mean(rows, self.headline.name)


def _reason(error: BaseException) -> str:
    """Why a run ends, in a sentence."""
    if isinstance(error, Interrupted):
        return f"stopped by {signal.Signals(error.code - 128).name}"
    if isinstance(error, KeyboardInterrupt):
        return "stopped by a second Ctrl-C"
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _is_finite(leaf: np.ndarray) -> bool:
    return not jax.dtypes.issubdtype(leaf.dtype, np.inexact) or bool(np.isfinite(leaf).all())


def _told(
    result: Mapping[str, Any], baselines: dict[str, float], headline: str, others: Sequence[str]
) -> Iterator[str]:
    """The headline with the baselines of its measure, then other measures that are to be told.

    Where the headline has no baseline, so are the measures that have.
    """
    names = [headline]
    if not _beside(baselines, headline):
        names += [name for name in result if name.startswith("eval/") and _beside(baselines, name)]
    for name in dict.fromkeys([*names, *others]):
        beside = [f"{label} {value:.4g}" for label, value in _beside(baselines, name).items()]
        compared = f" ({', '.join(beside)})" if beside else ""
        value = result.get(name)
        shown = f"{value:.4g}" if isinstance(value, float) else "unknown"
        if name == headline or name in result:
            yield f"{name} {shown}{compared}"


def _beside(baselines: dict[str, float], headline: str) -> dict[str, float]:
    """Those of the headline's own measure: "baseline/random_knn_accuracy" as "random"."""
    measure = "_" + headline.partition("/")[2]
    return {
        name.removeprefix("baseline/").removesuffix(measure): value
        for name, value in baselines.items()
        if name.endswith(measure)
    }


def _stacked(batches: list[Any], length: int) -> Any:
    """Batches along a new axis K, the last repeated up to `length` so that shapes stay the same."""
    if length == 1:
        return jax.tree.map(lambda x: x[None], batches[0])
    batches = batches + [batches[-1]] * (length - len(batches))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _new_path(name: str, run: RunConfig) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    return Path("runs") / name.rpartition(":")[2] / f"{stamp}-seed{run.seed}"
