"""Files: where published sets lie, and what a user's folder holds."""

import os
from pathlib import Path
from typing import NamedTuple

from missing_bits import memory
from missing_bits.errors import UserError


def at(written: str) -> Path:
    """A path as it is written, "~" at its start being the home of a user if there is one.

    Whether something is there `os.path` tells: methods of `Path` raise errors for names that are
    too long, and for folders that are closed.
    """
    return Path(os.path.expanduser(written))


def cache(name: str) -> Path:
    """The folder where the files of a set are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "missing_bits" / name


def read(path: Path, advice: str) -> bytes:
    """What a file holds.

    Raises:
      UserError: it cannot be read, with a message that ends in `advice`, or memory does not suffice
        for it and an array of the same size.
    """
    try:
        memory.check(2 * path.stat().st_size, f"Reading {path}")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. {advice}") from error


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden, or what a system leaves behind for itself."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


class Found(NamedTuple):
    """What lies in a folder or below it, sorted, without litter."""

    files: list[Path]
    folders: list[Path]
    closed: list[Path]
    """Folders that cannot be opened."""


def entries(folder: Path) -> Found:
    """What lies in a folder itself; links are what they lead to."""
    try:
        paths = sorted(path for path in folder.iterdir() if not is_litter(path.name))
    except OSError:
        return Found([], [], [folder])
    folders = [path for path in paths if os.path.isdir(path)]
    return Found([path for path in paths if not os.path.isdir(path)], folders, [])


def below(root: Path) -> Found:
    """What lies below a folder, at any depth.

    A folder that was met before, under whatever name, or that holds this one, is passed over: links
    may lead in circles.
    """
    found = Found([], [], [])
    met = {os.path.realpath(folder) for folder in root.absolute().parents}
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in met:
            continue
        met.add(real)
        here = entries(folder)
        waiting += here.folders
        for all_of, mine in zip(found, here, strict=True):
            all_of.extend(mine)
    return Found(*map(sorted, found))
