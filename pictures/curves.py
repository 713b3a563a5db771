"""The learning curve of a run as a picture, and those of all its measures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from missing_bits.numeric import ceil_div
from missing_bits.pictures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(
    rows: Iterable[Mapping[str, Any]],
    metric: str,
    unit: str,
    title: str,
    path: Path,
    interval: Callable[..., tuple[float, float]],
    beside: Mapping[str, float],
) -> None:
    """Draws a metric of the per-seed rows over the budget.

    Each seed is drawn, and their mean with its 95 % interval.

    Args:
      rows: rows of metrics.jsonl; those without a number for the metric, or
        without a seed, are passed over.
      metric: the metric to draw, such as "eval/return_mean".
      unit: the unit of a row's `step`, such as "env_steps".
      title: the title.
      path: the PNG file to write; nothing is written where no row has the metric.
      interval: the lower and upper end of an interval for figures of several seeds.
      beside: what simpler methods reach, by name: each a level line.
    """
    figure = canvas.figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    if _curve(axes, rows, metric, unit, interval, beside):
        axes.set_title(title)
        figure.savefig(path, dpi=120)


def panels(
    rows: Iterable[Mapping[str, Any]],
    metrics: Sequence[str],
    unit: str,
    title: str,
    path: Path,
    interval: Callable[..., tuple[float, float]],
    beside: Callable[[str], Mapping[str, float]],
) -> None:
    """Draws several metrics as `draw` does, each in a panel of its own, three in a row.

    Args:
      rows: as of `draw`.
      metrics: to draw; those that no row has leave no panel.
      unit: as of `draw`.
      title: above all.
      path: the PNG file to write; nothing is written where no row has any of the metrics.
      interval: as of `draw`.
      beside: what simpler methods reach in a metric, by name.
    """
    rows = list(rows)
    there = [metric for metric in metrics if any(metric in row for row in rows)]
    if not there:
        return
    columns = min(3, len(there))
    lines = ceil_div(len(there), columns)
    figure = canvas.figure(figsize=(4.5 * columns, 3 * lines), layout="constrained")
    places = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, metric in zip(places, there, strict=False):
        _curve(axes, rows, metric, unit, interval, beside(metric))
    for axes in places[len(there) :]:
        axes.set_axis_off()
    figure.suptitle(title)
    figure.savefig(path, dpi=100)


def _curve(
    axes: "Axes",
    rows: Iterable[Mapping[str, Any]],
    metric: str,
    unit: str,
    interval: Callable[..., tuple[float, float]],
    beside: Mapping[str, float],
) -> bool:
    """Draws a metric, and returns whether any row has it."""
    seeds: dict[int, dict[int, float]] = {}
    for row in rows:
        if "seed" in row and isinstance(row.get(metric), int | float):
            seeds.setdefault(row["seed"], {})[row["step"]] = row[metric]
    steps = sorted(set.intersection(*map(set, seeds.values()))) if seeds else []
    if not steps:
        return False
    curves = [[curve[step] for step in steps] for curve in seeds.values()]
    values = np.array(curves)  # [seeds, points]
    if len(seeds) > 1:
        for curve in values:
            axes.plot(steps, curve, color="C0", alpha=0.25, linewidth=1)
        ends = np.array([interval(column) for column in values.T])  # [points, 2]
        axes.fill_between(steps, ends[:, 0], ends[:, 1], color="C0", alpha=0.2, linewidth=0)
        label = f"mean of {len(seeds)} seeds, 95 % interval"
    else:
        label = f"seed {next(iter(seeds))}"
    axes.plot(steps, values.mean(axis=0), color="C0", linewidth=2, marker=".", label=label)
    for i, (name, level) in enumerate(beside.items(), 1):
        axes.axhline(level, color=f"C{i}", linewidth=1, linestyle="--", label=name)
    if metric.endswith("accuracy"):
        axes.set_ylim(0, 1)
    else:
        axes.margins(y=0.15)  # a level curve is not drawn along the frame
    axes.set_xlim(left=0)
    axes.set(
        xlabel=unit.replace("_", " "),
        ylabel=metric.removeprefix("eval/").removeprefix("train/").replace("_", " "),
    )
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="best")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return True
