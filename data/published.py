"""Published files: in a user's folder, in the cache, or downloaded, each held to its hash."""

import hashlib
import os
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from missing_bits import notes
from missing_bits.data import files
from missing_bits.errors import UserError, require

_PATIENCE = 20  # seconds without an answer until a download is given up
_LARGEST = 100 << 20  # bytes of a download


def contents(
    what: str,
    sums: Mapping[str, str],
    data_dir: str,
    below: str,
    fetch: Callable[[str], bytes],
) -> dict[str, bytes]:
    """What published files hold, by name.

    Args:
      what: they are, for messages.
      sums: the SHA-256 of each file by its name.
      data_dir: the folder that holds them; empty for the cache, which is filled by downloads.
      below: folder within `data_dir` and within the cache, if the files are not in `data_dir`
        itself.
      fetch: maps the name of a file to what a download gives.

    Raises:
      UserError: they are nowhere, or one is not the published file.
    """
    folder = files.at(data_dir) if data_dir else files.cache(below)
    if data_dir and not os.path.isfile(folder / next(iter(sums))):
        folder = folder / below
    found = {}
    for name, wanted in sums.items():
        path = folder / name
        if os.path.isfile(path):
            found[name] = files.read(path, f"Expected {', '.join(sums)} in {folder}.")
        else:
            require(
                not data_dir,
                f"--data-dir={data_dir} holds no {name}, nor does its folder {below}; {what} is "
                f"the files {', '.join(sums)}.",
            )
            found[name] = _downloaded(what, path, fetch, sums)
        have = hashlib.sha256(found[name]).hexdigest()
        require(
            have == wanted,
            f"{path} is not the published file: it has SHA-256 {have[:12]}..., not "
            f"{wanted[:12]}... Remove it and get it anew.",
        )
        if not path.exists():
            _keep(path, found[name])
    return found


def _downloaded(
    what: str, path: Path, fetch: Callable[[str], bytes], sums: Mapping[str, str]
) -> bytes:
    try:
        return fetch(path.name)
    except Exception as error:  # urllib, http, and what unpacks archives raise anything
        raise UserError(
            f"{what} is not on this machine and could not be downloaded ({error}). Put the files "
            f"{', '.join(sums)} into a folder and give it as --data-dir."
        ) from error


def _keep(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        notes.say(f"{path.name} could not be kept for the next run: {error}.")


def get(url: str) -> bytes:
    """What a download gives."""
    with urllib.request.urlopen(url, timeout=_PATIENCE) as response:
        return response.read(_LARGEST)
