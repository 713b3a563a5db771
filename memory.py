"""How much memory there is, before something of a claimed size is read into it."""

import os
from pathlib import Path

from missing_bits.errors import require

_GROUPS = Path("/sys/fs/cgroup")  # control groups, each a folder in the one around it
_UNKNOWN = 8 << 30  # bytes that are taken to be there where the system does not tell


def available() -> int:
    """The bytes that this process can still take: of the system, or what its groups leave it."""
    return min(_of_system(), _of_groups())


def check(needed: int, what: str) -> None:
    """Raises `UserError` if so many bytes are not available; `what` needs them."""
    free = available()
    require(
        needed <= free,
        f"{what} needs {_giga(needed)} of memory, and {_giga(free)} are available; give less.",
    )


def _of_system() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        told = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(told.split()[1]) << 10
    except (OSError, StopIteration):  # there is no such file on a Mac
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return _UNKNOWN


def _of_groups() -> int:
    """What this process's control group, and those around it, leave."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    group = _GROUPS / own
    return min(map(_of_group, [group, *group.parents]))


def _of_group(group: Path) -> int:
    """What a container or a batch job may still take, copies of files not counted."""
    try:
        most = int((group / "memory.max").read_text())  # "max" is no limit
        taken = int((group / "memory.current").read_text())
        told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, most - taken + int(told["file"]))
    except (OSError, ValueError, KeyError):
        return 1 << 62


def _giga(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
