"""Arrays in files that are not trusted (.npz and .npy): checked before anything is allocated.

What an array claims to be (its header) is compared with what is stored, and with the memory there
is. Python objects are never made of a file: that could run any code.
"""

import math
import os
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from missing_bits import memory
from missing_bits.data.said import short, some
from missing_bits.errors import UserError, require

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes
_MAGIC = b"\x93NUMPY"
_ALONE = "images"  # the name of an array that a file holds alone, if nothing else is said


class _Header(NamedTuple):
    """What an array claims to be."""

    shape: tuple[int, ...]
    dtype: np.dtype


def names(path: Path, alone: str = _ALONE) -> list[str]:
    """The names of a file's arrays.

    Args:
      path: the file.
      alone: the name of the array of an .npy file.

    Raises:
      UserError: there is no such file, or it holds no arrays.
    """
    require(
        os.path.isfile(path),
        f"There is no file {path}; give an .npz, as numpy.savez writes it.",
    )
    with _reading(path):
        if _is_one_array(path):
            return [alone]
        require(
            zipfile.is_zipfile(path),
            f"{path} is not an .npz file, or one that was cut off; expected one as numpy.savez "
            "writes it.",
        )
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
    return [name.removesuffix(".npy") for name in members]


def read(
    path: Path, wanted: Sequence[str], copied: Collection[str] = (), alone: str = _ALONE
) -> dict[str, np.ndarray]:
    """Some of a file's arrays.

    Args:
      path: the file.
      wanted: names of arrays.
      copied: those of which the caller makes a copy as bytes; there must be room for it too.
      alone: the name of the array of an .npy file.

    Raises:
      UserError: one of them is damaged, holds Python objects, is encrypted or compressed in another
        way than NumPy does, is not what it claims to be, or memory does not suffice.
    """
    with _reading(path):
        if _is_one_array(path):
            with path.open("rb") as file:
                header = _header(path, alone, file, path.stat().st_size)
                _check_memory(path, {alone: header}, copied)
                file.seek(0)
                return {alone: _array(file)}
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.getinfo(f"{name}.npy") for name in wanted}
            headers = {}
            for name, member in members.items():
                _check_member(path, name, member)
                with archive.open(member) as file:
                    headers[name] = _header(path, name, file, member.file_size)
            _check_memory(path, headers, copied)
            found = {}
            for name, member in members.items():
                with archive.open(member) as file:
                    found[name] = _array(file)
            return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Makes a `UserError` of whatever reading a damaged file raises."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # zip, zlib and NumPy's parser of headers raise anything
        said = short(str(error), 200) or type(error).__name__
        raise UserError(f"{path} is damaged: {said}. Write it anew.") from error


def _is_one_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _check_member(path: Path, name: str, member: zipfile.ZipInfo) -> None:
    require(
        not member.flag_bits & 1,
        f"{path}: {some([name])} is encrypted; write the file anew, as numpy.savez does.",
    )
    require(
        member.compress_type in _COMPRESSIONS,
        f"{path}: {some([name])} is compressed by method {member.compress_type}, which NumPy does "
        "not use; write the file anew with numpy.savez_compressed.",
    )


def _header(path: Path, name: str, file: BinaryIO, stored: int) -> _Header:
    """What an array of so many bytes, its header counted, claims to be."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    require(
        version in readers,
        f"{path}: {name} is stored in version {version[0]}.{version[1]} of NumPy's format, as "
        "tables with named columns are; give plain arrays.",
    )
    shape, _, dtype = readers[version](file)
    require(
        not dtype.hasobject,
        f"{path}: {name} holds Python objects, which are never read: they could run any code. "
        f"Write plain arrays: {name} = np.array({name}.tolist()), or {name}.astype(str) of text.",
    )
    require(
        dtype.kind in "biufSU" and dtype.itemsize > 0,
        f"{path}: {name} are {short(str(dtype))}; expected numbers, or labels that are text.",
    )
    size = math.prod(shape) * dtype.itemsize
    held = stored - file.tell()
    require(
        min(shape, default=0) >= 0 and size == held,
        f"{path}: {name} claims to be {dtype} of shape {short(str(shape))}, "
        f"{short(f'{size:,}')} bytes, but {held:,} are stored; write the file anew.",
    )
    return _Header(shape, dtype)


def _check_memory(path: Path, headers: Mapping[str, _Header], copied: Collection[str]) -> None:
    """Raises `UserError` if there is no room for arrays by their names, and copies beside them.

    What does not hold bytes is converted to them first, which is one more copy.
    """
    needed = 0
    for name, header in headers.items():
        copies = int(header.dtype != np.uint8) + int(name in copied)
        needed += math.prod(header.shape) * (header.dtype.itemsize + copies)
    memory.check(needed, f"Reading {path}")


def _array(file: BinaryIO) -> np.ndarray:
    return np.lib.format.read_array(file, allow_pickle=False)
