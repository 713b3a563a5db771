"""Write constraints.txt: the whole closure of versions, as resolved in fresh virtual environments.

Run as `make constraints`. Needs Python 3.11, 3.12 and 3.13 on the PATH (or named as arguments) and
takes some minutes. Python 3.11 stands apart (JAX 0.11 and later need 3.12); 3.13 must resolve to
the versions of 3.12, or this script says which differ and stops. Run the tests on all three
before you commit what it wrote.
"""

import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEFAULT = ("python3.11", "python3.12", "python3.13")
HEADER = """\
# What was tested, with everything it brings along and the extras atari, box2d, sweep and video.
# Written by `make constraints`; do not edit by hand.
# Python 3.11 stands apart: JAX 0.11 and later need Python 3.12.
"""


def resolve(python: str, folder: str) -> dict[str, str]:
    """Install everything, unconstrained, afresh; return each distribution's version."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check"]
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    loose = [line for line in lines if line and not line.startswith(("-", "#"))]
    extras = f"{ROOT}[atari,box2d,sweep,video]"
    subprocess.run([*pip, "install", "--quiet", "-e", extras, *loose], check=True)
    frozen = subprocess.check_output([*pip, "freeze", "--exclude-editable"], text=True)
    return dict(line.split("==") for line in frozen.splitlines())


def merge(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Merge the pins of Python 3.11 (`old`) and of 3.12 and later (`new`) into sorted lines."""
    lines = []
    for name in sorted(old.keys() | new.keys(), key=str.lower):
        if old.get(name) == new.get(name):
            lines.append(f"{name}=={old[name]}")
            continue
        if name in old:
            lines.append(f'{name}=={old[name]} ; python_version < "3.12"')
        if name in new:
            lines.append(f'{name}=={new[name]} ; python_version >= "3.12"')
    return lines


def main(pythons: list[str]) -> None:
    """Resolve on each of the three Pythons and write the file."""
    with tempfile.TemporaryDirectory() as folder:
        old, new, newest = (resolve(python, f"{folder}/{i}") for i, python in enumerate(pythons))
    differing = sorted(
        name for name in new.keys() | newest.keys() if new.get(name) != newest.get(name)
    )
    if differing:
        sys.exit(
            f"constraints.txt left as it was: {pythons[1]} and {pythons[2]} differ in {differing}"
        )
    (ROOT / "constraints.txt").write_text(HEADER + "\n".join(merge(old, new)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or list(DEFAULT))
