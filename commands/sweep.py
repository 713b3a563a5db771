"""A grid of settings, or a search among them, each trained with several seeds.

    python run.py sweep --exp=dqn --over learning-rate=1e-4,1e-3 --over n-step=1,3 --seeds=5

Killed and started again with the same --dir it goes on where it was; several processes may work on
one folder.
"""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.table import Table

from missing_bits import options
from missing_bits.commands import command_line
from missing_bits.errors import UserError, require
from missing_bits.experiments import find
from missing_bits.loop.config import RunConfig
from missing_bits.loop.train import DOOR
from missing_bits.sweeps import machine, samplers, space
from missing_bits.sweeps.drive import OVER, Drive, Stopped
from missing_bits.sweeps.folder import Folder, Standing, Sweep, Trial
from missing_bits.sweeps.proposals import Proposals, best, foreseen
from missing_bits.sweeps.pruners import PRUNERS, Pruner
from missing_bits.sweeps.space import Axis
from missing_bits.sweeps.table import describe, table

_REDRAWN = 1.0  # seconds between two drawings of the live table
_WIDE = 160  # columns of a table that goes into a file

_OURS = {
    "run.dir": "--dir",
    "run.num-seeds": "--seeds",
    "run.devices": "--devices-per-trial",
    "run.resume": "--dir",
    "run.from": "--dir",
}
"""Options of a run that the sweep gives itself, and its own in their place."""


@dataclass(frozen=True)
class Config:
    """Trains a grid of settings, or searches among them. All other options are the experiment's,
    the same for every trial."""

    exp: tuple[str, ...] = ()
    """Experiment; may be given several times for a table of methods."""
    over: tuple[str, ...] = ()
    """What to vary, once for each option: option=value,value,... or option=low..high, with :log
    behind for a range that is even in its logarithm."""
    seeds: int = 1
    """Seeds of each trial: 0, 1, ..., or from --run.seed on."""
    sampler: Literal["grid", "random", "tpe"] = "grid"
    """All combinations; settings drawn at random; or a search by a tree-structured Parzen estimator
    (Optuna)."""
    trials: int = 0
    """Settings to draw, of each experiment, with --sampler=random or tpe."""
    pruner: Literal["none", "halving", "median"] = "none"
    """Give up trials early: those outside the best third at 1/9 and 1/3 of the budget, or those
    worse than the median of the others."""
    seed: int = 0
    """Of the sampler."""
    max_parallel: int = 0
    """Trials at once; 0 for as many as the devices, or the cores, have room for."""
    devices_per_trial: int = 1
    """Devices of each trial."""
    confirm: int = 0
    """Train the winner again on so many fresh seeds, and report these."""
    retry: bool = False
    """Try trials that failed again."""
    dir: str = ""
    """The sweep's folder; empty for a new one under runs/sweeps/."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for options that make no sense."""
        for name, least in (("seeds", 1), ("devices_per_trial", 1), ("seed", 0)):
            value = getattr(self, name)
            option = prefix + name.replace("_", "-")
            require(value >= least, f"--{option} is {value}; it must be at least {least}.")
        for name in ("trials", "max_parallel", "confirm"):
            value = getattr(self, name)
            option = prefix + name.replace("_", "-")
            require(value >= 0, f"--{option} is {value}; it must not be negative.")
        drawn = self.sampler != "grid"
        require(
            not drawn or self.trials > 0 or not self.exp,
            f"--sampler={self.sampler} needs --trials: how many settings to draw.",
        )
        require(
            drawn or not self.trials, "--trials is for --sampler=random or tpe: a grid has all."
        )
        require(
            self.sampler != "tpe" or len(self.exp) <= 1,
            "--sampler=tpe searches the settings of one experiment; give one --exp.",
        )


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status."""
    mine, fixed = _split(arguments)
    config = command_line.of_command("sweep", Config, mine)
    if config.sampler == "tpe":
        samplers.check_tpe()
    path = Path(config.dir or f"runs/sweeps/{time.strftime('%Y%m%d-%H%M%S')}")
    asked = _asked(config, fixed) if config.exp else None
    require(
        asked is not None or (path.is_dir() and bool(config.dir)),
        "sweep needs --exp, or the --dir of a sweep to go on with: python run.py sweep --exp=dqn "
        "--over learning-rate=1e-4,1e-3 --seeds=5",
    )
    if asked is not None:
        _check(asked, None)
    folder = Folder(path)
    sweep = _begin(folder, asked)
    again = arguments if config.dir else [*arguments, f"--dir={path}"]
    return _Session(config, sweep, folder, [*fixed, *_typed(config.over)], again).run()


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The sweep's own arguments, repeated ones in one, and those of the experiments."""
    own = {f"--{name}" for name in options.names(Config)} | {"--no-retry", "--help"}
    gathered: dict[str, list[str]] = {"--exp": [], "--over": []}
    mine: list[str] = []
    fixed: list[str] = []
    into = fixed
    for argument in arguments:
        name, equals, value = argument.partition("=")
        option = name.replace("_", "-")
        if option in gathered:
            into = gathered[option]
            into += [value] if equals else []
            continue
        if argument == "-h" or option in own:
            into = mine
        elif argument.startswith("--"):
            into = fixed
        into.append(argument)
    for option, values in gathered.items():
        mine += [option, *values] if values else []
    return mine, fixed


def _typed(over: Sequence[str]) -> list[str]:
    """The values of options that are varied, as if each stood alone on the command line."""
    pairs = [text.partition("=") for text in over]
    return [f"--{pair[0]}={value}" for pair in pairs for value in pair[2].split(",")]


def _asked(config: Config, fixed: list[str]) -> Sweep:
    """What the command line asks for."""
    over: dict[str, str] = {}
    for text in config.over:
        name, _, values = text.partition("=")
        option = name.removeprefix("--").replace("_", "-")
        require(option not in over, f"--over {option} is given twice: list all its values once.")
        over[option] = values
    number = config.trials
    if config.sampler == "grid":
        number = len(list(space.grid(_axes(config.exp[0], over))))
    return Sweep(
        exps=list(config.exp),
        fixed=fixed,
        over=over,
        seeds=config.seeds,
        sampler=config.sampler,
        trials=number * len(config.exp),
        pruner=config.pruner,
        seed=config.seed,
    )


def _begin(folder: Folder, asked: Sweep | None) -> Sweep:
    """What is swept in a folder: as it was begun, or as it is asked for now."""
    with folder.alone():
        stored = folder.read()
        if stored is None:
            require(
                asked is not None,
                f"--dir={folder.path}: there is no sweep to go on with; give --exp.",
            )
            folder.write(asked)
            return asked
    changed = [
        f"{name} is {value}, was {getattr(stored, name)}"
        for name, value in vars(asked or stored).items()
        if value != getattr(stored, name)
    ]
    require(
        not changed,
        f"--dir={folder.path} holds another sweep: {'; '.join(changed)}. Name another "
        "folder, or give --dir alone to go on with it.",
    )
    return stored


def _types(exp: str) -> dict[str, Any]:
    """The options of an experiment, and of runs."""
    return options.names(find(exp).module.Config) | options.names(RunConfig, "run.")


def _axes(exp: str, over: Mapping[str, str]) -> list[Axis]:
    """What is varied, as options of an experiment."""
    types = _types(exp)
    for option in over:
        require(
            option not in _OURS,
            f"--over {option}: the sweep gives it itself; use {_OURS.get(option)}.",
        )
        command_line.check_names(types, [f"--{option}"], "--over: ")
    return [space.parse(f"{option}={text}", types) for option, text in over.items()]


def _all_axes(sweep: Sweep) -> dict[str, list[Axis]]:
    return {exp: _axes(exp, sweep.over) for exp in sweep.exps}


def _arguments(sweep: Sweep, trial: Trial) -> list[str]:
    """What `run.py` is told of a trial."""
    varied = space.arguments(trial.settings, _types(trial.exp))
    seeds = f"--run.num-seeds={sweep.seeds}"
    return [f"--exp={trial.exp}", *sweep.fixed, *varied, seeds]


def _check(sweep: Sweep, typed: Sequence[str] | None) -> None:
    """Raises `UserError` for a trial that its experiment refuses, before any is begun.

    Args:
      sweep: what is swept.
      typed: if `sweep` was read from a file, what stands on the command line: that alone may name
        code.
    """
    for option in sweep.fixed:
        name = option.partition("=")[0].removeprefix("--").replace("_", "-")
        require(name not in _OURS, f"--{name}: the sweep gives it itself; use {_OURS.get(name)}.")
        require(
            name not in sweep.over or not option.startswith("--"),
            f"--{name} is given, and varied by --over: one of the two.",
        )
    seen: dict[Any, Trial] = {}
    for trial in foreseen(sweep, _all_axes(sweep)):
        try:
            chosen = command_line.parse(_arguments(sweep, trial))
            options.check(chosen.run, "run.")
            options.check(chosen.config)
            chosen.found.method.check(chosen.config)
        except UserError as error:
            raise UserError(f"Trial {describe(trial)}: {error}") from error
        if typed is not None:
            command_line.refuse_code_from_files(chosen.found, chosen.config, typed)
        whole = (trial.exp, chosen.config, chosen.run)
        twin = seen.setdefault(whole, trial)
        require(
            twin is trial or sweep.sampler != "grid",
            f"Trials {describe(twin)} and {describe(trial)} are the same.",
        )


class _Session:
    """One process's work on a sweep.

    Args:
      config: of the command.
      sweep: what is swept.
      folder: of the sweep.
      typed: arguments of the experiments on this command line.
      again: the arguments that go on with the sweep.
    """

    def __init__(
        self,
        config: Config,
        sweep: Sweep,
        folder: Folder,
        typed: Sequence[str],
        again: Sequence[str],
    ) -> None:
        for exp in sweep.exps:
            require(
                ":" not in exp or exp in config.exp,
                f"{folder.path / 'sweep.json'} names the code {exp}: what a file names is not "
                f"imported. Give --exp={exp} and the other options as well, if you trust it.",
            )
        self._config = config
        self._sweep = sweep
        self._folder = folder
        self._proposals = Proposals(sweep, _all_axes(sweep), folder)
        _check(sweep, typed)
        self._again = again
        self._drawn_at = 0.0
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = _WIDE
        self._live: Live | None = None

    def run(self) -> int:
        """Trains what is left, and tells how the trials compare; returns the exit status."""
        config = self._config
        executor = machine.LocalProcesses(
            DOOR, machine.probe(), config.max_parallel, config.devices_per_trial
        )
        if config.retry:
            for trial in self._proposals.known():
                if self._folder.standing(trial.name).state == "failed":
                    self._folder.reopen(trial.name)
        names = [f"{number:04d}" for number in range(self._sweep.trials)]
        try:
            pruner = PRUNERS.get(self._sweep.pruner)
            works = {name: [name] for name in names}
            self._drive(
                works, lambda name: self._of_trial(name, executor.devices), executor, pruner
            )
            self._console.print(self._table())
            winner = best(self._proposals.known(), self._folder)
            if winner is None:
                self._say(
                    f"No trial has a score; what they said stands in {self._folder.path}/logs."
                )
                return 1
            self._tell_winner(winner)
            if config.confirm:
                self._confirm(winner, executor)
        except Stopped as stopped:
            self._say(
                "Stopped; all trials are saved. Continue with:\n  "
                f"python {shlex.join([str(DOOR), 'sweep', *self._again])}"
            )
            return 128 + stopped.signal
        return 0

    def began(self, work: str) -> None:
        """Is told of work that begins."""
        if self._live is None:
            trial = self._folder.trial(int(work)) if work.isdecimal() else None
            self._say(f"{describe(trial) if trial else work} begins.")

    def ended(self, name: str, standing: Standing, seconds: float) -> None:
        """Is told of a trial that ends."""
        headline = self._folder.headline()
        score = ""
        if headline is not None and standing.score is not None:
            score = f", {headline.name} {standing.score:.4g}"
        why = f": {standing.why}" if standing.why else ""
        self._say(f"{name} {standing.state}{score}{why} ({seconds:,.0f} s)")

    def looked(self) -> None:
        """Is told after every look at what runs."""
        if self._live is not None and time.perf_counter() - self._drawn_at > _REDRAWN:
            self._drawn_at = time.perf_counter()
            self._live.update(self._table(), refresh=True)

    def _say(self, message: str) -> None:
        self._console.print(message, markup=False, soft_wrap=True)

    def _drive(
        self,
        works: Mapping[str, Sequence[str]],
        arguments: Callable[[str], list[str]],
        executor: machine.Executor,
        pruner: Pruner | None,
    ) -> None:
        """Trains until all has ended, beneath a live table on a terminal."""
        drive = Drive(self._folder, works, arguments, executor, pruner, self)
        if not self._console.is_terminal:
            drive.run()
            return
        live = Live(self._table(), console=self._console, auto_refresh=False, transient=True)
        with live:
            self._live = live
            try:
                drive.run()
            finally:
                self._live = None

    def _of_trial(self, name: str, devices: int) -> list[str]:
        """What `run.py` is told to train a trial, from its start or on."""
        return self._in_folder(
            name, _arguments(self._sweep, self._proposals.trial(int(name))), devices
        )

    def _in_folder(self, name: str, told: list[str], devices: int) -> list[str]:
        told = [*told, f"--run.dir={self._folder.trial_path(name)}"]
        told += [f"--run.devices={devices}"] if devices > 1 else []
        return [*told, "--run.resume"] if self._folder.has_begun(name) else told

    def _table(self) -> Table:
        trials = self._proposals.known()
        standings = {trial.name: self._folder.standing(trial.name) for trial in trials}
        steps = {
            trial.name: self._folder.step(trial.name)
            for trial in trials
            if standings[trial.name].state not in OVER
        }
        headline = self._folder.headline()
        name = headline.name.partition("/")[2] if headline else "score"
        return table(trials, standings, steps, list(self._sweep.over), name)

    def _tell_winner(self, winner: Trial) -> None:
        headline = self._folder.headline()
        standing = self._folder.standing(winner.name)
        self._say(
            f"Best of {self._sweep.trials}: {describe(winner)}, {headline.name} "
            f"{standing.score:.4g} ({self._sweep.seeds} seeds, on which it was chosen). Compare "
            f"all: python run.py compare {self._folder.path}"
        )

    def _confirm(self, winner: Trial, executor: machine.Executor) -> None:
        """Trains the winner again on seeds that nothing was chosen on."""
        seeds = self._config.confirm
        name = self._folder.confirmation(seeds)
        told = _arguments(self._sweep, winner)
        chosen = command_line.parse(told)
        first = chosen.run.seed + self._sweep.seeds
        fresh = [f"--run.seed={first}", f"--run.num-seeds={seeds}"]
        told = [*_without(told, "--run.seed", "--run.num-seeds"), *fresh]
        self._drive(
            {name: [name]},
            lambda name: self._in_folder(name, told, executor.devices),
            executor,
            None,
        )
        standing = self._folder.standing(name)
        if standing.score is None:
            raise UserError(f"The winner could not be confirmed: {standing.why}")
        ends = standing.interval
        interval = f" [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else ""
        before = self._folder.standing(winner.name).score
        self._say(
            f"Confirmed on seeds {first} to {first + seeds - 1}: {self._folder.headline().name} "
            f"{standing.score:.4g}{interval}; it won with {before:.4g}."
        )


def _without(arguments: Sequence[str], *names: str) -> list[str]:
    """Arguments without some options."""
    rest = list(arguments)
    for name in names:
        _, rest = command_line.take(rest, name)
    return rest
