"""Runs as one page of HTML: self-contained, for a phone as for a wide screen, light and dark.

Everything that runs brought along (names, options, reasons) is text to the template, which escapes
it; no link and no script is made of it, and the page forbids both to itself. The template stands
beside this file.
"""

import base64
import dataclasses
import datetime
import importlib.metadata
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from missing_bits.pictures import canvas
from missing_bits.pictures import comparison as pictures
from missing_bits.results import drawings, protocols, settings, table
from missing_bits.results.comparison import Comparison, Group, Task
from missing_bits.results.folders import Run, number

_TEMPLATE = Path(__file__).with_name("page.html")
# How files of these endings begin.
_PICTURES = {".png": (b"\x89PNG\r\n\x1a\n",), ".gif": (b"GIF87a", b"GIF89a")}
_LARGEST = 8 << 20  # bytes of a picture
_MOST = 64 << 20  # bytes of all pictures: what a phone still opens
_OPEN = 6  # runs up to which each is unfolded from the start


class Picture(NamedTuple):
    """A picture of a run."""

    name: str
    source: Markup
    """A data URI."""


@dataclass(frozen=True)
class Row:
    """A run as the page shows it."""

    number: int
    run: Run
    changed: str
    command: str
    pictures: Sequence[Picture] = ()
    left_out: Sequence[str] = ()
    """Pictures that are too large."""

    @property
    def figures(self) -> dict[str, float]:
        """Final scores and baselines by name."""
        figures = {name: number(value) for name, value in self.run.result.items()}
        return {
            name: value
            for name, value in figures.items()
            if name.startswith(("eval/", "baseline/")) and value is not None
        }

    @property
    def facts(self) -> dict[str, str]:
        """How the figures came about, in words."""
        result = self.run.result
        versions = self.run.versions.items()
        found = {
            "done": table.done(self.run),
            "seeds": ", ".join(map(str, self.run.seeds)),
            "protocol": protocols.words(self.run.protocol),
            "seconds": "" if self.run.seconds is None else f"{self.run.seconds:,.0f}",
            "devices": self.run.devices,
            "parameters (digest)": _text(result.get("digest"))[:16],
            "data (digest)": self.run.data_digest[:16],
            "versions": ", ".join(f"{name} {version}" for name, version in versions),
        }
        return {name: value for name, value in found.items() if value}


class View(NamedTuple):
    """A task as the page shows it."""

    task: Task
    curves: Markup | None
    seeds: Sequence[int]
    """Of all groups."""


def page(runs: Sequence[Run], compared: Comparison | None, with_pictures: bool = True) -> str:
    """The page as text.

    Args:
      runs: all of them.
      compared: those that are finished, compared; None if none is.
      with_pictures: whether to put in the runs' own pictures.
    """
    rows = _rows(runs, with_pictures)
    numbers = {row.run.folder: row.number for row in rows}
    tasks = compared.tasks if compared else ()
    effects = compared.effects if compared else ()
    profiles = drawings.of_profiles(compared) if compared else None
    return _template().render(
        title=_title(runs),
        states=", ".join(f"{n} {state}" for state, n in Counter(r.state for r in runs).items()),
        made=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        version=importlib.metadata.version("missing-bits"),
        rows=rows,
        numbers=numbers,
        compared=compared,
        views=[_view(task) for task in tasks],
        profiles=_svg(profiles),
        effects=[(effect, _svg(drawings.of_effect(effect))) for effect in effects],
        options=_options(tasks),
        groups=[group for task in tasks for group in task.groups],
        unfolded=len(rows) <= _OPEN,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.globals |= {
        "estimate": _estimate,
        "figure": table.figure,
        "headline": table.headline,
        "metric": table.metric,
        "done": table.done,
        "text": settings.text,
        "color": _color,
    }
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


def _printable(value: Any) -> Any:
    """Text without what would change the direction or the lines of other text."""
    return table.plain(value) if isinstance(value, str) and not _is_safe(value) else value


def _is_safe(value: str) -> bool:
    return isinstance(value, Markup)


def _title(runs: Sequence[Run]) -> str:
    exps = list(dict.fromkeys(run.exp for run in runs if run.exp))
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''} of {', '.join(exps) or 'unknown kind'}"


def _rows(runs: Sequence[Run], with_pictures: bool) -> list[Row]:
    rows = []
    left = _MOST
    for place, run in enumerate(runs, 1):
        row = Row(place, run, settings.words(settings.changed(run)), settings.command(run))
        if with_pictures:
            found, left_out, left = _pictures(run.folder, left)
            row = dataclasses.replace(row, pictures=found, left_out=left_out)
        rows.append(row)
    return rows


def _pictures(folder: Path, left: int) -> tuple[list[Picture], list[str], int]:
    """The pictures of a run, those that are too large, and the bytes left for others."""
    found = []
    left_out = []
    with os.scandir(folder) as entries:
        files = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    for name in files:
        begins = _PICTURES.get(Path(name).suffix)
        if begins is None:
            continue
        size = (folder / name).stat().st_size
        if size > min(_LARGEST, left):
            left_out.append(name)
            continue
        content = (folder / name).read_bytes()
        if content.startswith(begins):
            kind = "png" if name.endswith(".png") else "gif"
            encoded = base64.b64encode(content).decode()
            found.append(Picture(name, Markup(f"data:image/{kind};base64,{encoded}")))
            left -= size
    return found, left_out, left


def _view(task: Task) -> View:
    seeds = sorted({seed for group in task.groups for seed in group.seeds})
    return View(task, _svg(drawings.of_task(task)), seeds)


def _svg(drawing: pictures.Drawing | None) -> Markup | None:
    return Markup(pictures.svg(drawing)) if drawing else None


def _options(tasks: Sequence[Task]) -> dict[str, dict[str, str]]:
    """The options in which groups differ: their values by the groups' letters."""
    groups: list[Group] = [group for task in tasks for group in task.groups]
    firsts = [group.runs[0] for group in groups]
    names = settings.differing(firsts)
    found: dict[str, dict[str, str]] = {}
    if len({(run.exp, run.task) for run in firsts}) > 1:
        found["experiment"] = {group.letter: group.runs[0].exp for group in groups}
        found["subject"] = {group.letter: group.runs[0].task for group in groups}
    for name in names:
        found[f"--{name}"] = {g.letter: settings.text(g.runs[0].value(name)) for g in groups}
    return found


def _color(place: int) -> str:
    """The color of a curve; ink is that of the text. Curves beyond the last have none."""
    if place >= pictures.MOST:
        return "transparent"
    color = canvas.COLORS[place]
    return "currentColor" if color == canvas.INK else color


def _estimate(found: Any) -> str:
    return "-" if found is None else table.estimate(*found)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
