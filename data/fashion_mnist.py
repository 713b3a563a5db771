"""Fashion-MNIST (Xiao et al. 2017): gray images of 28x28 pixels in ten classes.

60,000 are to train on, 10,000 to test.
"""

import gzip
import hashlib
import io
import math
import os
import urllib.request
import zlib
from pathlib import Path

import numpy as np

from missing_bits.data import files
from missing_bits.data.images import ImageSet, Split, in_memory
from missing_bits.errors import UserError, require

CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
# The published files, with the SHA-256 of what they hold once decompressed.
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_LARGEST = 16 + 60_000 * 28 * 28  # bytes of a published file, decompressed: no more is unpacked
_PATIENCE = 20  # seconds without an answer until a download is given up


def load(data_dir: str = "") -> ImageSet:
    """The images.

    Args:
      data_dir: where the files are; empty for Debian's package, the cache or the network.

    Raises:
      UserError: they are nowhere, or a file is not the published one.
    """
    cache = files.cache("fashion_mnist")
    if data_dir:
        folder = files.at(data_dir)
    elif _in(DEBIAN):
        folder = DEBIAN
    elif _in(cache):
        folder = cache
    else:
        folder = download(cache)
    require(
        os.path.isdir(folder), f"--data-dir={folder} is not a folder; expected one with {_files()}."
    )
    return in_memory(_split(folder, "train"), _split(folder, "t10k"), CLASSES)


def _split(folder: Path, name: str) -> Split:
    images = _array(folder, f"{name}-images-idx3-ubyte")
    labels = _array(folder, f"{name}-labels-idx1-ubyte")
    return Split(images[..., None], labels.astype(np.int32))


def _array(folder: Path, name: str) -> np.ndarray:
    return read_idx(_find(folder, name), FILES[name])


def download(folder: Path) -> Path:
    """Fetches the files that a folder lacks, each checked before it appears; returns the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, sha256 in FILES.items():
            if os.path.exists(_find(folder, name)):
                continue
            with urllib.request.urlopen(f"{URL}{name}.gz", timeout=_PATIENCE) as response:
                packed = response.read(_LARGEST)
            unpack(f"{URL}{name}.gz", packed, sha256)
            partial = folder / f"{name}.gz.{os.getpid()}"
            partial.write_bytes(packed)
            partial.replace(folder / f"{name}.gz")
    except OSError as error:  # urllib's errors are OSErrors too
        raise UserError(
            f"Fashion-MNIST is not on this machine and could not be downloaded ({error}). "
            f"Either run `apt-get install dataset-fashion-mnist`, or put {_files()} into a folder "
            "and give it as --data-dir."
        ) from error
    return folder


def read_idx(path: Path, sha256: str) -> np.ndarray:
    """The array of bytes in an idx file, gzipped or not.

    Raises:
      UserError: the file is missing or damaged, or its content has another hash.
    """
    content = files.read(path, f"Expected {_files()} in {path.parent}.")
    content = unpack(path, content) if path.suffix == ".gz" else content
    rank = content[3] if len(content) > 3 else 0
    require(
        content[:3] == b"\0\0\x08" and rank in (1, 3),
        f"{path} is not an idx file of bytes. Remove it and get it anew.",
    )
    start = 4 + 4 * rank
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    whole = len(content) == start + math.prod(shape)
    require(
        whole,
        f"{path} is damaged: {len(content)} bytes for an array of shape {shape}. "
        "Remove it and get it anew.",
    )
    _check(path, content, sha256)
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def unpack(name: Path | str, packed: bytes, sha256: str = "") -> bytes:
    """What a gzip file holds; its hash is checked if given."""
    try:
        with gzip.open(io.BytesIO(packed)) as file:
            content = file.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name} is damaged: {error}. Remove it and get it anew.") from error
    if sha256:
        _check(name, content, sha256)
    return content


def _check(name: Path | str, content: bytes, sha256: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    require(
        found == sha256,
        f"{name} is not the published file: its content has SHA-256 {found[:12]}..., "
        f"not {sha256[:12]}...",
    )


def _find(folder: Path, name: str) -> Path:
    """A file, gzipped unless the plain one is there."""
    return folder / name if os.path.exists(folder / name) else folder / f"{name}.gz"


def _in(folder: Path) -> bool:
    return all(os.path.exists(_find(folder, name)) for name in FILES)


def _files() -> str:
    return f"the four files {', '.join(FILES)} (each may end in .gz)"
