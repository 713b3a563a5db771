"""What a person sees of a run: a live line on a terminal or plain lines, and TensorBoard events."""

import os
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from missing_bits.plan import Plan


class Report:
    """Shows a run's progress.

    Args:
      plan: budget, unit and what the line shows after the headline.
      headline: the metric that stands for the run.
      start: units done before this session.
    """

    def __init__(self, plan: Plan, headline: str, start: int) -> None:
        self._unit = plan.unit.replace("_", " ")
        self._budget = plan.budget
        self._names = (headline, *(name for name in plan.shown if name != headline))
        self._shown_at = 0.0
        self._latest: dict[str, float] = {}
        self._heard = True  # until nobody reads what is printed
        self._live = None
        if _is_terminal():
            console = Console(highlight=False)
            self._wide = console.width >= 80
            columns = [TextColumn("{task.fields[done]}"), TimeRemainingColumn(compact=True)]
            columns[1:1] = [BarColumn(bar_width=10)] if self._wide else []
            columns += [TextColumn("{task.fields[status]}", highlighter=None)]
            # Without a thread of its own, which would meet a closed terminal alone.
            self._live = Progress(*columns, console=console, auto_refresh=False)
            self._task = self._live.add_task(
                "", total=plan.budget, completed=start, done="compiling", status=""
            )
            self._tell(self._live.start)

    def say(self, message: str) -> None:
        """Prints a line above the progress line."""
        if self._live:
            console = self._live.console
            self._tell(lambda: console.print(message, markup=False, soft_wrap=True))
        else:
            self._tell(lambda: print(message, flush=True))

    def doing(self, what: str) -> None:
        """Shows on the live line what is done besides training, such as "evaluating"."""
        if self._live:
            self._shown_at = 0.0
            self._tell(lambda: self._live.update(self._task, status=what, refresh=True))

    def progress(self, step: int, rate: float) -> None:
        """Moves the live line to `step` at `rate` units per second."""
        now = time.perf_counter()
        if self._live and now - self._shown_at > 0.1:
            self._shown_at = now
            shown = _shown(self._names, self._latest)[: 2 if self._wide else 1]
            status = "  ".join([_per_second(rate), *shown])
            done = f"{step:,} {self._unit}"
            at = min(step, self._budget)
            told = {"completed": at, "done": done, "status": status}
            self._tell(lambda: self._live.update(self._task, refresh=True, **told))

    def row(self, step: int, figures: Mapping[str, float], rate: float) -> None:
        """Shows the metrics of a step; evaluations leave a line of their own."""
        shown = _shown(self._names, figures)
        if not self._live or self._names[0] in figures:
            rate_now = f"{_per_second(rate):>11}" if step else " " * 11
            self.say("  ".join([f"{step:>10,} {self._unit}", rate_now, *shown]))
        self._latest |= figures
        self.progress(step, rate)

    def close(self) -> None:
        """Ends the live line."""
        if self._live:
            self._tell(self._live.stop)

    def _tell(self, show: Callable[[], None]) -> None:
        """Shows something, unless what reads it, such as `head` or a terminal, has gone.

        Nobody need listen to a run: it goes on in its folder.
        """
        if self._heard:
            try:
                show()
            except UnicodeEncodeError:  # a line that this terminal does not know how to show
                pass
            except (OSError, ValueError):  # a broken pipe, a full disk, a closed file
                self._heard = False


def _is_terminal() -> bool:
    """Whether standard output is a terminal that can show a line that changes."""
    return sys.stdout is not None and not sys.stdout.closed and sys.stdout.isatty()


class Events:
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
        # TensorBoard reads files in the order of their names: a clock that went back must not put
        # this session before an earlier one.
        stamps = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
        later = [int(stamp) + 1 for stamp in stamps if stamp.isdecimal()]
        stamp = max([int(time.time()), *later])
        self._path = folder / f"events.out.tfevents.{stamp}.{os.getpid()}"
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


def _shown(names: Sequence[str], metrics: Mapping[str, float]) -> list[str]:
    return [f"{name.split('/')[1]} {metrics[name]:.4g}" for name in names if name in metrics]


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"
