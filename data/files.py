"""Files of published sets."""

import os
from pathlib import Path

from missing_bits.errors import UserError


def cache(name: str) -> Path:
    """The folder where the files of a set are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "missing_bits" / name


def read(path: Path, advice: str) -> bytes:
    """What a file holds.

    Raises:
      UserError: it cannot be read; the message ends in `advice`.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. {advice}") from error
