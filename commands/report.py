"""Runs as one page of HTML.

python run.py report RUNS... --out=report.html
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from missing_bits.commands import command_line
from missing_bits.commands.compare import check_out
from missing_bits.errors import UserError, remedy, require
from missing_bits.experiments import COMMANDS
from missing_bits.results import folders


@dataclass(frozen=True)
class Config:
    """Writes runs into one HTML file that needs no network: comparison, curves, pictures, the
    settings that differ, versions, and the command that repeats each run."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUNS...")] = ()
    """Folders of runs or sweeps, folders above them, or patterns."""
    out: str = "report.html"
    """The file to write; one that is there is replaced."""
    baseline: str = ""
    """Folder of the run whose group others are compared with; by default that of the first run."""
    pictures: bool = True
    """Put in the pictures and GIFs that the runs left."""


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status."""
    config = command_line.of_command("report", Config, arguments)
    require(bool(config.runs), f"report needs runs: {COMMANDS['report'].usage}")
    out = Path(config.out)
    check_out(out, (".html", ".htm"))
    runs = folders.find(config.runs)
    from missing_bits.results import comparison, page

    compared = None
    if comparison.comparable(runs):
        baseline = Path(config.baseline) if config.baseline else None
        compared = comparison.compare(runs, baseline)
    text = page.page(runs, compared, config.pictures)
    try:
        out.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(
            f"--out={out} cannot be written: {error.strerror}. {remedy(error)}"
        ) from error
    print(f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {out}")
    return 0
