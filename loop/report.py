"""What a person sees of a run: one live line on a terminal, plain lines elsewhere, and TensorBoard events."""

import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Row = dict[str, Any]
_QUIET = ("eval/return_std", "eval/return_min", "eval/return_max")


class Report:
    """Shows a run's progress and sends its rows to TensorBoard.

    Args:
      folder: the run folder; events go to its `tensorboard/`.
      unit: the unit of the budget.
      budget: in units.
      start: units done before this session.
      seeds: the run's seeds.
    """

    def __init__(self, folder: Path, unit: str, budget: int, start: int, seeds: list[int]) -> None:
        from tensorboardX import SummaryWriter

        self._unit, self._budget = unit.replace("_", " "), budget
        self._shown_at = 0.0
        logdirs = {seed: folder / "tensorboard" / f"seed{seed}" for seed in seeds}
        self._writers = {seed: SummaryWriter(str(path), purge_step=start + 1) for seed, path in logdirs.items()}
        self._latest: dict[str, float] = {}
        self._live = None
        if sys.stdout.isatty():
            columns = [TextColumn("{task.description}"), BarColumn(bar_width=20), TaskProgressColumn()]
            columns += [TextColumn("{task.fields[status]}"), TimeRemainingColumn(compact=True)]
            self._live = Progress(*columns, console=Console(), transient=False)
            self._task = self._live.add_task("", total=budget, completed=start, status="compiling")
            self._live.start()

    def say(self, message: str) -> None:
        """Prints a line above the progress line."""
        (self._live.console.print if self._live else print)(message)

    def progress(self, step: int, rate: float) -> None:
        """Moves the live line to `step` at `rate` units per second."""
        now = time.perf_counter()
        if self._live and now - self._shown_at > 0.1:
            self._shown_at = now
            status = f"{rate:,.0f} {self._unit}/s  " + "  ".join(_shown(self._latest))
            self._live.update(self._task, completed=min(step, self._budget), status=status)

    def rows(self, rows: list[Row], rate: float) -> None:
        """Shows rows of metrics: those with a seed go to TensorBoard, the last one onto the line."""
        for row in rows:
            if "seed" in row:
                for name, value in row.items():
                    if "/" in name:
                        self._writers[row["seed"]].add_scalar(name, value, row["step"])
        step = rows[-1]["step"]
        if not self._live:
            figures = {name: value for name, value in rows[-1].items() if "/" in name and not name.startswith("time/")}
            print(f"{step:>10,} {self._unit}  {rate:>9,.0f}/s  " + "  ".join(_shown(figures)), flush=True)
        self._latest |= {
            name: value for name, value in rows[-1].items() if "/" in name and not name.startswith("time/")
        }
        self.progress(step, rate)

    def close(self) -> None:
        """Ends the live line and flushes the events."""
        if self._live:
            self._live.stop()
        for writer in self._writers.values():
            writer.close()


def _shown(metrics: dict[str, float]) -> list[str]:
    wanted = ("eval/", "train/episode_return", "train/loss", "train/epsilon")
    names = [name for prefix in wanted for name in metrics if name.startswith(prefix) and name not in _QUIET]
    return [f"{name.split('/')[1]} {metrics[name]:.4g}" for name in names]
