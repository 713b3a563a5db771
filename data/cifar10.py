"""CIFAR-10 (Krizhevsky 2009): color images of 32x32 pixels in ten classes.

50,000 are to train on, 10,000 to test.
"""

import codecs
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from missing_bits.data import files
from missing_bits.data.images import ImageSet, Split, in_memory
from missing_bits.errors import UserError, require

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BINARY = "cifar-10-batches-bin"
PYTHON = "cifar-10-batches-py"
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_PIXELS = 3 * 32 * 32
_HELP = (
    "Unpack cifar-10-binary.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html) into it: "
    f"{BINARY}/"
)


def load(data_dir: str = "") -> ImageSet:
    """The images, in their binary or their Python version.

    Args:
      data_dir: where the files are; empty for the cache.

    Raises:
      UserError: the files are not there, or damaged.
    """
    root = files.at(data_dir) if data_dir else files.cache("cifar10")
    place = (
        f"--data-dir={root}" if data_dir else f"{root} (or the folder that you give as --data-dir)"
    )
    for folder in (root / BINARY, root / PYTHON, root):
        for suffix, read in ((".bin", _read_binary), ("", _read_pickle)):
            if os.path.exists(folder / f"test_batch{suffix}"):
                parts = [read(folder / f"{name}{suffix}") for name in _TRAIN]
                train = Split(
                    np.concatenate([part.images for part in parts]),
                    np.concatenate([part.labels for part in parts]),
                )
                return in_memory(train, read(folder / f"test_batch{suffix}"), CLASSES)
    raise UserError(f"CIFAR-10 is not in {place}. {_HELP}")


def _read_binary(path: Path) -> Split:
    content = np.frombuffer(files.read(path, _HELP), np.uint8)
    whole = len(content) > 0 and len(content) % (1 + _PIXELS) == 0
    require(
        whole, f"{path} is damaged: {len(content)} bytes, not a multiple of {1 + _PIXELS}. {_HELP}"
    )
    rows = content.reshape(-1, 1 + _PIXELS)
    return _split(path, rows[:, 1:], rows[:, 0])


def _read_pickle(path: Path) -> Split:
    content = files.read(path, _HELP)
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        rows = np.asarray(batch[b"data"])
        labels = np.asarray(batch[b"labels"])
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}). {_HELP}") from error
    return _split(path, rows, labels)


def _split(path: Path, rows: np.ndarray, labels: np.ndarray) -> Split:
    fits = (
        len(labels) > 0
        and rows.dtype == np.uint8
        and rows.shape == (len(labels), _PIXELS)
        and labels.min() >= 0
        and labels.max() < len(CLASSES)
    )
    require(bool(fits), f"{path} does not hold images of 32x32x3 bytes with labels 0 to 9. {_HELP}")
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # [N, 32, 32, 3]
    return Split(np.ascontiguousarray(images), labels.astype(np.int32))


class _Unpickler(pickle.Unpickler):
    """Makes arrays and nothing else: a pickle could run any code."""

    _KNOWN = {  # noqa: RUF012
        ("multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        known = self._KNOWN.get((module.rpartition(".")[2], name))
        if known is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known
