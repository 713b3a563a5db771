"""The one training loop: every experiment runs through `train`."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import os
import platform
import shlex
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from missing_bits.errors import UserError, require
from missing_bits.eval import statistics
from missing_bits.loop import config as run_config
from missing_bits.loop.checkpoint import Checkpoints
from missing_bits.loop.experiment import Acting, Experiment, Pretraining
from missing_bits.loop.folder import RunFolder, read_rows
from missing_bits.loop.parallel import Layout
from missing_bits.loop.report import Report
from missing_bits.pictures import curves

_VERSIONS = ("jax", "dm-haiku", "optax", "rlax", "gymnasium", "numpy", "scikit-learn")


class Interrupted(SystemExit):
    """SIGINT or SIGTERM arrived; the run was saved."""


def train(
    name: str, experiment_class: Callable[[Any], Experiment], config: Any, run: run_config.RunConfig
) -> None:
    """Trains an experiment from its start or its last checkpoint to the end of its budget.

    Args:
      name: its name in the table of `run.py`.
      experiment_class: makes the experiment from its configuration.
      config: the experiment's configuration.
      run: the options of the run.

    Raises:
      UserError: a mistake in the options, an unusable folder, or a disk that refused.
      Interrupted: the run was told to stop, and was saved.
    """
    began = time.perf_counter()
    run_config.check(run)
    # The loop waits for every small answer anyway: handing it to another thread doubles its time on the CPU.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if run.compilation_cache:
        _keep_compiled_programs()
    seeds = list(range(run.seed, run.seed + run.num_seeds))
    experiment = _make(experiment_class, config, run.devices)
    layout = Layout(seeds, run.devices)
    layout.check_split(experiment)
    run = run.with_periods(experiment.budget, experiment.evaluations)
    path = Path(run.dir) if run.dir else _new_path(name, run)
    with contextlib.ExitStack() as stack:
        source = experiment.source(seeds)
        if source is not None:
            stack.callback(source.close)
        folder = stack.enter_context(contextlib.closing(RunFolder(path, run.resume)))
        try:
            _Session(name, experiment, layout, source, folder, run, began).run_to_the_end()
        except OSError as error:
            raise UserError(
                f"{error.filename or path} cannot be written: {error.strerror}. Free some space and continue with "
                "--run.resume; nothing up to the last checkpoint is lost."
            ) from error


class _Session:
    """One process's part of a run: its state, and what is done with it at log, evaluation and checkpoint points."""

    def __init__(
        self, name: str, experiment: Experiment, layout: Layout, source: Any, folder: RunFolder,
        run: run_config.RunConfig, began: float,
    ) -> None:  # fmt: skip
        self.name, self.experiment, self.layout, self.source = name, experiment, layout, source
        self.folder, self.run, self.began = folder, run, began
        self.quantum = experiment.unit_per_update
        self.end = -(-experiment.budget // self.quantum)
        most = source.inner_steps if source else 1_000
        require(
            run.inner_steps <= most,
            f"--run.inner-steps={run.inner_steps}; this experiment allows at most {most} updates per call.",
        )
        self.inner_steps = min(run.inner_steps or most, self.end)
        self.update, self.before = 0, 0.0  # updates made; seconds spent by earlier sessions
        self.compile_seconds, self.first_update_seconds = 0.0, None
        self.idle = 0.0  # seconds of this session spent on anything but training

    def run_to_the_end(self) -> None:
        """Sets up or restores, trains, and leaves the finished folder."""
        path, experiment = self.folder.path, self.experiment
        if (
            not self.run.resume
        ):  # first of all: a run that is killed at any later moment can be resumed
            config, run = run_config.to_json(experiment.config), run_config.to_json(self.run)
            self.folder.write_json("config.json", {"exp": self.name, "config": config, "run": run})
        with contextlib.ExitStack() as stack:
            signals = stack.enter_context(_Signals())
            self.checkpoints = stack.enter_context(
                contextlib.closing(Checkpoints(path / "checkpoints"))
            )
            self.state = self.layout.init(experiment)
            if self.run.resume:
                self._restore()
            self.start_update, self.clock = self.update, time.perf_counter()
            report = Report(
                path, experiment.unit, experiment.budget, self.step, list(self.layout.seeds)
            )
            self.report = stack.enter_context(contextlib.closing(report))
            if self.update < self.end:
                self._train(signals)
            elif (path / "result.json").exists():
                self.report.say(f"{path} holds a finished run: nothing is left to do.")
                return
            else:  # killed after its last checkpoint
                self._measure()
            self._finish()

    @property
    def step(self) -> int:
        """Budget units done."""
        return self.update * self.quantum

    def _train(self, signals: "_Signals") -> None:
        updates = self.layout.updates(self.experiment)
        acting = (
            self.layout.acting(self.experiment) if isinstance(self.experiment, Acting) else None
        )

        def ask(*observations: Any) -> np.ndarray:
            return acting(self.state, *observations)

        compiling = time.perf_counter()
        ready = [self.source.next(ask, self.update)] if self.source else []
        batches = _stack(ready, self.inner_steps) if self.source else None
        # The first call makes no update: it compiles, apart from the clock of training.
        self.state, metrics = updates(self.state, batches, self.update, 0)
        jax.block_until_ready(self.state)
        self.compile_seconds = time.perf_counter() - compiling

        self.idle, self.clock = 0.0, time.perf_counter()
        while self.update < self.end:
            count = min(self.inner_steps, self._next_event() - self.update)
            if self.source:
                ready += [self.source.next(ask, self.update + i) for i in range(len(ready), count)]
                batches, ready = _stack(ready, self.inner_steps), []
            self.state, metrics = updates(self.state, batches, self.update, count)
            if self.first_update_seconds is None:
                jax.block_until_ready(metrics)
                self.first_update_seconds = time.perf_counter() - self.began
            self.update += count
            if self._due(self.run.log_period):
                self._log(metrics)
            if self._due(self.run.eval_period) or self.update == self.end:
                self._evaluate()
            if self._due(self.run.checkpoint_period) or self.update == self.end or signals.received:
                self._save()
            if signals.received and self.update < self.end:
                raise Interrupted(signals.tell(self.resume_command))
            self.report.progress(self.step, self._rate())

    def _next_event(self) -> int:
        """The first update after this one at which something is due."""
        periods = (self.run.log_period, self.run.eval_period, self.run.checkpoint_period)
        return min(
            self.end,
            *(-(-(self.step // period + 1) * period // self.quantum) for period in periods),
        )

    def _due(self, period: int) -> bool:
        return self.step // period > (self.step - self.quantum) // period

    def _rate(self) -> float:
        seconds = time.perf_counter() - self.clock - self.idle
        return (
            (self.update - self.start_update)
            * self.quantum
            * len(self.layout.seeds)
            / max(seconds, 1e-9)
        )

    def _log(self, metrics: Any) -> None:
        rows = [
            {name: float(value) for name, value in row.items()} for row in self.layout.rows(metrics)
        ]
        for row, known in zip(
            rows, self.source.metrics() if self.source else [{}] * len(rows), strict=True
        ):
            row |= known
        self._write(rows)

    def _write(self, rows: list[dict[str, float]]) -> None:
        """Writes a row per seed, and one of their means where there are several seeds."""
        facts = {"time/seconds": self._seconds(), "time/steps_per_second": self._rate()}
        rows = [
            {"step": self.step, "seed": seed, **row, **facts}
            for seed, row in zip(self.layout.seeds, rows, strict=True)
        ]
        if len(rows) > 1:
            rows.append({"step": self.step, **_mean(rows, self.experiment.headline), **facts})
        self.folder.append(rows)
        self.report.rows(rows, self._rate())

    def _evaluate(self) -> None:
        jax.block_until_ready(self.state)
        paused = time.perf_counter()
        self._measure()
        self.idle += time.perf_counter() - paused
        self._write(self.evaluation)

    def _measure(self) -> None:
        self.learned = self.layout.learned(self.experiment, self.state)
        self.evaluation = [
            self.experiment.evaluate(row, self.layout.evaluation_key(i, self.update))
            for i, row in enumerate(self.learned)
        ]
        self.headline = float(np.mean([row[self.experiment.headline] for row in self.evaluation]))

    def _seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    def _save(self) -> None:
        jax.block_until_ready(self.state)
        paused = time.perf_counter()
        state = jax.device_get(self.state)
        source = self.source.save() if self.source else {}
        facts = {"seconds": self._seconds(), "source": sorted(source)}
        evaluated = self._due(self.run.eval_period) or self.update == self.end
        self.digest = self.checkpoints.save(
            self.update, (state, source), facts, self.headline if evaluated else None
        )
        self.idle += time.perf_counter() - paused

    def _restore(self) -> None:
        found = self.checkpoints.latest()
        if found is not None:
            self.update, leaves, facts = found
            structure = jax.tree.structure((self.state, dict.fromkeys(facts["source"], 0)))
            state, source = jax.tree.unflatten(structure, leaves)
            self.state, self.before, self.digest = (
                self.layout.put(state),
                facts["seconds"],
                facts["digest"],
            )
            if self.source:
                self.source.restore(source)
        self.folder.keep_rows(self.step)

    @property
    def resume_command(self) -> str:
        return f"python run.py --exp={self.name} --run.dir={shlex.quote(str(self.folder.path))} --run.resume"

    def _finish(self) -> None:
        unit, path = self.experiment.unit, self.folder.path
        result = {
            "exp": self.name,
            "seed": self.run.seed,
            "num_seeds": self.run.num_seeds,
            unit: self.step,
            **_mean(self.evaluation, self.experiment.headline),
            "seeds": [
                {"seed": s, **row}
                for s, row in zip(self.layout.seeds, self.evaluation, strict=True)
            ],
            "wall_seconds": self._seconds(),
            "compile_seconds": self.compile_seconds,
            "first_update_seconds": self.first_update_seconds,
            "steps_per_second": self._rate() if self.update > self.start_update else None,
            "digest": self.digest,
            "devices": [f"{d.platform}:{d.device_kind}" for d in self.layout.devices],
            "versions": {"python": platform.python_version()}
            | {n: importlib.metadata.version(n) for n in _VERSIONS},
        }
        if isinstance(self.experiment, Pretraining):
            result |= self._compare_and_hand_over(result["seeds"])
        subject = getattr(
            self.experiment.config, dataclasses.fields(self.experiment.config)[0].name
        )
        title = f"{self.name} on {subject}"
        curves.draw(
            read_rows(path),
            self.experiment.headline,
            unit,
            title,
            path / "learning_curve.png",
            statistics.interval,
        )
        self.experiment.pictures(self.learned[0], self.run.seed, path)
        self.folder.write_json("result.json", result)  # last: where it stands, the run is complete
        self.report.say(
            f"{self.experiment.headline} {self.headline:.4g} after {self.step:,} {unit}: {path}"
        )

    def _compare_and_hand_over(self, scores: list[dict[str, float]]) -> dict[str, Any]:
        """Writes each seed's encoder; returns what simpler encoders reach, and which data all of them saw."""
        experiment, digest = self.experiment, self.experiment.data_digest
        self.report.say("Evaluating simpler encoders to compare with.")
        for seed, learned, row in zip(self.layout.seeds, self.learned, scores, strict=True):
            config = run_config.to_json(experiment.config)
            facts = {
                "exp": self.name,
                "config": config,
                "step": self.step,
                "data_digest": digest,
                "scores": row,
            }
            experiment.hand_over(
                learned, self.folder.path / "encoder" / f"seed{seed}.safetensors", facts
            )
        rows = [experiment.baselines(self.layout.evaluation_key(i, 0)) for i in range(len(scores))]
        return {"data_digest": digest, **_mean(rows, experiment.headline)}


class _Signals:
    """Turns SIGINT and SIGTERM into a request to stop at the next update; a second SIGINT stops at once."""

    def __enter__(self) -> "_Signals":
        self.received = 0
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def tell(self, command: str) -> int:
        """Names the command that resumes; returns the exit status shells use for the signal."""
        print(
            f"Stopped by {signal.Signals(self.received).name}; the run is saved. Continue with:\n  {command}",
            flush=True,
        )
        return 128 + self.received


def _stack(batches: list[Any], length: int) -> Any:
    """Batches along a new leading axis, the last repeated up to `length` so that shapes stay the same."""
    if length == 1:
        return jax.tree.map(lambda x: x[None], batches[0])
    batches = batches + [batches[-1]] * (length - len(batches))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _mean(rows: Sequence[dict[str, float]], headline: str) -> dict[str, float]:
    """Means over seeds; with several seeds also the 95 % interval of the headline."""
    names = [
        name
        for name in rows[0]
        if "/" in name and not name.startswith("time/") and all(name in r for r in rows)
    ]
    mean = {name: float(np.mean([row[name] for row in rows])) for name in names}
    if headline in mean and len(rows) > 1:
        mean[f"{headline}_low"], mean[f"{headline}_high"] = statistics.interval(
            [row[headline] for row in rows]
        )
    return mean


def _make(experiment_class: Callable[[Any], Experiment], config: Any, devices: int) -> Experiment:
    """The experiment; where its programs are small, XLA gets one CPU thread for each device.

    Sharing a small program among threads takes longer than running it. XLA reads NPROC when it first computes,
    which making some environments already does: hence the variable stands before, and is taken back after.
    """
    if "NPROC" in os.environ:
        return experiment_class(config)
    os.environ["NPROC"] = str(devices)
    experiment = experiment_class(config)
    if not experiment.small:
        del os.environ["NPROC"]
    return experiment


def _new_path(name: str, run: run_config.RunConfig) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    return Path("runs") / name / f"{stamp}-seed{run.seed}"


def _keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache, unless the environment names one already."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "missing_bits" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A process killed while it wrote an entry leaves it torn; JAX then compiles anew, and the user need not know.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
