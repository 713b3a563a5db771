"""Runs as their folders hold them: found and read, never trusted.

A folder that holds a config.json is a run, and so is one that has lost it or never got that far;
what lies below a run is not looked at. Only small files are read, and the end of metrics.jsonl
where a run has no result: no method is imported and nothing that a file says is executed. Whatever
a file holds, its run is listed; one whose files make no sense is "damaged".
"""

import dataclasses
import glob
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from missing_bits.errors import UserError, remedy, require
from missing_bits.loop.folder import ENDED, is_held

STATES = (
    "finished",
    "running",
    "stopped",
    "failed",
    "pruned",
    "killed",
    "not started",
    "damaged",
)
_TRACES = {"result.json", "metrics.jsonl", "trial.json", ENDED}  # of a run without config.json
_LARGEST = 8 << 20  # bytes of a JSON file: far more than a run writes
_TAIL = 1 << 16  # bytes of metrics.jsonl: a log point of dozens of seeds


class Headline(NamedTuple):
    """The metric by which runs are compared."""

    name: str
    larger_is_better: bool


@dataclass(frozen=True)
class Run:
    """What is known of one run. Text is as it was found: escape it where it is shown."""

    folder: Path
    state: str
    """One of STATES. A run without result, reason and lock was killed."""
    why: str = ""
    """Why it ended early, or what is damaged."""
    exp: str = ""
    """In the table, or "module:Class"; empty if unknown."""
    subject: str = ""
    """The option that names the environment or data set."""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The method's configuration, groups within it."""
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The options of the run."""
    options: Mapping[str, Any] | None = None
    """Those that differ from the defaults, under their full names; None if the run is of a version
    that did not say."""
    unit: str = ""
    """What the budget counts; empty if unknown."""
    done: int | None = None
    """Budget units done."""
    headline: Headline | None = None
    score: float | None = None
    """The headline's last value, a mean over seeds."""
    low: float | None = None
    """The lower end of its interval."""
    high: float | None = None
    seeds: Mapping[int, float] = dataclasses.field(default_factory=dict)
    """The headline of each seed of a finished run."""
    seconds: float | None = None
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What result.json holds; empty for a run that is not finished."""
    resume: str = ""
    """The command that goes on with a run that ended early, as its folder says."""
    sweep: Path | None = None
    """The folder of the sweep whose trial the run is."""
    confirms: bool = False
    """Whether it trains the winner of a sweep again, on seeds that nothing was chosen on."""

    @property
    def task(self) -> str:
        """The environment or data set; empty if unknown."""
        value = self.value(self.subject)
        return value if isinstance(value, str) else ""

    @property
    def budget(self) -> int | None:
        """In units."""
        return _count(self.value(self.unit.replace("_", "-")))

    @property
    def data_digest(self) -> str:
        """Of the data that was learned from; empty where there is none."""
        return _text(self.result.get("data_digest"))

    @property
    def devices(self) -> str:
        """What it ran on; empty if unknown."""
        found = self.result.get("devices")
        return ", ".join(map(str, found)) if isinstance(found, list) else ""

    @property
    def versions(self) -> dict[str, str]:
        """Of the libraries it ran with; empty if unknown."""
        found = self.result.get("versions")
        return (
            {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}
        )

    @property
    def protocol(self) -> dict[str, Any]:
        """How its scores came about; empty if unknown, and where options say all of it."""
        found = self.result.get("protocol")
        return found if isinstance(found, dict) else {}

    def value(self, option: str) -> Any:
        """The value of an option by its full name; None if there is none.

        The configuration holds flat groups, whose names the options lack, as objects like others:
        "eval-episodes" is found in "envs".
        """
        path = option.replace("-", "_").split(".")
        found = _at(self.config, path)
        if found is not None or not option:
            return found
        if self.options is not None and option in self.options:
            return self.options[option]
        if path[0] == "run":
            return _at(self.run, path[1:])
        groups = (group for group in self.config.values() if isinstance(group, Mapping))
        inner = (_at(group, path) for group in groups)
        return next((value for value in inner if value is not None), None)


def find(places: Sequence[str]) -> list[Run]:
    """All runs in folders and below them, each once, in the order of the places and of their names.

    Args:
      places: folders, or patterns such as "runs/dqn/*".

    Raises:
      UserError: there is no such folder, or no run in any of them.
    """
    found: dict[Path, Run] = {}
    for place in places:
        for folder in _folders(place):
            for run in _below(folder, place):
                found.setdefault(run.folder.resolve(), run)
    require(
        bool(found),
        f"there are no runs in {' '.join(places)}: a run is a folder with a config.json, such as "
        "python run.py --exp=dqn leaves below runs/.",
    )
    return list(found.values())


def _folders(place: str) -> list[Path]:
    """The folders that a name or a pattern stands for."""
    if os.path.isdir(place):
        return [Path(place)]
    require(
        not os.path.exists(place), f"{place} is a file: name the folder of a run, or one above it."
    )
    matching = [
        Path(path) for path in sorted(glob.glob(place), key=_natural) if os.path.isdir(path)
    ]
    require(bool(matching), f"there is no folder {place}.")
    return matching


def _natural(name: str) -> list[Any]:
    """A key that sorts trial2 before trial10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _sweep_of(folder: Path) -> Path | None:
    """The sweep that a run is a trial of."""
    trials = folder.resolve().parent
    is_trial = trials.name == "trials" and (trials.parent / "sweep.json").is_file()
    return trials.parent if is_trial else None


def _below(folder: Path, place: str) -> Iterator[Run]:
    """The runs in a folder and below it. Links to folders are not followed: they may lead back."""
    files = set()
    folders = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.is_file():
                    files.add(entry.name)
    except OSError as error:
        if folder == Path(place):
            raise UserError(f"{place} cannot be read: {error.strerror}. {remedy(error)}") from error
        return
    if "sweep.json" not in files and ("config.json" in files or files & _TRACES):
        yield read(folder, files)
        return
    for name in sorted(folders, key=_natural):
        if not name.startswith("."):
            yield from _below(folder / name, place)


def read(folder: Path, files: set[str]) -> Run:
    """What is known of the run in a folder.

    Args:
      folder: of the run.
      files: the names of the files in it.
    """
    sweep = _sweep_of(folder)
    result = _json(folder / "result.json") if "result.json" in files else None
    ended = _json(folder / ENDED) if ENDED in files else None
    if "config.json" not in files:
        return _without_config(folder, files, ended, sweep)
    said = _json(folder / "config.json")
    config = said.get("config")
    run = said.get("run")
    exp = _text(said.get("exp"))
    if not exp or not isinstance(config, dict) or not isinstance(run, dict):
        told = "config.json is torn or no configuration of a run"
        return Run(folder, "damaged", told, exp, sweep=sweep)
    names = _leaves(config)
    known = Run(
        folder,
        "damaged",
        "result.json is torn or no result of a run",
        exp,
        _text(said.get("subject")) or ("env" if "env" in names else "data"),
        config,
        run,
        _options(said.get("options")),
        _text(said.get("unit")) or ("env_steps" if "env_steps" in names else "updates"),
        headline=_headline(said.get("headline")) or _headline_of(result or {}),
        sweep=sweep,
        confirms=folder.name.startswith("confirm-") and (folder.parent / "sweep.json").is_file(),
    )
    if result is not None:
        return _finished(known, result)
    if ended is not None:
        state, why = _end(ended)
    elif is_held(folder):
        state, why = "running", ""
    else:
        state, why = "killed", "the process or the machine was gone before it could say why"
    lines = _tail(folder / "metrics.jsonl") if "metrics.jsonl" in files else []
    return _unfinished(dataclasses.replace(known, state=state, why=why), ended or {}, lines)


def _without_config(
    folder: Path, files: set[str], ended: dict[str, Any] | None, sweep: Path | None
) -> Run:
    """A trial of a sweep that did not get as far as a configuration, or what is left of a run."""
    trial = _json(folder / "trial.json") if "trial.json" in files else {}
    exp = _text(trial.get("exp"))
    if not exp:
        return Run(folder, "damaged", "config.json is missing", sweep=sweep)
    state, why = ("not started", "") if ended is None else _end(ended)
    resume = _text((ended or {}).get("resume"))
    chosen = _options(trial.get("settings")) or {}
    named = {name.replace("_", "-"): value for name, value in chosen.items()}
    subject = "env" if "env" in named else "data"
    return Run(folder, state, why, exp, subject, options=named, resume=resume, sweep=sweep)


def _finished(run: Run, result: dict[str, Any]) -> Run:
    rows = result.get("seeds")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return run  # damaged
    missing = result.get("missing")
    made_not = f"not made: {', '.join(map(str, missing))}" if isinstance(missing, list) else ""
    name = run.headline.name if run.headline else ""
    scores = {_count(row.get("seed")): number(row.get(name)) for row in rows}
    return dataclasses.replace(
        run,
        state="finished",
        why=made_not,
        done=_count(result.get(run.unit)),
        score=number(result.get(name)),
        low=number(result.get(f"{name}_low")),
        high=number(result.get(f"{name}_high")),
        seeds={s: score for s, score in scores.items() if s is not None and score is not None},
        seconds=number(result.get("wall_seconds")),
        result=result,
    )


def _unfinished(run: Run, ended: dict[str, Any], lines: list[bytes]) -> Run:
    """The run with what the last lines of its metrics tell."""
    name = run.headline.name if run.headline else ""
    several = run.run.get("num_seeds") not in (None, 1)
    last: dict[str, Any] = {}
    score = None
    for line in reversed(lines):
        if last and name.encode() not in line:
            continue
        row = _parsed(line)
        last = last or row
        if not (several and "seed" in row):
            score = number(row.get(name))
        if score is not None or (last and not name):
            break
    done = _count(ended.get("step"))
    done = _count(last.get("step")) if done is None else done
    return dataclasses.replace(
        run,
        done=done,
        score=score,
        seconds=number(last.get("time/seconds")),
        resume=_text(ended.get("resume")),
    )


def _end(ended: dict[str, Any]) -> tuple[str, str]:
    """State and reason."""
    state = _text(ended.get("state"))
    why = _text(ended.get("why")) or f"{ENDED} says no reason"
    return (state if state in ("stopped", "failed", "pruned") else "failed"), why


def _headline(value: Any) -> Headline | None:
    if not isinstance(value, dict) or not _text(value.get("name")):
        return None
    return Headline(value["name"], value.get("larger_is_better") is not False)


def _headline_of(result: dict[str, Any]) -> Headline | None:
    """The headline of a run of a version that did not name it: what alone has an interval.

    Those versions had none of which less is better.
    """
    names = [name.removesuffix("_low") for name in result if name.endswith("_low")]
    return next((Headline(name, True) for name in names if f"{name}_high" in result), None)


def _options(value: Any) -> dict[str, Any] | None:
    """Options by name, if that is what a value is."""
    if not isinstance(value, dict):
        return None
    plain = (str, int, float, bool)
    fits = all(
        isinstance(mine, plain)
        or (isinstance(mine, list) and all(isinstance(part, plain) for part in mine))
        for mine in value.values()
    )
    return value if fits else None


def _leaves(config: Mapping[str, Any]) -> set[str]:
    """The names of all fields, those of groups too."""
    names = set(config)
    for group in config.values():
        names |= set(group) if isinstance(group, dict) else set()
    return names


def _at(values: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(values, Mapping):
            return None
        values = values.get(name)
    return values


# Files that may hold anything.


def _json(path: Path) -> dict[str, Any]:
    """An object that a file holds; empty where it is torn, too large or something else."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
    except OSError:
        return {}
    return _parsed(text) if len(text) <= _LARGEST else {}


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _tail(path: Path) -> list[bytes]:
    """The last lines of a file."""
    try:
        with path.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _TAIL, 0))
            return file.read(_TAIL).split(b"\n")
    except OSError:
        return []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 53 else None


def number(value: Any) -> float | None:
    """The number that a value from a file is; None if it is no finite one."""
    if type(value) not in (int, float) or abs(value) > 1e300:
        return None
    return float(value) if math.isfinite(value) else None
