"""The run folder: configuration, metrics, result. Every file is readable at any moment."""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from missing_bits.errors import UserError, require

Row = dict[str, Any]


class RunFolder:
    """One run's folder, held by this process until `close`.

    Args:
      path: the folder.
      resume: whether it must hold a run to continue; otherwise it must be new or empty.

    Raises:
      UserError: it is in use by a live run, or holds something else than expected. Nothing in it is
      changed.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        if resume:
            require(
                (path / "config.json").is_file(),
                f"--run.resume: there is no run in {path} (no config.json). Name the "
                "folder of an earlier run.",
            )
        elif path.exists():
            require(path.is_dir(), f"--run.dir={path} is a file; name a folder.")
            # A run that was killed before its configuration stood leaves no more than these.
            require(
                {p.name for p in path.iterdir()} <= {"lock", ".config.json.partial"},
                f"--run.dir={path} is not empty. Continue its run with --run.resume, or name "
                "another folder.",
            )
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / "lock").open("w")
        except OSError as error:
            raise UserError(f"--run.dir={path} cannot be written: {error.strerror}.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise UserError(
                f"--run.dir={path} is in use by a live run. Wait for it, or name another folder."
            ) from error

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file that this suite wrote; empty where it is missing or torn."""
        try:
            value = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def set_aside_result(self) -> None:
        """Renames the result of a run that is extended, so that none stands for what is to come."""
        result = self.path / "result.json"
        if result.exists():
            result.replace(self.path / "result-before.json")

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file whole or not at all."""
        self._replace(name, json.dumps(value, indent=2) + "\n")

    def keep_rows(self, step: int) -> None:
        """Drops the rows after `step`, which will be made again, and a torn line."""
        kept = [row for row in read_rows(self.path) if row["step"] <= step]
        self._replace("metrics.jsonl", _lines(kept))

    def append(self, rows: list[Row]) -> None:
        """Appends rows to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(_lines(rows))

    def close(self) -> None:
        """Lets go of the folder."""
        self._lock.close()

    def _replace(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.partial"
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / name)


def read_rows(path: Path) -> list[Row]:
    """The rows of a run's metrics.jsonl; a last line that a crash tore is passed over."""
    file = path / "metrics.jsonl"
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
