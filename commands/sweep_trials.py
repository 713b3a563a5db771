"""What the trials of a sweep ask of `run.py`, checked before any is begun."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from missing_bits import options
from missing_bits.commands import command_line
from missing_bits.commands.command_line import Chosen
from missing_bits.errors import UserError, require
from missing_bits.experiments import find
from missing_bits.loop.config import RunConfig
from missing_bits.sweeps import space
from missing_bits.sweeps.folder import Sweep, Trial
from missing_bits.sweeps.proposals import foreseen
from missing_bits.sweeps.space import Axis
from missing_bits.sweeps.table import describe

_OURS = {
    "run.dir": "--dir",
    "run.num-seeds": "--seeds",
    "run.devices": "--devices-per-trial",
    "run.resume": "--dir",
    "run.from": "--dir",
}
"""Options of a run that the sweep gives itself, and its own in their place."""


def types(exp: str) -> dict[str, Any]:
    """The options of an experiment, and of runs."""
    return options.names(find(exp).module.Config) | options.names(RunConfig, "run.")


def axes(exp: str, over: Mapping[str, str]) -> list[Axis]:
    """What is varied, as options of an experiment."""
    known = types(exp)
    for option in over:
        require(
            option != "run.seed",
            "--over run.seed: trials differ in settings, and all train on the same seeds: "
            "--seeds=N, from --run.seed on.",
        )
        require(
            option not in _OURS,
            f"--over {option}: the sweep gives it itself; use {_OURS.get(option)}.",
        )
        command_line.check_names(known, [f"--{option}"], "--over: ")
    return [space.parse(f"{option}={text}", known) for option, text in over.items()]


def all_axes(sweep: Sweep) -> dict[str, list[Axis]]:
    """The axes of each experiment of a sweep."""
    return {exp: axes(exp, sweep.over) for exp in sweep.exps}


def arguments(sweep: Sweep, trial: Trial) -> list[str]:
    """What `run.py` is told of a trial."""
    varied = space.arguments(trial.settings, types(trial.exp))
    seeds = f"--run.num-seeds={sweep.seeds}"
    return [f"--exp={trial.exp}", *sweep.fixed, *varied, seeds]


def refuse_code(sweep: Sweep, file: Path) -> None:
    """Raises `UserError` if a sweep that was read from a file names code to be imported."""
    for exp in sweep.exps:
        require(
            ":" not in exp,
            f"{file} names the code {exp}: what a file names is not imported. Give all options of "
            "the sweep again, if you trust it.",
        )
    for trial in foreseen(sweep, all_axes(sweep)):
        chosen = command_line.parse(arguments(sweep, trial))
        command_line.refuse_code_from_files(chosen.found, chosen.config, [])


def checked(sweep: Sweep) -> list[Chosen]:
    """What is asked for by all trials that can be foreseen, each held against its experiment.

    Raises:
      UserError: an experiment refuses one of them.
    """
    for option in sweep.fixed:
        name = option.partition("=")[0].removeprefix("--").replace("_", "-")
        require(name not in _OURS, f"--{name}: the sweep gives it itself; use {_OURS.get(name)}.")
        require(
            name not in sweep.over or not option.startswith("--"),
            f"--{name} is given, and varied by --over: one of the two.",
        )
    seen: dict[Any, Trial] = {}
    found = []
    for trial in foreseen(sweep, all_axes(sweep)):
        try:
            chosen = command_line.parse(arguments(sweep, trial))
            options.check(chosen.run, "run.")
            options.check(chosen.config)
            chosen.found.method.check(chosen.config)
        except UserError as error:
            raise UserError(f"Trial {describe(trial)}: {error}") from error
        found.append(chosen)
        whole = (trial.exp, chosen.config, chosen.run)
        twin = seen.setdefault(whole, trial)
        require(
            twin is trial or sweep.sampler != "grid",
            f"Trials {describe(twin)} and {describe(trial)} are the same.",
        )
    return found


def tasks(trials: Iterable[Chosen]) -> list[str]:
    """The environments or data sets of trials, each once."""
    named = (str(options.value(one.config, one.found.method.subject)) for one in trials)
    return list(dict.fromkeys(named))
