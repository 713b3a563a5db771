"""Lines for whoever watches a run: worth knowing, and nothing depends on them."""

import contextlib
import sys


def say(line: str) -> None:
    """Writes a line to standard error, which may be closed."""
    with contextlib.suppress(OSError, ValueError):
        print(" ".join(line.split()), file=sys.stderr, flush=True)
