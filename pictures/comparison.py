"""Pictures of several runs together: learning curves, performance profiles, options of sweeps.

Each is a function that draws on axes, so that one file can hold several of them and a page each by
itself. In SVG for pages, ink takes the color of the text around it, and texts stay texts.
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from missing_bits.numeric import ceil_div
from missing_bits.pictures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = len(canvas.COLORS)  # lines in one picture
_LONGEST = 44  # characters of a label
_FEW = 4  # lines that are named in full
_SIZE = (4.8, 3.6)  # inches of a picture: its letters are readable on a phone
_WIDE = 20  # the largest value of an option over the smallest: from there its axis is logarithmic
_COLORED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
# Names may have letters that the font has not: they are drawn as boxes, without a word.
_STRANGE_LETTERS = {"action": "ignore", "category": UserWarning}

Drawing = Callable[["Axes"], None]


class Curve(NamedTuple):
    """A learning curve over P points of the budget."""

    letter: str
    label: str
    seeds: int
    steps: np.ndarray  # [P]
    mean: np.ndarray  # [P]
    low: np.ndarray  # [P], of its interval
    high: np.ndarray  # [P]


def curves(found: Sequence[Curve], title: str, metric: str, unit: str) -> Drawing:
    """Learning curves with their intervals.

    Args:
      found: the best first, `MOST` at most. More than a few are named in brief, without their
        number of seeds. Colors go by labels: the same settings look alike on every task.
      title: above them.
      metric: what they show.
      unit: of the budget.
    """

    def draw(axes: "Axes") -> None:
        by_label = sorted(found, key=lambda curve: (curve.label, curve.letter))
        colors = dict(zip((curve.letter for curve in by_label), canvas.COLORS, strict=False))
        for curve in found:
            color = colors[curve.letter]
            seeds = f" ({curve.seeds} seed{'s' if curve.seeds > 1 else ''})"
            seeds = seeds if len(found) <= _FEW else ""
            named = f"{curve.letter}: {curve.label}"
            label = canvas.short(named, _longest(found) - len(seeds)) + seeds
            axes.plot(curve.steps, curve.mean, color=color, marker=".", markersize=4, label=label)
            axes.fill_between(
                curve.steps, curve.low, curve.high, color=color, alpha=0.18, linewidth=0
            )
        axes.set(
            title=canvas.short(title, _LONGEST),
            xlabel=canvas.short(unit.replace("_", " "), _LONGEST),
            ylabel=_metric(metric),
        )
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(_thousands)
        _finish(axes)

    return draw


def profiles(
    thresholds: np.ndarray, found: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> Drawing:
    """Performance profiles (Agarwal et al. 2021, figure 4).

    Args:
      thresholds: [T], normalized scores.
      found: by label, the share of runs above each threshold and its interval, [T] each.
    """

    shown = min(len(found), MOST)
    of_all = f" ({shown} of {len(found)})" if shown < len(found) else ""

    def draw(axes: "Axes") -> None:
        for (label, (share, low, high)), color in zip(found.items(), canvas.COLORS, strict=False):
            axes.plot(thresholds, share, color=color, label=canvas.short(label, _longest(found)))
            axes.fill_between(thresholds, low, high, color=color, alpha=0.18, linewidth=0)
        axes.set(
            title=f"Performance profiles{of_all}",
            xlabel="normalized score",
            ylabel="share of runs above it",
            ylim=(-0.02, 1.02),
        )
        _finish(axes)

    return draw


def effect(option: str, points: Mapping[str, Sequence[float]], metric: str, title: str) -> Drawing:
    """A metric against the values of an option: each run, and the means of values that recur.

    Args:
      option: its name.
      points: by value, as text, the metric of each run.
      metric: its name.
      title: above them.
    """

    def draw(axes: "Axes") -> None:
        places = _places(list(points))
        for place, scores in zip(places, points.values(), strict=True):
            axes.plot([place] * len(scores), scores, "o", color=canvas.COLORS[0], alpha=0.5)
        if 2 * len(points) <= sum(map(len, points.values())):  # most values come several times
            means = [float(np.mean(scores)) for scores in points.values()]
            axes.plot(
                places, means, color=canvas.COLORS[3], marker="_", markersize=12, label="mean"
            )
        if _are_numbers(list(points)):
            if min(places) > 0 and max(places) / min(places) >= _WIDE:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(_short)
                axes.xaxis.set_minor_formatter("")
        else:
            names = [canvas.short(value or "none", 16) for value in points]
            axes.set_xticks(places, names, rotation=20 if len(names) > 3 else 0)
        axes.set(
            title=canvas.short(title, _LONGEST),
            xlabel=canvas.short(f"--{option}", _LONGEST),
            ylabel=_metric(metric),
        )
        axes.margins(0.08)
        _finish(axes)

    return draw


def save(drawings: Sequence[Drawing], path: Path) -> None:
    """Writes pictures side by side into one file, whose ending says its kind (.png, .svg, .pdf).

    Raises:
      ValueError: it is of no kind that Matplotlib writes.
    """
    import matplotlib

    columns = min(2, len(drawings))
    rows = ceil_div(len(drawings), columns)
    settings = {"text.parse_math": False, "font.size": 10}
    with matplotlib.rc_context(settings), warnings.catch_warnings(**_STRANGE_LETTERS):
        size = (_SIZE[0] * columns, _SIZE[1] * rows)
        figure = canvas.figure(figsize=size, layout="constrained")
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, draw in zip(grid, drawings, strict=False):  # one may be left over
            draw(axes)
        for axes in grid[len(drawings) :]:
            axes.set_axis_off()
        figure.savefig(path, dpi=150)


def svg(draw: Drawing) -> str:
    """A picture as an element for a page, in the page's own text color."""
    import matplotlib

    settings = {
        "text.parse_math": False,
        "font.size": 10,
        "svg.fonttype": "none",
        "svg.hashsalt": "missing_bits",
        **dict.fromkeys(_COLORED, canvas.INK),
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings(**_STRANGE_LETTERS):
        figure = canvas.figure(figsize=_SIZE, layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        draw(axes)
        written = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", metadata=metadata)
    element = written.getvalue().partition("<svg")
    text = re.sub(r"<metadata>.*?</metadata>", "", element[1] + element[2], flags=re.DOTALL)
    return text.replace(canvas.INK, "currentColor")


def _places(values: Sequence[str]) -> list[float]:
    """Where values stand along an axis: numbers at their size, texts side by side."""
    return list(map(float, values if _are_numbers(values) else range(len(values))))


def _are_numbers(values: Sequence[str]) -> bool:
    try:
        return bool(np.all(np.isfinite(np.array(values, float))))
    except ValueError:
        return False


def _metric(name: str) -> str:
    return canvas.short(name.removeprefix("eval/").replace("_", " "), _LONGEST)


def _thousands(x: float, _: int) -> str:
    return f"{x:,.0f}"


def _short(x: float, _: int) -> str:
    return f"{x:g}"


def _longest(found: Sized) -> int:
    """Characters of a label, of which many stand in two columns."""
    return _LONGEST if len(found) <= _FEW else _LONGEST * 3 // 5


def _finish(axes: "Axes") -> None:
    """What all pictures look like."""
    axes.grid(alpha=0.25, color=canvas.INK, linewidth=0.5)
    labels = axes.get_legend_handles_labels()[1]
    if labels:
        columns = 1 if len(labels) <= _FEW else 2
        below = {"loc": "upper left", "bbox_to_anchor": (0, -0.2)}
        axes.legend(frameon=False, fontsize=9, ncols=columns, borderaxespad=0, **below)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
