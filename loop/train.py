"""The one training loop: every method runs through `train`."""

import contextlib
import datetime
import importlib
import importlib.metadata
import math
import platform
import shlex
import signal
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from missing_bits import options
from missing_bits.errors import UserError, remedy, require
from missing_bits.eval import statistics
from missing_bits.loop import saved
from missing_bits.loop.checkpoint import Checkpoints
from missing_bits.loop.config import RunConfig
from missing_bits.loop.experiment import Acting, DeviceSource, Experiment, Pretraining, Source
from missing_bits.loop.family import Family
from missing_bits.loop.folder import ENDED, Ended, RunFolder, read_rows
from missing_bits.loop.parallel import Layout
from missing_bits.loop.process import Guest
from missing_bits.loop.report import Report
from missing_bits.numeric import ceil_div
from missing_bits.pictures import curves

_VERSIONS = ("jax", "dm-haiku", "optax", "rlax", "gymnasium", "numpy", "scikit-learn")
DOOR = Path(__file__).resolve().parents[1] / "run.py"
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
    began = time.perf_counter()
    process = process or Guest()
    name = name or f"{method.__module__}:{method.__qualname__}"
    run = run or RunConfig()
    if config is None:
        config = importlib.import_module(method.__module__).Config()
    options.check(run, "run.")
    options.check(config)
    method.check(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(process)
        process.before_computing(run.devices, run.compilation_cache)
        seeds = list(range(run.seed, run.seed + run.num_seeds))
        family = Family(method, [config] * len(seeds), method.resources(config))
        experiment = family.first
        process.knows_size(experiment.plan.small)
        layout = Layout(seeds, run.devices)
        layout.check_split(experiment, config)
        path = Path(run.dir) if run.dir else _new_path(name, run)
        source = experiment.source(seeds)
        if source is not None and not isinstance(source, DeviceSource):
            stack.callback(source.close)
        folder = stack.enter_context(contextlib.closing(RunFolder(path, run.resume)))
        if run.resume:
            saved.refuse_changes(saved.read(type(config), path), config, run, path)
        session = _Session(name, config, family, layout, source, folder, run, process, began)
        try:
            with session.saying_why_it_ends():
                return session.run_to_the_end()
        except OSError as error:
            if not error.errno:
                raise
            told = f"{error.filename or path} cannot be written: {error.strerror}. {remedy(error)}"
            if session.begun:
                told += f" Nothing up to the last checkpoint is lost. {session.how_to_go_on}"
            raise UserError(told) from error
        except UserError as error:
            if not session.begun:
                raise
            raise UserError(f"{error} {session.how_to_go_on}") from error


class _Session:
    """One process's part of a run: its state, and what is done with it when something is due."""

    def __init__(
        self,
        name: str,
        config: Any,
        family: Family,
        layout: Layout,
        source: Source | DeviceSource | None,
        folder: RunFolder,
        run: RunConfig,
        process: Guest,
        began: float,
    ) -> None:
        self.name = name
        self.config = config
        self.family = family
        self.experiment = family.first
        self.plan = self.experiment.plan
        self.headline = self.experiment.evaluation.headline
        self.layout = layout
        self.source = source
        self.host_source = None if isinstance(source, DeviceSource) else source
        self.folder = folder
        self.asked = run
        self.run = run.with_periods(self.plan.budget, self.plan.evaluations)
        self.process = process
        self.began = began

        self.quantum = self.plan.per_update
        period = self.run.eval_period
        # Steps of further evaluations, where curves are steep; none where periods are given.
        early = self.plan.early and not run.eval_period
        self.early = [0, ceil_div(period, 4), ceil_div(period, 2)] if early else []
        self.end = ceil_div(self.plan.budget, self.quantum)
        most = self.host_source.inner_steps if self.host_source else _MOST_INNER_STEPS
        require(
            run.inner_steps <= most,
            f"--run.inner-steps={run.inner_steps}; this method allows at most {most} updates per "
            "call.",
        )
        self.inner_steps = min(run.inner_steps or most, self.end)

        self.update = 0  # updates made
        self.window: Any = None  # of metrics, once their names are known
        self.acting = layout.acting(family) if isinstance(self.experiment, Acting) else None
        self.begun = False  # whether anything has been trained or restored in this session
        self.before = 0.0  # seconds spent by earlier sessions
        self.compile_seconds = 0.0
        self.first_update_seconds: float | None = None
        self.idle = 0.0  # seconds of this session spent on anything but training
        self.told = False  # that something is not finite
        self.flags: list[str] = []  # without which going on would end here again

    def run_to_the_end(self) -> Result:
        """Sets up or restores, trains, and leaves the finished folder."""
        path = self.folder.path
        if not self.asked.resume:  # first: a run that is killed at any later moment can be resumed
            self._write_config()
        with contextlib.ExitStack() as stack:
            checkpoints = Checkpoints(path / "checkpoints", self.headline.larger_is_better)
            self.checkpoints = stack.enter_context(contextlib.closing(checkpoints))
            self.running = self.layout.init(self.family, self.source)
            if self.asked.resume:
                self._restore()
                self._write_config()
            self.start_update = self.update
            self.clock = time.perf_counter()
            report = Report(path, self.plan, self.headline.name, self.step, list(self.layout.seeds))
            self.report = stack.enter_context(contextlib.closing(report))
            result = self.folder.read_json("result.json")
            if self.update < self.end:
                self.folder.set_aside_result()
                self.begun = True
                self._train()
                result = self._facts()
            elif result.get(self.plan.unit) != self.step:  # killed after its last checkpoint
                self._measure()
                result = self._facts()
            else:
                self.learned = self.layout.learned(self.experiment, self.running)
                if not result.get("missing"):
                    self.report.say(f"{path} holds a finished run: nothing is left to do.")
                    return Result(result, path, self.learned)
            return self._finish(result)

    @contextlib.contextmanager
    def saying_why_it_ends(self) -> Iterator[None]:
        """Leaves `ended.json` in the folder of a run that ends before its budget is spent."""
        self.folder.remove(ENDED)
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            ended = Ended(
                "stopped" if stopped else "failed",
                textwrap.shorten(_reason(error), 500),
                self.step,
                self.resume_command,
            )
            with contextlib.suppress(OSError):  # the disk itself may be why
                self.folder.write_json(ENDED, ended._asdict())
            raise

    def _write_config(self) -> None:
        before = self.folder.read_json("config.json")
        config = options.to_json(self.config)
        if before.get("config") != config:  # a new run, or one whose budget has grown
            run = before.get("run", options.to_json(self.asked))
            facts = {
                "subject": self.experiment.subject,
                "unit": self.plan.unit,
                "budget": self.plan.budget,
                "headline": self.headline._asdict(),
            }
            written = {"exp": before.get("exp", self.name), "config": config, "run": run, **facts}
            self.folder.write_json("config.json", written)

    @property
    def step(self) -> int:
        """Budget units done."""
        return self.update * self.quantum

    def _train(self) -> None:
        def ask(*seen: np.ndarray) -> Any:
            return self.acting(self.running, *seen)

        updates = self.layout.updates(self.family, self.source)
        compiling = time.perf_counter()
        ready: list[Any] = []
        batches = None
        if self.host_source:
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
        while self.update < self.end:
            count = min(self.inner_steps, self._next_event() - self.update)
            if self.host_source:
                more = range(self.update + len(ready), self.update + count)
                ready += [self.host_source.next(ask, update) for update in more]
                batches = _stacked(ready, self.inner_steps)
                ready = []
            self.running, self.window = updates(
                self.running, self.window, batches, self.update, count
            )
            if self.first_update_seconds is None:
                jax.block_until_ready(self.running)
                self.first_update_seconds = time.perf_counter() - self.began
            self.update += count
            if self._due(self.run.log_period):
                self._log()
            if self._to_be_evaluated():
                self._evaluate()
            received = self.process.received
            if self._due(self.run.checkpoint_period) or self.update == self.end or received:
                self._save()
            if received and self.update < self.end:
                self._stop(received)
            self.report.progress(self.step, self._rate())

    def _stop(self, received: int) -> NoReturn:
        """Names the command that resumes; leaves with the status shells use for the signal."""
        name = signal.Signals(received).name
        self.report.say(
            f"Stopped by {name}; the run is saved. Continue with:\n  {self.resume_command}"
        )
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
        """Stops, or warns once, where a row's figure is not finite: such a run learns no more."""
        for seed, row in zip(self.layout.seeds, rows, strict=True):
            astray = [name for name, value in row.items() if not math.isfinite(value)]
            if not astray:
                continue
            what = (
                f"{astray[0]} is {row[astray[0]]} at step {self.step:,} (seed {seed}): the run has "
                "diverged, or its environment or data give values that are none"
            )
            if self.asked.on_nan == "stop":
                self.flags = ["--run.on-nan=warn"]
                raise UserError(
                    f"{what}. A new run with a smaller step size often helps; this one is saved as "
                    "it was before."
                )
            if not self.told:
                warnings.warn(f"{what}. It goes on, as --run.on-nan=warn says.", stacklevel=2)
                self.told = True

    def _known(self, count: int) -> list[dict[str, float]]:
        return self.host_source.metrics() if self.host_source else [{}] * count

    def _write(self, rows: list[dict[str, float]]) -> None:
        """Writes a row per seed, and one of their means where there are several seeds."""
        facts = {"time/seconds": self._seconds(), "time/steps_per_second": self._rate()}
        written: list[dict[str, Any]] = [
            {"step": self.step, "seed": seed, **row, **facts}
            for seed, row in zip(self.layout.seeds, rows, strict=True)
        ]
        if len(rows) > 1:
            written.append({"step": self.step, **_mean(rows, self.headline.name), **facts})
        self.folder.append(written)
        self.report.rows(written, self._rate())

    def _evaluate(self) -> None:
        jax.block_until_ready(self.running)
        paused = time.perf_counter()
        self.report.doing("evaluating")
        self._measure()
        self.idle += time.perf_counter() - paused
        self._write(self.scores)
        finite = [all(map(_is_finite, jax.tree.leaves(learned))) for learned in self.learned]
        parameters = [{"a parameter": 0.0 if good else math.nan} for good in finite]
        self._check_finite(parameters)
        self._check_finite(self.scores)

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
        jax.block_until_ready(self.running)
        paused = time.perf_counter()
        self._check_finite(self._means())  # rather the checkpoint before than one that is spoiled
        source = self.host_source.save() if self.host_source else {}
        memory = jax.device_get(self.acting.memory) if self.acting else None
        everything = {
            "running": self.layout.fetch(self.experiment, self.running),
            "window": jax.device_get(self.window),
            "memory": memory,
            "source": source,
        }
        self.folder.sync()
        facts = {
            "update": self.update,
            "rows": self.folder.rows,
            "seconds": self._seconds(),
            "source": sorted(source),
            "window": sorted(self.window),
            "remembers": memory is not None,
        }
        score = self.score if self._to_be_evaluated() else None
        self.digest = self.checkpoints.save(self.step, everything, facts, score)
        self.idle += time.perf_counter() - paused

    def _restore(self) -> None:
        found = self.checkpoints.load(self.asked.start)
        if found is None:
            self.folder.keep_rows(-1, 0)
        else:
            _, leaves, facts = found
            self.update = facts["update"]
            self.begun = True
            like = {
                "running": self.running,
                "window": self.layout.empty_window(facts["window"]),
                "memory": self.experiment.memory(1) if facts["remembers"] else None,
                "source": dict.fromkeys(facts["source"], 0),
            }
            saved = jax.tree.unflatten(jax.tree.structure(like), leaves)
            self.running = self.layout.put(self.experiment, saved["running"])
            self.window = self.layout.put_all(saved["window"])
            self.before = facts["seconds"]
            self.digest = facts["digest"]
            if facts["remembers"]:
                self.acting.memory = self.layout.put_all(saved["memory"])
            if self.host_source:
                self.host_source.restore(saved["source"])
            self.folder.keep_rows(self.step, facts["rows"])

    @property
    def resume_command(self) -> str:
        """What continues this run, from any folder; code is named again, as it must be."""
        folder = self.folder.path.absolute()
        options_of_run = [f"--run.dir={folder}", "--run.resume", *self.flags]
        arguments = [f"--exp={self.name}", *options.code_flags(self.config), *options_of_run]
        return f"python {shlex.join([str(DOOR), *arguments])}"

    @property
    def how_to_go_on(self) -> str:
        """A sentence with the command that continues this run."""
        return f"Continue with: {self.resume_command}"

    def _facts(self) -> dict[str, Any]:
        """Scores, and how they came about."""
        seeds = zip(self.layout.seeds, self.scores, strict=True)
        versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
        facts = {
            "exp": self.name,
            "seed": self.run.seed,
            "num_seeds": self.run.num_seeds,
            self.plan.unit: self.step,
            **_mean(self.scores, self.headline.name),
            "seeds": [{"seed": seed, **row} for seed, row in seeds],
            "wall_seconds": self._seconds(),
            "compile_seconds": self.compile_seconds,
            "first_update_seconds": self.first_update_seconds,
            "steps_per_second": self._rate() if self.update > self.start_update else None,
            "digest": self.digest,
            "devices": [f"{d.platform}:{d.device_kind}" for d in self.layout.devices],
            "versions": {"python": platform.python_version()} | versions,
        }
        if isinstance(self.experiment, Pretraining):
            facts["data_digest"] = self.experiment.data_digest
        return facts

    def _finish(self, result: dict[str, Any]) -> Result:
        """Writes the result, and then what may fail without costing it.

        What failed is named in it, and made when the run is resumed.
        """
        path = self.folder.path
        evaluation = self.experiment.evaluation
        baselines: dict[str, float] = {}
        parts: dict[str, Callable[[], None]] = {}
        if isinstance(self.experiment, Pretraining):
            parts["encoder"] = lambda: self._hand_over(result["seeds"])
        parts["baselines"] = lambda: baselines.update(self._baselines())
        parts["learning curve"] = lambda: self._draw_curve(baselines)
        parts["pictures"] = lambda: evaluation.pictures(self.learned[0], self.run.seed, path)
        begun = {**result, "missing": list(parts), "finishing": True}
        self.folder.write_json("result.json", begun)
        missing = [what for what, make in parts.items() if not self._made(what, make)]
        gone = ("missing", "finishing")
        result = {name: value for name, value in result.items() if name not in gone} | baselines
        if missing:
            result["missing"] = missing
        self.folder.write_json("result.json", result)
        name = self.headline.name
        beside = [f"{label} {value:.4g}" for label, value in _beside(baselines, name).items()]
        compared = f" ({', '.join(beside)})" if beside else ""
        done = f"{self.step:,} {self.plan.unit.replace('_', ' ')}"
        score = result.get(name)
        shown = f"{score:.4g}" if isinstance(score, float) else "unknown"
        self.report.say(f"{name} {shown}{compared} after {done}: {path}")
        return Result(result, path, self.learned)

    def _made(self, what: str, make: Callable[[], None]) -> bool:
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
                f"{self.folder.path / 'result.json'}; to try again: {self.resume_command}",
                stacklevel=2,
            )
            return False
        return True

    def _draw_curve(self, baselines: dict[str, float]) -> None:
        name = self.headline.name
        curves.draw(
            read_rows(self.folder.path).rows,
            name,
            self.plan.unit,
            f"{self.name} on {options.value(self.config, self.experiment.subject)}",
            self.folder.path / "learning_curve.png",
            statistics.interval,
            _beside(baselines, name),
        )

    def _hand_over(self, scores: Sequence[dict[str, float]]) -> None:
        """Writes each seed's encoder."""
        facts = {
            "exp": self.name,
            "config": options.to_json(self.config),
            "step": self.step,
            "data_digest": self.experiment.data_digest,
        }
        for seed, learned, row in zip(self.layout.seeds, self.learned, scores, strict=True):
            file = self.folder.path / "encoder" / f"seed{seed}.safetensors"
            self.experiment.hand_over(learned, file, {**facts, "scores": row})

    def _baselines(self) -> dict[str, float]:
        """What simpler methods reach in the same evaluation."""
        against = self.experiment.evaluation.against
        if against:
            self.report.say(f"Comparing with {against}.")
        rows = []
        for i, method in enumerate(self.family.rows):
            rows.append(method.evaluation.baselines(self.layout.evaluation_key(i, 0)))
        return _mean(rows, self.headline.name)


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


def _mean(rows: Sequence[dict[str, float]], headline: str) -> dict[str, float]:
    """Means over seeds of what all have, and the 95 % interval of the headline of several."""
    names = [
        name
        for name in rows[0]
        if "/" in name and not name.startswith("time/") and all(name in row for row in rows)
    ]
    mean = {name: float(np.mean([row[name] for row in rows])) for name in names}
    if headline in mean and len(rows) > 1:
        low, high = statistics.interval([row[headline] for row in rows])
        mean |= {f"{headline}_low": low, f"{headline}_high": high}
    return mean


def _new_path(name: str, run: RunConfig) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    return Path("runs") / name.rpartition(":")[2] / f"{stamp}-seed{run.seed}"
