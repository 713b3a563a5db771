"""Runs as a table: what each row says, which rows, in which order; as text and as CSV."""

import csv
import difflib
import fnmatch
import io
import os
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from missing_bits.errors import UserError, require
from missing_bits.results import settings
from missing_bits.results.folders import Run

_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda mine, given: mine < given,
    ">": lambda mine, given: mine > given,
    "<=": lambda mine, given: mine <= given,
    ">=": lambda mine, given: mine >= given,
}
_COLUMNS: dict[str, Callable[[Run], Any]] = {
    "folder": lambda run: str(run.folder),
    "experiment": lambda run: run.exp,
    "subject": lambda run: run.task,
    "state": lambda run: run.state,
    "done": lambda run: run.done,
    "budget": lambda run: run.budget,
    "unit": lambda run: run.unit,
    "metric": lambda run: run.headline.name if run.headline else "",
    "headline": lambda run: run.score,
    "low": lambda run: run.low,
    "high": lambda run: run.high,
    "seeds": lambda run: run.run.get("num_seeds"),
    "seconds": lambda run: run.seconds,
    "why": lambda run: run.why,
}
"""The columns of CSV, by which runs may be sorted and filtered."""


def chosen(runs: Sequence[Run], conditions: str) -> list[Run]:
    """The runs that meet all conditions.

    Args:
      runs: all of them.
      conditions: separated by spaces, such as "state=finished learning-rate<=1e-3 folder!=*old*":
        a column or an option, a comparison, a value. Texts may be patterns.

    Raises:
      UserError: a condition is none, or no run has what it names.
    """
    try:
        parts = shlex.split(conditions)
    except ValueError as error:
        raise UserError(f"--filter={conditions}: a quotation mark has no partner.") from error
    for part in parts:
        match = re.fullmatch(r"([\w.-]+?)(<=|>=|!=|=|<|>)(.*)", part, re.DOTALL)
        require(
            match is not None,
            f"--filter: {part} is no condition; write NAME=VALUE, !=, <, >, <= or >=, such as "
            "state=finished.",
        )
        name, compared, value = match.groups()
        _check_name(runs, "filter", name)
        if compared in _COMPARED:
            require(
                _number(value) is not None, f"--filter: {part} compares with {value}, no number."
            )
        runs = [run for run in runs if _meets(_value(run, name), compared, value)]
    return list(runs)


def _meets(mine: Any, compared: str, given: str) -> bool:
    if compared in _COMPARED:
        number = _number(mine)
        return number is not None and _COMPARED[compared](number, _number(given))
    numbers = _number(mine), _number(given)
    same = numbers[0] == numbers[1] if None not in numbers else False
    same = same or fnmatch.fnmatchcase(settings.text(mine), given)
    return same == (compared == "=")


def ordered(runs: Sequence[Run], by: str) -> list[Run]:
    """The runs sorted by a column or an option, those without a value last.

    Args:
      runs: in any order.
      by: its name; with a dash before it the other way round. Headlines begin with the best.

    Raises:
      UserError: no run has it.
    """
    name = by.removeprefix("-")
    _check_name(runs, "sort", name)
    keys = [(_key(run, name), run) for run in runs]
    known = [pair for pair in keys if pair[0] is not None]
    # Numbers before texts: an option may hold either.
    known.sort(key=lambda pair: (isinstance(pair[0], str), pair[0]), reverse=by.startswith("-"))
    return [run for _, run in known] + [run for key, run in keys if key is None]


def _key(run: Run, name: str) -> float | str | None:
    value = _value(run, name)
    if value is None or value == "":
        return None
    if name == "headline":
        return -value if run.headline and run.headline.larger_is_better else value
    number = _number(value)
    return settings.text(value) if number is None else number


def _value(run: Run, name: str) -> Any:
    return _COLUMNS[name](run) if name in _COLUMNS else run.value(name)


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _check_name(runs: Sequence[Run], option: str, name: str) -> None:
    if name in _COLUMNS or any(run.value(name) is not None for run in runs):
        return
    known = [*_COLUMNS, *dict.fromkeys(key for run in runs for key in run.options or ())]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    raise UserError(
        f"--{option}: {name} is neither a column nor an option of these runs. Did you mean "
        f"{close}? Columns are {', '.join(_COLUMNS)}."
    )


# As text.

HEADS = ("run", "experiment", "subject", "state", "done", "headline", "seconds", "settings, why")
_RIGHT = {"done", "seconds"}


def lines(runs: Sequence[Run], width: int | None = None) -> list[str]:
    """The table as lines to print, a head first.

    Args:
      runs: its rows.
      width: at which lines are cut; None for never.
    """
    rows = [[plain(cell) for cell in cells(run)] for run in runs]
    return aligned(HEADS, rows, _RIGHT, width)


def cells(run: Run) -> list[str]:
    """What a row says under HEADS."""
    said = [settings.words(settings.changed(run)), run.why]
    unknown = run.options is None and run.state != "damaged"
    return [
        str(run.folder),
        run.exp,
        run.task,
        run.state,
        done(run),
        headline(run),
        "" if run.seconds is None else f"{run.seconds:,.0f}",
        "; ".join(filter(None, ["settings unknown" if unknown else "", *said])),
    ]


def done(run: Run) -> str:
    """The budget done: "3,000 env steps", or "1,500 of 3,000 env steps"."""
    if run.done is None:
        return ""
    of = "" if run.budget in (None, run.done) else f" of {run.budget:,}"
    return f"{run.done:,}{of} {run.unit.replace('_', ' ')}"


def headline(run: Run) -> str:
    """The headline with its interval: "return_mean 431 [319, 500]"."""
    if run.headline is None or run.score is None:
        return ""
    return f"{metric(run.headline.name)} {estimate(run.score, run.low, run.high)}"


def metric(name: str) -> str:
    """A metric's name as tables say it."""
    return name.removeprefix("eval/")


def estimate(value: float, low: float | None, high: float | None) -> str:
    """A figure with its interval, if it has one."""
    if low is None or high is None:
        return figure(value)
    return f"{figure(value)} [{figure(low)}, {figure(high)}]"


def figure(value: float) -> str:
    """A figure with four digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def aligned(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: set[str],
    width: int | None = None,
) -> list[str]:
    """A table as lines, its columns as wide as they must be.

    Args:
      heads: of the columns.
      rows: a text for each column.
      right: heads of columns whose texts stand at the right.
      width: at which lines are cut; None for never.
    """
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    found = []
    for row in (heads, *rows):
        line = [
            cell.rjust(wide) if head in right else cell.ljust(wide)
            for cell, wide, head in zip(row, widths, heads, strict=True)
        ]
        found.append("  ".join(line).rstrip()[:width])
    return found


def plain(text: str) -> str:
    """A text without line breaks and what else would reach a terminal as a command."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


# As CSV.


def as_csv(runs: Sequence[Run]) -> str:
    """The table as CSV: all columns, and one for each option that any run has changed."""
    names = list(dict.fromkeys(name for run in runs for name in settings.changed(run)))
    written = io.StringIO()
    writer = csv.writer(written, lineterminator=os.linesep)
    writer.writerow([*_COLUMNS, *map(_cell, names)])
    for run in runs:
        values = [*(column(run) for column in _COLUMNS.values()), *map(run.value, names)]
        writer.writerow([_cell(value) for value in values])
    return written.getvalue()


def _cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula."""
    if not isinstance(value, str | list):
        return settings.text(value)
    text = plain(settings.text(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
