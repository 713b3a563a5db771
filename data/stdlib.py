"""The Python sources of the running interpreter's standard library, with some packages as classes.

About 400 modules, 7 million characters. Left out: tests; what Linux distributions package apart or
some versions lack; what the build of the interpreter writes; and what is a table rather than code,
`encodings` (its 120 modules would stand in all splits with nearly the same lines) and `pydoc_data`
(the corpus `topics`). The sources differ between versions of Python; the digest tells.
"""

import sysconfig
import tokenize
from pathlib import Path

from missing_bits.data.documents import Corpus, Document, split_documents
from missing_bits.errors import require

CLASSES = (
    "asyncio",
    "ctypes",
    "email",
    "http",
    "importlib",
    "multiprocessing",
    "unittest",
    "urllib",
    "wsgiref",
    "xml",
)
"""Packages that have at least five modules with text in Python 3.11, 3.12 and 3.13.

The label of a document is the package it is in.
"""
_TESTS = {"test", "tests", "idle_test"}
_APART = {
    "idlelib",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "distutils",
    "ensurepip",
    "site-packages",
    "dist-packages",
}
_TABLES = {"encodings", "pydoc_data"}
_OUT = {*_TESTS, *_APART, *_TABLES, "__pycache__"}
_BUILT = ("config-", "_sysconfigdata")


def load() -> Corpus:
    """The modules in order of their paths.

    Raises:
      UserError: this Python has no standard library in files.
    """
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    paths = [
        path
        for path in paths
        if not _OUT.intersection(path.parts) and not path.parts[0].startswith(_BUILT)
    ]
    require(
        bool(paths),
        f"--data=stdlib finds no sources in {root}; "
        "use a Python with its library in files, or topics.",
    )
    return split_documents(
        Document(path.as_posix(), _read(root / path), _label(path)) for path in paths
    )


def _read(path: Path) -> str:
    with tokenize.open(path) as file:  # in the encoding that the file declares
        return file.read()


def _label(path: Path) -> str:
    return path.parts[0] if path.parts[0] in CLASSES else ""
