"""The run folder: configuration, metrics, result. Every file in it is readable at any moment of the run."""

import fcntl
import json
import os
from collections.abc import Callable
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
      UserError: it is in use by a live run, or holds something else than expected. Nothing in it is changed.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        if resume:
            require(
                (path / "config.json").is_file(),
                f"--run.resume: there is no run in {path} (no config.json). Name the folder of an earlier run.",
            )
        elif path.exists():
            require(path.is_dir(), f"--run.dir={path} is a file; name a folder.")
            # A run that was killed before it wrote its configuration leaves no more than its lock.
            strange = sorted(p.name for p in path.iterdir() if p.name != "lock")
            require(
                not strange,
                f"--run.dir={path} is not empty. Continue its run with --run.resume, or name another folder.",
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
            raise UserError(
                f"--run.dir={path} is in use by a live run. Wait for it, or name another folder."
            ) from error
        self._metrics = None

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file whole or not at all."""
        temporary = self.path / f".{name}.partial"

        def write() -> None:
            with temporary.open("w") as file:
                json.dump(value, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / name)

        self._guard(write)

    def keep_rows(self, step: int) -> None:
        """Drops the rows of metrics.jsonl after `step` (they will be made again) and a torn last line."""
        kept = [row for row in read_rows(self.path) if row["step"] <= step]
        temporary = self.path / ".metrics.jsonl.partial"
        self._guard(lambda: temporary.write_text("".join(json.dumps(row) + "\n" for row in kept)))
        temporary.replace(self.path / "metrics.jsonl")

    def append(self, rows: list[Row]) -> None:
        """Appends rows to metrics.jsonl."""

        def write() -> None:
            if self._metrics is None:
                self._metrics = (self.path / "metrics.jsonl").open("a")
            self._metrics.write("".join(json.dumps(row) + "\n" for row in rows))
            self._metrics.flush()

        self._guard(write)

    def close(self) -> None:
        """Lets go of the folder."""
        if self._metrics is not None:
            self._metrics.close()
        self._lock.close()

    def _guard(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written: {error.strerror}. Free some space and continue with --run.resume; "
                "nothing up to the last checkpoint is lost."
            ) from error


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
