"""The run folder: configuration, metrics, result. Every file is readable at any moment."""

import fcntl
import json
import math
import os
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from missing_bits.errors import UserError, remedy, require

Row = dict[str, Any]


class Rows(NamedTuple):
    """What metrics.jsonl holds."""

    rows: list[Row]
    strange: int
    """Lines that are no rows; a last one that a crash tore is not counted."""


ENDED = "ended.json"
_ASKING = 0.1  # seconds: far more than `is_held` holds a lock
# A run that was killed before its configuration stood leaves no more than the first two; a sweep
# puts the others there.
_BEFORE_A_RUN = {"lock", ".config.json.partial", "trial.json", ENDED}


class Ended(NamedTuple):
    """Why a run ended before its budget was spent: what `ended.json` holds.

    A process that is killed at once (SIGKILL, no power) leaves none.
    """

    state: str
    """ "stopped" by a signal, or "failed"."""
    why: str
    """The exception or the signal."""
    step: int
    """Budget units done."""
    resume: str
    """The command that continues the run."""


class RunFolder:
    """One run's folder, held by this process until `close`.

    Args:
      path: the folder.
      resume: whether it must hold a run to continue; otherwise it must be new or empty.

    Raises:
      UserError: it is in use by a live run, cannot be used, or holds something else than expected.
      Nothing in it is changed.

    Attributes:
      rows: how many rows were written up to now, by earlier sessions too.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self.rows = 0
        try:
            self._check(resume)
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / "lock").open("w")
        except OSError as error:
            raise UserError(
                f"--run.dir={path} cannot be used: {error.strerror}. {remedy(error)}"
            ) from error
        except ValueError as error:  # a NUL within
            raise UserError(f"--run.dir={str(path)!r} is no path: {error}.") from error
        try:
            self._hold()
        except OSError as error:
            self._lock.close()
            told = "is in use by a live run. Wait for it, or name another folder."
            if not isinstance(error, BlockingIOError):
                told = f"is on a disk that cannot lock files ({error.strerror}): name another one."
            raise UserError(f"--run.dir={path} {told}") from error

    def _hold(self) -> None:
        """Takes the lock, at the second attempt where somebody was just asking who holds it."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_ASKING)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _check(self, resume: bool) -> None:
        path = self.path
        if resume:
            require(
                (path / "config.json").is_file(),
                f"--run.resume: there is no run in {path} (no config.json). Name the "
                "folder of an earlier run.",
            )
        elif path.exists():
            require(path.is_dir(), f"--run.dir={path} is a file; name a folder.")
            found = {p.name for p in path.iterdir()}
            what_helps = "Continue its run with --run.resume, or name another folder."
            if "config.json" not in found:
                what_helps = (
                    "It has no config.json, so that no run can go on there: name another folder; "
                    "if it is what was left of a run, remove it."
                )
            require(found <= _BEFORE_A_RUN, f"--run.dir={path} is not empty. {what_helps}")

    def set_aside_result(self) -> None:
        """Renames the result of a run that is extended, so that none stands for what is to come."""
        result = self.path / "result.json"
        if result.exists():
            result.replace(self.path / "result-before.json")

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file whole or not at all; numbers that are not finite as null."""
        self._replace(name, json.dumps(_valid(value), indent=2, allow_nan=False) + "\n")

    def keep_rows(self, step: int, written: int) -> None:
        """Drops the rows after `step`, which will be made again, and lines that are no rows.

        Args:
          step: of the checkpoint from which the run goes on; -1 without one.
          written: how many rows were written up to it. If some are missing, a warning says so.
        """
        found = read_rows(self.path)
        kept = [row for row in found.rows if row["step"] <= step]
        lost = max(written - len(kept), 0)
        if lost or found.strange:
            warnings.warn(
                f"{self.path / 'metrics.jsonl'} is damaged: {lost} of {written} rows up to step "
                f"{max(step, 0):,} are lost, {found.strange} lines are no rows and were dropped. "
                "The run itself goes on unharmed.",
                stacklevel=2,
            )
        self.rows = len(kept)
        self._replace("metrics.jsonl", _lines(kept))

    def append(self, rows: list[Row]) -> None:
        """Appends rows to metrics.jsonl."""
        self.rows += len(rows)
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(_lines(rows))

    def sync(self) -> None:
        """Brings the rows to the disk: a checkpoint that counts must not outlive them."""
        with (self.path / "metrics.jsonl").open("a") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Lets go of the folder."""
        self._lock.close()

    def _replace(self, name: str, text: str) -> None:
        write_whole(self.path / name, text)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object that this suite wrote; empty where it is missing, torn or something else."""
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_whole(file: Path, text: str) -> None:
    """Writes a file whole or not at all, whatever happens meanwhile."""
    temporary = file.with_name(f".{file.name}.partial")
    with temporary.open("w") as partial:
        partial.write(text)
        partial.flush()
        os.fsync(partial.fileno())
    temporary.replace(file)


def is_held(path: Path) -> bool:
    """Whether a live run holds a folder. Nothing in it is changed."""
    try:
        lock = os.open(path / "lock", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # there is none
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)  # otherwise a disk without locks
    finally:
        os.close(lock)
    return False


def read_rows(path: Path) -> Rows:
    """What a run's metrics.jsonl holds, whatever has been done to it."""
    file = path / "metrics.jsonl"
    lines = file.read_bytes().split(b"\n") if file.exists() else [b""]
    read = [(line, _row(line)) for line in lines]
    rows = [row for _, row in read if row is not None]
    # What follows the last line's end is empty, or torn by a crash.
    strange = sum(row is None and bool(line.strip()) for line, row in read[:-1])
    return Rows(rows, strange)


def _row(line: bytes) -> Row | None:
    """The row that stands on a line; None if there is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(_valid(row), allow_nan=False) + "\n" for row in rows)


def _valid(value: Any) -> Any:
    """A JSON value in which numbers that are not finite, which JSON does not know, are null."""
    if isinstance(value, dict):
        return {name: _valid(mine) for name, mine in value.items()}
    if isinstance(value, list):
        return [_valid(mine) for mine in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
