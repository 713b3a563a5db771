"""What a person sees of a run: a live line on a terminal or plain lines, and TensorBoard events."""

import os
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from missing_bits.plan import Plan

Row = dict[str, Any]


class Report:
    """Shows a run's progress and sends its rows to TensorBoard.

    Args:
      folder: the run folder; events go to its `tensorboard/`.
      plan: budget, unit and what the line shows after the headline.
      headline: the metric that stands for the run.
      start: units done before this session.
      seeds: the run's seeds.
    """

    def __init__(
        self, folder: Path, plan: Plan, headline: str, start: int, seeds: list[int]
    ) -> None:
        self._unit = plan.unit.replace("_", " ")
        self._budget = plan.budget
        self._names = (headline, *(name for name in plan.shown if name != headline))
        self._shown_at = 0.0
        self._events = {
            seed: _Events(folder / "tensorboard" / f"seed{seed}", start + 1) for seed in seeds
        }
        self._latest: dict[str, float] = {}
        self._live = None
        if sys.stdout.isatty():
            columns = [
                TextColumn("{task.fields[done]}"),
                BarColumn(bar_width=10),
                TimeRemainingColumn(compact=True),
            ]
            columns += [TextColumn("{task.fields[status]}", highlighter=None)]
            self._live = Progress(*columns, console=Console(highlight=False))
            self._task = self._live.add_task(
                "", total=plan.budget, completed=start, done="compiling", status=""
            )
            self._live.start()

    def say(self, message: str) -> None:
        """Prints a line above the progress line."""
        if self._live:
            self._live.console.print(message, markup=False, soft_wrap=True)
        else:
            print(message)

    def progress(self, step: int, rate: float) -> None:
        """Moves the live line to `step` at `rate` units per second."""
        now = time.perf_counter()
        if self._live and now - self._shown_at > 0.1:
            self._shown_at = now
            shown = _shown(self._names, self._latest)[:2]  # what 80 columns hold
            status = "  ".join([f"{rate:,.0f}/s", *shown])
            done = f"{step:,} {self._unit}"
            self._live.update(
                self._task, completed=min(step, self._budget), done=done, status=status
            )

    def rows(self, rows: list[Row], rate: float) -> None:
        """Shows rows of metrics: those with a seed in TensorBoard, the last one on the line."""
        for row in rows:
            if "seed" in row:
                figures = {name: value for name, value in row.items() if "/" in name}
                self._events[row["seed"]].add(row["step"], figures)
        step = rows[-1]["step"]
        figures = {
            name: value
            for name, value in rows[-1].items()
            if "/" in name and not name.startswith("time/")
        }
        if not self._live:
            shown = "  ".join(_shown(self._names, figures))
            print(f"{step:>10,} {self._unit}  {rate:>9,.0f}/s  {shown}", flush=True)
        self._latest |= figures
        self.progress(step, rate)

    def close(self) -> None:
        """Ends the live line."""
        if self._live:
            self._live.stop()


class _Events:
    """A TensorBoard event file, on disk at every moment.

    tensorboardX's own writer hands events to a thread; on a full disk that thread dies, and the run
    waits for it.

    Args:
      folder: where the file goes; each session of a run has its own.
      start: steps from here on in earlier files are void.
    """

    def __init__(self, folder: Path, start: int) -> None:
        library = _tensorboardx()
        self._event = library.event_pb2.Event
        self._checksum = library.masked_crc32c
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"events.out.tfevents.{time.time():.0f}.{os.getpid()}"
        self._append(file_version="brain.Event:2")
        self._append(
            step=start,
            session_log=library.event_pb2.SessionLog(status=library.event_pb2.SessionLog.START),
        )

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Appends figures by name."""
        self._append(
            step=step,
            summary={"value": [{"tag": n, "simple_value": v} for n, v in figures.items()]},
        )

    def _append(self, **fields: Any) -> None:
        data = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        check = [struct.pack("<I", self._checksum(part)) for part in (length, data)]
        with self._path.open("ab") as file:
            file.write(length + check[0] + data + check[1])


class _TensorBoardX(NamedTuple):
    """What is used of tensorboardX."""

    event_pb2: Any
    masked_crc32c: Callable[[bytes], int]


def _tensorboardx() -> _TensorBoardX:
    """The library, imported late, because `--help` does not need it.

    Importing it sets an environment variable, which is taken back.
    """
    before = dict(os.environ)
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    return _TensorBoardX(event_pb2, masked_crc32c)


def _shown(names: Sequence[str], metrics: dict[str, float]) -> list[str]:
    return [f"{name.split('/')[1]} {metrics[name]:.4g}" for name in names if name in metrics]
