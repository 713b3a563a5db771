"""A grid of settings, or a search among them, each trained with several seeds.

    python run.py sweep --exp=dqn --over learning-rate=1e-4,1e-3 --over n-step=1,3 --seeds=5

Killed and started again with the same --dir it goes on where it was; several processes may work on
one folder.
"""

import dataclasses
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
from rich.console import Console
from rich.live import Live
from rich.table import Table

from missing_bits import options
from missing_bits.commands import command_line, sweep_trials
from missing_bits.commands.command_line import Chosen
from missing_bits.errors import UserError, remedy, require
from missing_bits.loop.member import DOOR, Member
from missing_bits.loop.process import Owner
from missing_bits.loop.train import train_rows
from missing_bits.memory import available
from missing_bits.sweeps import machine, samplers, space
from missing_bits.sweeps.drive import OVER, Drive, Stopped
from missing_bits.sweeps.folder import Folder, Standing, Sweep, Trial
from missing_bits.sweeps.groups import Asked, groups, halving_judge
from missing_bits.sweeps.proposals import Proposals, best
from missing_bits.sweeps.pruners import PRUNERS, Pruner
from missing_bits.sweeps.table import describe, table

_REDRAWN = 1.0  # seconds between two drawings of the live table
_SHOWN = 15  # trials in the live table
_WIDE = 160  # columns of a table that goes into a file


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
    pack: Literal["auto", "yes", "no"] = "auto"
    """Train trials that differ in nothing but numbers and seeds as rows of one program; auto does
    so on an accelerator."""
    max_parallel: int = 0
    """Trials at once; 0 for as many as the devices, or the cores, have room for."""
    devices_per_trial: int = 1
    """Devices of each trial."""
    confirm: int = 0
    """Train the winner again on so many fresh seeds, and report these."""
    retry: bool = False
    """Try trials that failed again."""
    group: int = -1
    """Train nothing but this group of a packed sweep, in this process, as the sweep itself does."""
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
    require(
        bool(config.exp) or (bool(config.dir) and path.is_dir()),
        "sweep needs --exp, or the --dir of a sweep to go on with: python run.py sweep --exp=dqn "
        "--over learning-rate=1e-4,1e-3 --seeds=5",
    )
    try:
        return _sweep(config, fixed, path, arguments)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, or one that cannot be written to
        raise UserError(
            f"--dir={path} cannot be used any more: {error}. {remedy(error)} Trials that were "
            "saved go on when the sweep is started again."
        ) from error


def _sweep(config: Config, fixed: list[str], path: Path, arguments: list[str]) -> int:
    """Sweeps in a folder; returns the exit status."""
    again = arguments if config.dir else [*arguments, f"--dir={path}"]
    asked = _asked(config, fixed) if config.exp else None
    if asked is not None:
        chosen = sweep_trials.checked(asked)
        _refuse_choosing(config, asked, sweep_trials.tasks(chosen))
        if not (path / "sweep.json").exists():
            asked = dataclasses.replace(asked, groups=_groups(asked, chosen))
        folder = Folder(path)
        sweep = _begin(folder, asked)
    else:
        _refuse_what_is_settled(config, fixed)
        folder = Folder(path)
        sweep = _begin(folder, None)
        sweep_trials.refuse_code(sweep, path / "sweep.json")
        chosen = sweep_trials.checked(sweep)
        _refuse_choosing(config, sweep, sweep_trials.tasks(chosen))
    if config.group >= 0:
        return _train_group(config, sweep, folder, again)
    return _Session(config, sweep, folder, again, sweep_trials.tasks(chosen)).run()


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The sweep's own arguments, repeated ones in one, and those of the experiments."""
    own = {f"--{name}" for name in options.names(Config)} | {"--no-retry", "--help"}
    gathered: dict[str, list[str]] = {"--exp": [], "--over": []}
    mine: list[str] = []
    fixed: list[str] = []
    into = fixed
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        option = name.replace("_", "-")
        if option in gathered:
            follows = i + 1 < len(arguments) and not arguments[i + 1].startswith("--")
            require(bool(equals) or follows, f"{option} needs a value.")
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


def _refuse_choosing(config: Config, sweep: Sweep, tasks: Sequence[str]) -> None:
    """Raises `UserError` where scores of several environments or data sets would be ranked."""
    ranking = {
        "--sampler=tpe": sweep.sampler == "tpe",
        f"--pruner={sweep.pruner}": sweep.pruner != "none",
        "--confirm": config.confirm > 0,
    }
    given = [option for option, holds in ranking.items() if holds]
    require(
        len(tasks) == 1 or not given,
        f"{' and '.join(given)}: scores on {' and '.join(tasks)} cannot be ranked together. Leave "
        "it out, or give each a sweep of its own.",
    )


def _refuse_what_is_settled(config: Config, fixed: Sequence[str]) -> None:
    """Raises `UserError` for options that would not count, since the folder says what is swept."""
    default = Config()
    names = [field.name for field in dataclasses.fields(Sweep) if hasattr(config, field.name)]
    given = [f"--{name}" for name in names if getattr(config, name) != getattr(default, name)]
    given += fixed
    require(
        not given,
        f"--dir={config.dir} without --exp goes on with the sweep that was begun there: leave out "
        f"{' '.join(given)}, or give all options of the sweep again.",
    )


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
        number = len(list(space.grid(sweep_trials.axes(config.exp[0], over))))
    return Sweep(
        exps=list(config.exp),
        fixed=fixed,
        over=over,
        seeds=config.seeds,
        sampler=config.sampler,
        trials=number * len(config.exp),
        pruner=config.pruner,
        seed=config.seed,
        pack=config.pack,
        groups=[],
    )


def _groups(sweep: Sweep, chosen: Sequence[Chosen]) -> list[list[int]]:
    """Which trials are rows of one program; none where each has its own."""
    hardware = machine.probe()
    if sweep.pack == "no" or (sweep.pack == "auto" and hardware.platform == "cpu"):
        return []
    reasons = {
        "--sampler=tpe asks how earlier trials ended": sweep.sampler == "tpe",
        "--pruner=median compares trials that run at different times": sweep.pruner == "median",
    }
    jax.config.update("jax_platforms", "cpu")  # only shapes are asked for: devices are the trials'
    trials = [Asked(one.found.method, one.config, one.run) for one in chosen]
    found = None if any(reasons.values()) else groups(trials, hardware.memory or available())
    reason = next((why for why, holds in reasons.items() if holds), "they act in host environments")
    require(
        found is not None or sweep.pack == "auto",
        f"--pack=yes: trials cannot be rows of one program, because {reason}; leave it out.",
    )
    return found or []


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
        if name != "groups" and value != getattr(stored, name)
    ]
    require(
        not changed,
        f"--dir={folder.path} holds another sweep: {'; '.join(changed)}. Name another "
        "folder, or give --dir alone to go on with it.",
    )
    return stored


def _train_group(config: Config, sweep: Sweep, folder: Folder, again: Sequence[str]) -> int:
    """Trains the trials of a group as rows of one program."""
    require(
        config.group < len(sweep.groups),
        f"--group={config.group}: {folder.path} has {len(sweep.groups)} groups.",
    )
    proposals = Proposals(sweep, sweep_trials.all_axes(sweep), folder)
    home = folder.group_path(config.group)
    members = []
    for trial in map(proposals.trial, sweep.groups[config.group]):
        chosen = command_line.parse(sweep_trials.arguments(sweep, trial))
        path = folder.trial_path(trial.name)
        run = dataclasses.replace(
            chosen.run,
            dir=str(path),
            devices=config.devices_per_trial,
            resume=folder.has_begun(trial.name),
        )
        command = _command(again)
        members.append(Member(chosen.found.name, chosen.config, run, path, command, home))
    names = [member.path.name for member in members]
    judge = halving_judge(folder, names) if sweep.pruner == "halving" else None
    train_rows(chosen.found.method, members, home, judge, Owner())
    return 0


def _command(arguments: Sequence[str]) -> str:
    """What goes on with a sweep."""
    return f"python {shlex.join([str(DOOR), 'sweep', *arguments])}"


class _Session:
    """One process's work on a sweep.

    Args:
      config: of the command.
      sweep: what is swept.
      folder: of the sweep.
      again: the arguments that go on with the sweep.
      tasks: the environments or data sets of its trials.
    """

    def __init__(
        self,
        config: Config,
        sweep: Sweep,
        folder: Folder,
        again: Sequence[str],
        tasks: Sequence[str],
    ) -> None:
        self._config = config
        self._sweep = sweep
        self._folder = folder
        self._proposals = Proposals(sweep, sweep_trials.all_axes(sweep), folder)
        self._proposals.known()  # all that stand in the folder must follow from the sweep
        self._again = again
        self._tasks = tasks
        self._drawn_at = 0.0
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = _WIDE
        self._live: Live | None = None

    def run(self) -> int:
        """Trains what is left, and tells how the trials compare; returns the exit status."""
        config = self._config
        works = self._works()
        hardware = machine.probe()
        executor = machine.LocalProcesses(
            DOOR, hardware, len(works), config.max_parallel, config.devices_per_trial
        )
        if config.retry:
            self._reopen()
        try:
            pruner = None if self._sweep.groups else PRUNERS.get(self._sweep.pruner)
            self._drive(works, lambda work: self._of(work, executor.devices), executor, pruner)
            self._console.print(self._table())
            self._tell_rates()
            stopped = [
                trial.name
                for trial in self._proposals.known()
                if self._folder.standing(trial.name).state not in OVER
            ]
            if stopped:
                self._say(
                    f"{', '.join(stopped)} stopped, by somebody else. Continue with:\n"
                    f"  {_command(self._again)}"
                )
                return 1
            winner = best(self._proposals.known(), self._folder)
            if winner is None:
                self._say(
                    f"No trial has a score; what they said stands in {self._folder.path}/logs."
                )
                return 1
            if len(self._tasks) > 1:
                self._say(
                    f"Scores on {' and '.join(self._tasks)} are not ranked together. Compare: "
                    f"python run.py compare {self._folder.path}"
                )
                return 0
            self._tell_winner(winner)
            if config.confirm:
                self._confirm(winner, executor)
        except Stopped as stopped:
            self._say(f"Stopped; all trials are saved. Continue with:\n  {_command(self._again)}")
            return 128 + stopped.signal
        return 0

    def _works(self) -> dict[str, list[str]]:
        """The trials of each process."""
        groups = self._sweep.groups
        if not groups:
            return {f"{number:04d}": [f"{number:04d}"] for number in range(self._sweep.trials)}
        return {
            f"group-{i}": [f"{number:04d}" for number in group] for i, group in enumerate(groups)
        }

    def _reopen(self) -> None:
        """Lets trials that failed be tried again."""
        trials = [trial.name for trial in self._proposals.known()]
        failed = [name for name in trials if self._folder.standing(name).state == "failed"]
        require(
            not failed or not self._sweep.groups,
            f"--retry: the trials of {self._folder.path} are rows of one program, from which those "
            "that failed were dropped. Begin a new sweep of their settings, or with --pack=no.",
        )
        for name in [*failed, *self._folder.failed_confirmations()]:
            self._folder.reopen(name)

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
            self._live.update(self._table(_SHOWN), refresh=True)

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
        resume = _command(self._again)
        drive = Drive(self._folder, works, arguments, executor, pruner, resume, self)
        if not self._console.is_terminal:
            drive.run()
            return
        live = Live(self._table(_SHOWN), console=self._console, auto_refresh=False, transient=True)
        with live:
            self._live = live
            try:
                drive.run()
            finally:
                self._live = None

    def _of(self, work: str, devices: int) -> list[str]:
        """What `run.py` is told to do a piece of work, from its start or on."""
        if self._sweep.groups:
            return ["sweep", *self._again, f"--group={work.partition('-')[2]}"]
        trial = self._proposals.trial(int(work))
        return self._in_folder(work, sweep_trials.arguments(self._sweep, trial), devices)

    def _in_folder(self, name: str, told: list[str], devices: int) -> list[str]:
        told = [*told, f"--run.dir={self._folder.trial_path(name)}"]
        told += [f"--run.devices={devices}"] if devices > 1 else []
        return [*told, "--run.resume"] if self._folder.has_begun(name) else told

    def _table(self, most: int = 0) -> Table:
        """All trials that have begun and how they ended, or, while they run, the last of them."""
        trials = self._proposals.known()[-most:]
        standings = {trial.name: self._folder.standing(trial.name) for trial in trials}
        steps = {
            trial.name: self._folder.step(trial.name)
            for trial in trials
            if most and standings[trial.name].state not in OVER
        }
        headline = self._folder.headline()
        name = headline.name.partition("/")[2] if headline else "score"
        return table(trials, standings, steps, list(self._sweep.over), name)

    def _tell_rates(self) -> None:
        """Says how fast rows of one program were together, if all were there to the end."""
        if self._sweep.pruner != "none":
            return
        for number, group in enumerate(self._sweep.groups):
            rates = [self._folder.rate(f"{trial:04d}") for trial in group]
            known = [rate for rate in rates if rate]
            rows = len(group) * self._sweep.seeds
            if known:
                self._say(
                    f"group-{number}: {rows} rows in one program, {known[0]:,.0f} steps/s in all, "
                    f"{known[0] / rows:,.0f} each"
                )

    def _tell_winner(self, winner: Trial) -> None:
        headline = self._folder.headline()
        standing = self._folder.standing(winner.name)
        seeds = "1 seed" if self._sweep.seeds == 1 else f"{self._sweep.seeds} seeds"
        self._say(
            f"Best of {self._sweep.trials}: {describe(winner)}, {headline.name} "
            f"{standing.score:.4g} ({seeds}, on which it was chosen). Compare "
            f"all: python run.py compare {self._folder.path}"
        )

    def _confirm(self, winner: Trial, executor: machine.Executor) -> None:
        """Trains the winner again on seeds that nothing was chosen on."""
        seeds = self._config.confirm
        name = self._folder.confirmation(winner, seeds)
        told = sweep_trials.arguments(self._sweep, winner)
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
