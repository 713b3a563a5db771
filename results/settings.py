"""Settings of runs in words: what differs from the defaults, and the command that repeats a run."""

import functools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from missing_bits import options
from missing_bits.experiments import EXPERIMENTS, find
from missing_bits.loop.config import RunConfig
from missing_bits.results.folders import Run

_OF_ONE_SESSION = ("dir", "resume", "start", "compilation_cache")  # fields of RunConfig


def changed(run: Run) -> dict[str, Any]:
    """The options of a run that differ from the defaults of its experiment, without its subject.

    Of a run that does not say which they are (an older version's), none.
    """
    if run.options is None:
        return {}
    chosen = dict(run.options)
    row = EXPERIMENTS.get(run.exp)
    if row and (row.settings or row.parts):
        # They are told by what differs from the method's defaults, and the row has its own.
        defaults = _defaults(run.exp, run.task)
        mine = {name: run.value(name) for name in defaults}
        others = {name: value for name, value in chosen.items() if name not in defaults}
        own = {n: value for n, value in mine.items() if value not in (None, defaults[n])}
        chosen = own | others
    return {name: value for name, value in chosen.items() if name != run.subject}


@functools.cache
def _defaults(exp: str, task: str) -> dict[str, Any]:
    """All options of a row of the table as they are by default for an environment or data set.

    The method is imported for its presets.
    """
    config = find(exp).config(task)
    return options.flat(options.to_json(config), type(config))


def word(name: str, value: Any) -> str:
    """An option as it is typed, without dashes: "no-double", "hidden-sizes=64,64"."""
    if isinstance(value, bool):
        return options.arguments({name: value})[0].removeprefix("--")
    return f"{name}={text(value)}"


def text(value: Any) -> str:
    """A value in a table: "64,64", "true", "0.001"."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(text, value))
    return "" if value is None else str(value)


def words(values: Mapping[str, Any]) -> str:
    """Options as they are typed, without dashes."""
    return " ".join(word(name, value) for name, value in values.items())


def differing(runs: Sequence[Run]) -> list[str]:
    """The options in which runs differ, without their subjects, in the order of their appearance.

    Those of an older version's runs, which do not say how their options are called, are found by
    the fields of their configurations.
    """
    if any(run.options is None for run in runs):
        names = _unique(name for run in runs for name in _fields(run.config))
        subjects = {run.subject for run in runs}
        names = [name for name in names if name.rpartition(".")[2] not in subjects]
    else:
        names = _unique(name for run in runs for name in changed(run))
    return [name for name in names if len({text(run.value(name)) for run in runs}) > 1]


def command(run: Run) -> str:
    """The command that repeats a run in a new folder; empty if too little is known of it.

    It holds every option that differs from the defaults. Of a run that does not say which they are,
    it reads all from its config.json. A trial of a sweep that never got a configuration has none.
    """
    if not run.config or run.state == "damaged":
        return ""
    door = ["python", "run.py"]
    if run.options is None:
        exp = [f"--exp={run.exp}"] if ":" in run.exp else []
        return shlex.join([*door, *exp, f"--config={run.folder / 'config.json'}"])
    subject = {run.subject: run.task} if run.task else {}
    default = RunConfig()
    of_run = {}
    for field in options.fields(RunConfig):
        value = run.run.get(field.name)
        plain = isinstance(value, str | int | float)
        if field.name not in _OF_ONE_SESSION and plain and value != getattr(default, field.name):
            of_run[f"run.{field.option}"] = value
    chosen = options.arguments({**subject, **changed(run), **of_run})
    return shlex.join([*door, f"--exp={run.exp}", *chosen])


def _fields(config: Mapping[str, Any], before: str = "") -> list[str]:
    """The fields of a configuration as options, those of groups with the group's name before."""
    found: list[str] = []
    for name, value in config.items():
        option = f"{before}{name.replace('_', '-')}"
        found += _fields(value, f"{option}.") if isinstance(value, Mapping) else [option]
    return found


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
