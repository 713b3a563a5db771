"""A sweep's folder. Its run folders are the truth; all else is what was asked for.

    sweep.json            what is swept, written once
    trials/0000/          an ordinary run folder; `trial.json` in it says which settings it has
    confirm-0003-5/       the run that confirms trial 0003, the winner, on five seeds
    groups/0/checkpoints  of trials that are rows of one program
    logs/0000.txt         what a trial's process printed
    claims/0000.lock      held by the process that works on a trial, and by the trial's own

A claim is a lock of the system, which lets go of it when its holders end, however they end: a trial
whose process died can be taken up by anyone, and one that outlives its sweep cannot.
"""

import contextlib
import fcntl
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from missing_bits.errors import UserError, remedy, require
from missing_bits.eval.evaluation import Headline
from missing_bits.loop.folder import ENDED, read_json, read_rows, write_whole
from missing_bits.sweeps.pruners import Curve
from missing_bits.sweeps.space import Settings

_CONFIRM = "confirm"
_TYPES = {"exps": list, "fixed": list, "over": dict, "sampler": str, "pruner": str}
_TYPES |= {"pack": str, "groups": list}
_KINDS = {
    "sampler": ("grid", "random", "tpe"),
    "pruner": ("none", "halving", "median"),
    "pack": ("auto", "yes", "no"),
}
_COUNTS = ("seeds", "trials", "seed")
_TORN = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Sweep:
    """What is swept."""

    exps: list[str]
    """Experiments."""
    fixed: list[str]
    """Arguments that all trials share."""
    over: dict[str, str]
    """The values or the range of each option that is varied, as text."""
    seeds: int
    """Of each trial."""
    sampler: str
    trials: int
    """How many there are."""
    pruner: str
    seed: int
    """Of the sampler."""
    pack: str
    """Whether trials are rows of one program, as it was asked for."""
    groups: list[list[int]]
    """The numbers of trials that are rows of one program; none where each has its own."""


class Trial(NamedTuple):
    """One setting, trained with all its seeds."""

    number: int
    exp: str
    settings: Settings

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.number:04d}"


class Standing(NamedTuple):
    """How far a trial is."""

    state: str
    """ "finished", "pruned", "failed", "stopped", or "open" where it has not ended."""
    score: float | None
    """Its headline: at the end, or where it was pruned."""
    why: str = ""
    interval: tuple[float, float] | None = None
    """95 % of its score, with several seeds."""
    seconds: float | None = None
    compile_seconds: float | None = None


class Folder:
    """A sweep's folder.

    Args:
      path: of the folder.

    Raises:
      UserError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            require(not path.is_file(), f"--dir={path} is a file; name a folder.")
            if not (path / "sweep.json").exists():
                self._refuse_what_is_no_sweep()
            for name in ("trials", "logs", "claims"):
                (path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--dir={path} cannot be used: {error.strerror}. {remedy(error)}"
            ) from error
        except ValueError as error:  # a NUL within
            raise UserError(f"--dir={str(path)!r} is no path: {error}.") from error

    def _refuse_what_is_no_sweep(self) -> None:
        """Raises `UserError` for a folder of something else, in which nothing is made then."""
        found = {path.name for path in self.path.iterdir()} if self.path.exists() else set()
        strange = {name for name in found if name[0] != "."} - {"trials", "logs", "claims"}
        require(
            (not strange and not any(self.path.glob("trials/*")))
            or (self.path / "sweep.json").exists(),  # by now: another process was first
            f"--dir={self.path} holds something else than a sweep (no sweep.json): name a new "
            "folder.",
        )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While nobody else writes `sweep.json` or proposes a trial."""
        with (self.path / "claims" / "sweep.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self) -> Sweep | None:
        """What is swept here; None where nothing has been begun.

        Raises:
          UserError: `sweep.json` is damaged.
        """
        file = self.path / "sweep.json"
        if not file.exists():
            return None
        try:
            read = json.loads(file.read_text())
            known = Sweep.__dataclass_fields__.keys()
            require(isinstance(read, dict) and read.keys() == known, "")
            require(all(isinstance(read[name], kind) for name, kind in _TYPES.items()), "")
            require(all(type(read[name]) is int and read[name] >= 0 for name in _COUNTS), "")
            words = [*read["exps"], *read["fixed"], *read["over"].values()]
            require(bool(read["exps"]) and all(isinstance(word, str) for word in words), "")
            require(all(read[name] in kinds for name, kinds in _KINDS.items()), "")
            numbers = sorted(number for group in read["groups"] for number in group)
            require(all(type(number) is int for number in numbers) and all(read["groups"]), "")
            require(numbers in ([], list(range(read["trials"]))), "")
        except (OSError, ValueError, TypeError, RecursionError, UserError) as error:
            raise UserError(
                f"{file} is damaged. Mend it, or begin a new sweep in another folder: its trials "
                "are run folders of their own."
            ) from error
        return Sweep(**read)

    def write(self, sweep: Sweep) -> None:
        """Writes what is swept."""
        write_whole(self.path / "sweep.json", json.dumps(asdict(sweep), indent=2) + "\n")

    def group_path(self, number: int) -> Path:
        """Where the checkpoints of trials that are rows of one program lie."""
        return self.path / "groups" / str(number)

    def trial_path(self, name: str) -> Path:
        """The run folder of a trial, or of the confirmation."""
        return self.path / name if name.startswith(_CONFIRM) else self.path / "trials" / name

    def log_path(self, name: str) -> Path:
        """Where a trial's output goes."""
        return self.path / "logs" / f"{name}.txt"

    def claim(self, name: str) -> TextIO | None:
        """The lock of a trial, to be closed when it is done; None if somebody else has it."""
        file = (self.path / "claims" / f"{name}.lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def trial(self, number: int) -> Trial | None:
        """A trial that has been proposed.

        Raises:
          UserError: its file is damaged.
        """
        file = self.path / "trials" / f"{number:04d}" / "trial.json"
        if not file.exists():
            return None
        try:
            read = json.loads(file.read_text())
            exp = read["exp"]
            settings = read["settings"]
            strings = [exp, *settings, *settings.values()]
            require(all(isinstance(word, str) for word in strings), "")
        except (*_TORN, UserError) as error:
            raise UserError(
                f"{file} is damaged. Remove the folder to have the trial made again."
            ) from error
        return Trial(number, exp, settings)

    def propose(self, trial: Trial) -> None:
        """Writes down a trial before it is begun."""
        path = self.trial_path(trial.name)
        path.mkdir(exist_ok=True)
        told = {"number": trial.number, "exp": trial.exp, "settings": trial.settings}
        write_whole(path / "trial.json", json.dumps(told, indent=2) + "\n")

    def has_begun(self, name: str) -> bool:
        """Whether there is a run to resume."""
        return (self.trial_path(name) / "config.json").is_file()

    def end(self, name: str, state: str, why: str, step: int, resume: str) -> None:
        """Writes down that a trial failed or was pruned; a result that it has does not count."""
        path = self.trial_path(name)
        path.mkdir(exist_ok=True)
        if (path / "result.json").exists():
            (path / "result.json").replace(path / "result-before.json")
        told = {"state": state, "why": why, "step": step, "resume": resume}
        write_whole(path / ENDED, json.dumps(told, indent=2) + "\n")

    def reopen(self, name: str) -> None:
        """Lets a trial that failed be tried again."""
        (self.trial_path(name) / ENDED).unlink(missing_ok=True)

    def confirmation(self, winner: Trial, seeds: int) -> str:
        """The name of the run that confirms a winner on so many fresh seeds."""
        return f"{_CONFIRM}-{winner.name}-{seeds}"

    def failed_confirmations(self) -> list[str]:
        """The names of those that failed."""
        names = sorted(path.name for path in self.path.glob(f"{_CONFIRM}-*"))
        return [name for name in names if self.standing(name).state == "failed"]

    def headline(self) -> Headline | None:
        """The headline of the sweep's runs, once one of them has begun."""
        for file in sorted(self.path.glob("trials/*/config.json")):
            found = _headline(file)
            if found is not None:
                return found
        return None

    def budget(self, name: str) -> int | None:
        """The budget of a trial in its unit, once it has begun."""
        told = read_json(self.trial_path(name) / "config.json").get("budget")
        return told if isinstance(told, int) else None

    def step(self, name: str) -> int:
        """How far a trial's rows go."""
        return max((row["step"] for row in read_rows(self.trial_path(name)).rows), default=0)

    def curve(self, name: str) -> Curve:
        """The headline of a trial by step, the mean over its seeds; up to where it was pruned."""
        path = self.trial_path(name)
        headline = self.headline()
        if headline is None:
            return {}
        last = self.pruned_at(name)
        run = read_json(path / "config.json").get("run")
        # Of several seeds only rows of means count: those have no seed.
        several = isinstance(run, dict) and run.get("num_seeds", 1) != 1
        return {
            row["step"]: float(row[headline.name])
            for row in read_rows(path).rows
            if isinstance(row.get(headline.name), int | float)
            and several == ("seed" not in row)
            and (last is None or row["step"] <= last)
        }

    def rate(self, name: str) -> float | None:
        """Steps per second of all rows of a trial's program, once it has finished."""
        return _number(read_json(self.trial_path(name) / "result.json").get("steps_per_second"))

    def pruned_at(self, name: str) -> int | None:
        """The step at which a trial was given up; None if it was not."""
        ended = read_json(self.trial_path(name) / ENDED)
        step = ended.get("step")
        return step if ended.get("state") == "pruned" and type(step) is int else None

    def standing(self, name: str) -> Standing:
        """How far a trial is, from its folder."""
        path = self.trial_path(name)
        ended = read_json(path / ENDED)
        state = ended.get("state")
        result = read_json(path / "result.json")
        if state == "pruned":
            score = self.curve(name).get(self.pruned_at(name))
            return Standing("pruned", score, str(ended.get("why")))
        if state == "failed":
            return Standing("failed", None, str(ended.get("why")))
        if result and not result.get("finishing"):
            headline = _headline(path / "config.json")
            name = headline.name if headline else ""
            ends = (_number(result.get(f"{name}_low")), _number(result.get(f"{name}_high")))
            return Standing(
                "finished",
                _number(result.get(name)),
                interval=None if None in ends else ends,
                seconds=_number(result.get("wall_seconds")),
                compile_seconds=_number(result.get("compile_seconds")),
            )
        return Standing("stopped" if state == "stopped" else "open", None)


def _headline(config: Path) -> Headline | None:
    """The headline that a run's configuration names, if that is what stands there."""
    told = read_json(config).get("headline")
    if not isinstance(told, dict) or told.keys() != {"name", "larger_is_better"}:
        return None
    found = Headline(**told)
    fits = isinstance(found.name, str) and isinstance(found.larger_is_better, bool)
    return found if fits else None


def _number(value: Any) -> float | None:
    """The number that stands in a file; None if it is no finite one."""
    is_number = type(value) in (int, float) and math.isfinite(value)
    return value if is_number else None
