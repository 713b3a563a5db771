"""What is told of data that a user has brought: what was made of it, and what was left out."""

import os
from collections.abc import Iterable

from missing_bits.data.images import ImageSet


def short(text: str, most: int = 60) -> str:
    """So many characters of what stands in a file, spelled out if they cannot be printed."""
    found = " ".join(text[:most].split()) + "..." * (len(text) > most)
    return found if found.isprintable() else ascii(found)


def some(names: Iterable[object], most: int = 8) -> str:
    """Names one after the other, at most so many."""
    named = [str(name) for name in names]
    more = len(named) - most
    return ", ".join(map(short, named[:most])) + (f" and {more:,} more" if more > 0 else "")


def number(count: int, one: str, many: str = "") -> str:
    """A count with its noun, such as "1 picture" and "2 pictures"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def lacking(loaded: ImageSet) -> list[str]:
    """What is told of classes that are trained on and not tested, or tested and not trained on."""
    if loaded.test.labels is None:
        return []
    told = []
    for split, what in ((loaded.labeled, "to train on"), (loaded.test, "to test")):
        names = loaded.lacking(split)
        if names:
            told.append(f"classes with nothing {what}: {some(names, 5)}")
    return told


def printable(name: str) -> str:
    """The name of a file as text, whatever bytes the system has for it."""
    return os.fsencode(name).decode(errors="replace")
