"""A table of runs.

python run.py runs [FOLDER]
"""

import shutil
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from missing_bits.commands import command_line
from missing_bits.results import folders, table


@dataclass(frozen=True)
class Config:
    """Lists the runs in a folder and below it: what each is, how far it came, what it reached, and
    why it ended. Settings are those that differ from the defaults. Nothing is changed."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = "runs"
    """Where to look: a run, a sweep or any folder above, or a pattern in quotes."""
    sort: str = "folder"
    """Column or option to sort by: folder, experiment, subject, state, done, headline (the best
    first), seconds, learning-rate, ...; with a dash before it, the other way round."""
    filter: str = ""
    """Conditions that a run must meet, separated by spaces: 'state=failed learning-rate<=1e-3
    folder!=*old*'. Names are those of --sort; texts may be patterns."""
    csv: bool = False
    """Print comma-separated values, with a column for each option that any run has changed."""


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status."""
    config = command_line.of_command("runs", Config, arguments)
    print(listed(config, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    return 0


def listed(config: Config, width: int | None = None) -> str:
    """The table as text to print.

    Args:
      config: of the command.
      width: of the terminal, in characters; None to cut nothing.

    Raises:
      UserError: there is no such folder, no run in it, or no such column or option.
    """
    runs = folders.find([config.folder])
    found = table.chosen(runs, config.filter)
    if config.sort != "folder":  # as they were found
        found = table.ordered(found or runs, config.sort) if found else []
    if config.csv:
        return table.as_csv(found).rstrip("\r\n")
    if not found:
        return f"None of {len(runs)} runs meets --filter={table.plain(config.filter)}."
    return "\n".join(table.lines(found, width))
