"""One run's folder as the loop writes it: alone, or beside others that are rows of one program."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from missing_bits import options
from missing_bits.errors import UserError, require
from missing_bits.eval import statistics
from missing_bits.eval.evaluation import Headline
from missing_bits.loop import saved
from missing_bits.loop.config import RunConfig
from missing_bits.loop.experiment import Experiment
from missing_bits.loop.folder import ENDED, Ended, RunFolder, read_json
from missing_bits.loop.report import Events

DOOR = Path(__file__).resolve().parents[1] / "run.py"


class Member:
    """A run: its configuration and its folder.

    Args:
      name: what the run is called in its folder, an experiment of the table or "module:Class".
      config: of the method.
      run: of the run.
      path: of its folder.
      goes_on: the command that continues it; by default its own.
      home: the folder of the checkpoints that it shares with others; None for its own.

    Attributes:
      seeds: its rows of the program.
      folder: held from `open` to `close`.
      over: whether it has ended before its budget was spent, so that nothing more is written.
      flags: options without which going on would end here again.
    """

    def __init__(
        self,
        name: str,
        config: Any,
        run: RunConfig,
        path: Path,
        goes_on: str = "",
        home: Path | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self.run = run
        self.path = path
        self.seeds = list(range(run.seed, run.seed + run.num_seeds))
        self.over = False
        self.flags: list[str] = []
        self._goes_on = goes_on
        self._home = home

    def open(self) -> None:
        """Takes hold of the folder, of a new run or of the one to resume.

        Raises:
          UserError: it cannot be used, or holds another run.
        """
        self.folder = RunFolder(self.path, self.run.resume)
        self.over = self._home is not None and self.has_ended
        try:
            if self.run.resume:
                self._check_what_it_holds()
        except UserError:
            self.folder.close()
            raise

    def _check_what_it_holds(self) -> None:
        shared = "checkpoints" in read_json(self.path / "config.json")
        require(
            self._home is not None or not shared,
            f"--run.resume: {self.path} is a row of a program that others share; go on with its "
            "sweep: python run.py sweep --dir=FOLDER",
        )
        read = saved.read(type(self.config), self.path)
        saved.refuse_changes(read, self.config, self.run, self.path)

    @property
    def has_ended(self) -> bool:
        """Whether its folder says so."""
        return read_json(self.path / ENDED).get("state") in ("failed", "pruned")

    def close(self) -> None:
        """Lets go of the folder; when it is opened again, the run goes on."""
        self.folder.close()
        self.run = dataclasses.replace(self.run, resume=True)

    def write_config(self, experiment: Experiment) -> None:
        """Writes config.json, for a new run or one whose budget has grown."""
        before = read_json(self.path / "config.json")
        config = options.to_json(self.config)
        if before.get("config") == config:
            return
        facts = {
            "exp": before.get("exp", self.name),
            "config": config,
            "run": before.get("run", options.to_json(self.run)),
            "options": saved.chosen(self.config, experiment),
            "subject": experiment.subject,
            "unit": experiment.plan.unit,
            "budget": experiment.plan.budget,
            "headline": experiment.evaluation.headline._asdict(),
        }
        if self._home is not None:
            facts["checkpoints"] = str(self._home)
        self.folder.write_json("config.json", facts)

    def begin(self, step: int) -> None:
        """Is told from which step on rows are written."""
        self._events = {
            seed: Events(self.path / "tensorboard" / f"seed{seed}", step + 1) for seed in self.seeds
        }

    def write(
        self,
        step: int,
        rows: Sequence[Mapping[str, float]],
        facts: Mapping[str, float],
        headline: Headline,
    ) -> None:
        """Writes a row per seed, and one of their means where there are several seeds.

        Args:
          step: in units of the budget.
          rows: of its seeds.
          facts: what all rows share.
          headline: of the run.
        """
        written: list[dict[str, Any]] = [
            {"step": step, "seed": seed, **row, **facts}
            for seed, row in zip(self.seeds, rows, strict=True)
        ]
        for row in written:
            figures = {name: value for name, value in row.items() if "/" in name}
            self._events[row["seed"]].add(step, figures)
        if len(rows) > 1:
            written.append({"step": step, **mean(rows, headline.name), **facts})
        self.folder.append(written)

    def end(self, state: str, why: str, step: int) -> None:
        """Leaves `ended.json`, which says why the run ended before its budget was spent."""
        self.over = True
        ended = Ended(state, why, step, self.resume_command)
        self.folder.write_json(ENDED, ended._asdict())

    @property
    def resume_command(self) -> str:
        """What continues this run, from any folder; code is named again, as it must be."""
        if self._goes_on:
            return self._goes_on
        options_of_run = [f"--run.dir={self.path.absolute()}", "--run.resume", *self.flags]
        arguments = [f"--exp={self.name}", *options.code_flags(self.config), *options_of_run]
        return f"python {shlex.join([str(DOOR), *arguments])}"


def mean(rows: Sequence[Mapping[str, float]], headline: str) -> dict[str, float]:
    """Means over seeds of what all have, and the 95 % interval of the headline of several."""
    names = [
        name
        for name in rows[0]
        if "/" in name and not name.startswith("time/") and all(name in row for row in rows)
    ]
    means = {name: float(np.mean([row[name] for row in rows])) for name in names}
    if headline in means and len(rows) > 1:
        low, high = statistics.interval([row[headline] for row in rows])
        means |= {f"{headline}_low": low, f"{headline}_high": high}
    return means
