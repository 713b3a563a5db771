"""What is told of data that a user has brought: what was made of it, and what was left out."""

import contextlib
import os
import sys
from collections.abc import Iterable

_LONGEST = 60  # characters of a name that are shown


def say(line: str) -> None:
    """Writes a line to standard error, which may be closed: nothing depends on it."""
    with contextlib.suppress(OSError, ValueError):
        print(" ".join(line.split()), file=sys.stderr, flush=True)


def some(names: Iterable[object], most: int = 8) -> str:
    """Names one after the other, at most so many; what cannot be printed is spelled out."""
    named = [str(name) for name in names]
    short = [name[:_LONGEST] + "..." * (len(name) > _LONGEST) for name in named[:most]]
    shown = [name if name.isprintable() else ascii(name) for name in short]
    more = len(named) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def number(count: int, one: str, many: str = "") -> str:
    """A count with its noun, such as "1 picture" and "2 pictures"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def printable(name: str) -> str:
    """The name of a file as text, whatever bytes the system has for it."""
    return os.fsencode(name).decode(errors="replace")
