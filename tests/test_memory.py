"""How much memory there is: of the system, and of the control groups that this process is in."""

import pathlib

import pytest

from missing_bits import memory
from missing_bits.errors import UserError

SYSTEM = 1_000_000


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Return what makes a control group with a limit, some of it taken, some of that files."""

    def group(name, most, taken, files):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{taken}\n")
        (folder / "memory.stat").write_text(f"anon {taken - files}\nfile {files}\n")

    read = pathlib.Path.read_text

    def read_text(path, *arguments):
        if str(path) == "/proc/self/cgroup":
            return "1:name=systemd:/other\n0::/job/step\n"
        return read(path, *arguments)

    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_of_system", lambda: SYSTEM)
    monkeypatch.setattr(pathlib.Path, "read_text", read_text)
    return group


def test_a_process_has_what_the_narrowest_of_its_groups_leaves(groups):
    assert memory.available() == SYSTEM
    groups("other", 10, 0, 0)
    groups("job/step/below", 10, 0, 0)
    assert memory.available() == SYSTEM, "it is not in these"
    groups("job/step", "max", 500, 0)
    assert memory.available() == SYSTEM
    groups("job", 900_000, 300_000, 100_000)
    assert memory.available() == 700_000, "files can be read again"
    groups("job/step", 400_000, 200_000, 0)
    assert memory.available() == 200_000
    groups("", 100_000, 150_000, 0)
    assert memory.available() == 0


def test_what_does_not_fit_is_refused_with_both_sizes(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 3 << 30)
    memory.check(3 << 30, "The replay")
    with pytest.raises(UserError, match=r"The replay needs 4.0 GiB of memory, and 3.0 GiB are"):
        memory.check(4 << 30, "The replay")
