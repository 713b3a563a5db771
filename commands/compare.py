"""Runs compared with each other.

python run.py compare RUNS...
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from missing_bits.commands import command_line
from missing_bits.errors import UserError, remedy, require
from missing_bits.experiments import COMMANDS
from missing_bits.results import folders, table

if TYPE_CHECKING:  # what is imported late, so that --help and mistakes are quick
    from missing_bits.eval.statistics import Estimate
    from missing_bits.results.comparison import Comparison, Effect, Task

_MOST_SEEDS = 12  # for which each seed has a column
_MOST_ROWS = 30  # of the tables of seeds, profiles and options
_SHARES = (0.25, 0.5, 0.75, 1.0)  # normalized scores above which profiles are told


@dataclass(frozen=True)
class Config:
    """Compares finished runs. Runs with the same settings and data are a group, whose seeds are put
    together; groups on the same environment or data are compared by their headline: mean and
    interquartile mean over seeds, the difference from a reference and the probability that a run is
    better than one of it, each with a 95 % bootstrap interval (Agarwal et al. 2021). Of a sweep,
    the headline is also told against each option."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUNS...")] = ()
    """Folders of runs or sweeps, folders above them, or patterns."""
    baseline: str = ""
    """Folder of the run whose group others are compared with; by default that of the first run."""
    out: str = ""
    """File for a picture: learning curves with intervals, performance profiles, options of sweeps.
    Its ending says its kind: .png, .svg or .pdf."""


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status."""
    config = command_line.of_command("compare", Config, arguments)
    require(bool(config.runs), f"compare needs runs: {COMMANDS['compare'].usage}")
    out = Path(config.out) if config.out else None
    if out is not None:
        check_out(out, (".png", ".svg", ".pdf"))
    runs = folders.find(config.runs)
    from missing_bits.results import comparison

    compared = comparison.compare(runs, Path(config.baseline) if config.baseline else None)
    print("\n".join(told(compared)))
    if out is not None:
        draw(compared, out)
        print(f"\nCurves: {out}")
    return 0


def check_out(path: Path, kinds: tuple[str, ...]) -> None:
    """Raises `UserError` for a file that cannot be written, before anything is computed."""
    require(path.suffix in kinds, f"--out={path}: name a file that ends in {' or '.join(kinds)}.")
    require("\0" not in str(path), f"--out={str(path)!r} is no path: name a file.")
    require(not path.is_dir(), f"--out={path} is a folder: name a file.")
    require(path.parent.is_dir(), f"--out={path}: there is no folder {path.parent}. Make it first.")


def draw(compared: "Comparison", path: Path) -> None:
    """Writes all pictures of a comparison into one file.

    Raises:
      UserError: there is nothing to draw, or the file cannot be written.
    """
    from missing_bits.pictures import comparison as pictures
    from missing_bits.results import drawings

    found = drawings.every(compared)
    require(bool(found), f"--out={path}: these runs have no rows of metrics to draw.")
    try:
        pictures.save(found, path)
    except OSError as error:
        raise UserError(
            f"--out={path} cannot be written: {error.strerror}. {remedy(error)}"
        ) from error


def told(compared: "Comparison") -> list[str]:
    """A comparison as lines to print, what to know first."""
    lines = [f"note: {table.plain(note)}" for note in compared.notes]
    for task in compared.tasks:
        lines += ["", *_task(task)]
    if compared.profiles:
        lines += ["", *_profiles(compared)]
    else:
        lines += ["", compared.about_profiles]
    for effect in compared.effects:
        lines += ["", *_effect(effect)]
    return lines[1:] if lines[0] == "" else lines


def _task(task: "Task") -> list[str]:
    direction = "larger" if task.headline.larger_is_better else "smaller"
    common = f"; all with {task.common}" if task.common else ""
    heads = ["", "settings", "seeds", "mean [95 %]", "IQM [95 %]"]
    several = len(task.groups) > 1
    if several:
        heads += [f"minus {task.reference.letter}", "P(better)"]
    rows = []
    for group in task.groups:
        paired = "" if not group.paired else " paired"
        row = [group.letter, table.plain(group.label), str(len(group.seeds))]
        row += [estimate(group.mean), estimate(group.middle)]
        if several:
            row += [estimate(group.difference) + paired, estimate(group.better)]
        rows.append(row)
    head = f"{task.name}: {table.metric(task.headline.name)}, {direction} is better{common}"
    lines = [table.plain(head), *table.aligned(heads, rows, {"seeds"}), *_seeds(task)]
    for said, letters in task.protocols.items():
        of = f" of {letters}" if len(task.protocols) > 1 else ""
        lines.append(table.plain(f"protocol{of}: {said}"))
    return lines


def _seeds(task: "Task") -> list[str]:
    """Each seed's figure, seed below seed."""
    seeds = sorted({seed for group in task.groups for seed in group.seeds})
    if not 1 < len(seeds) <= _MOST_SEEDS or len(task.groups) > _MOST_ROWS:
        return []
    heads = ["", *(f"seed {seed}" for seed in seeds)]
    rows = []
    for group in task.groups:
        figures = [group.seeds.get(seed) for seed in seeds]
        rows.append([group.letter, *("" if x is None else table.figure(x) for x in figures)])
    return ["", *table.aligned(heads, rows, set(heads[1:]))]


def _profiles(compared: "Comparison") -> list[str]:
    """The share of runs above some normalized scores."""
    heads = ["settings", *(f"above {share:g}" for share in _SHARES)]
    places = [int(abs(compared.thresholds - share).argmin()) for share in _SHARES]
    rows = [
        [table.plain(label), *(f"{profile.share[place]:.0%}" for place in places)]
        for label, profile in compared.profiles.items()
    ]
    about = "Performance profile: the share of runs above a normalized score."
    lines = table.aligned(heads, rows[:_MOST_ROWS], set(heads[1:]))
    if len(rows) > _MOST_ROWS:
        lines.append(f"and {len(rows) - _MOST_ROWS} more")
    return [about, table.plain(compared.about_profiles), *lines]


def _effect(effect: "Effect") -> list[str]:
    """The headline of the trials with each value of an option."""
    about = f"{effect.sweep.name}: {table.metric(effect.headline.name)} on {effect.task}"
    if len(effect.points) > _MOST_ROWS:
        drawn = f"--{effect.option} has {len(effect.points)} values: --out=FILE.png draws them."
        return [table.plain(f"{about}: {drawn}")]
    larger = effect.headline.larger_is_better
    heads = [f"--{table.plain(effect.option)}", "trials", "mean", "best"]
    rows = []
    for value, scores in effect.points.items():
        best = max(scores) if larger else min(scores)
        mean = sum(scores) / len(scores)
        rows.append([table.plain(value), str(len(scores)), table.figure(mean), table.figure(best)])
    return [table.plain(about), *table.aligned(heads, rows, set(heads[1:]))]


def estimate(found: "Estimate | None") -> str:
    """A figure with its interval; a dash for the reference itself."""
    return "-" if found is None else table.estimate(*found)
