"""What a set of images is, wherever it comes from."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

_CHUNK = 1_000  # images whose moments are taken at once


class Lazy(Protocol):
    """Images that are decoded when asked for."""

    shape: tuple[int, int, int, int]

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The images [n, H, W, C] of indices [n]: the same whenever it is asked."""


class Split(NamedTuple):
    """Images of one purpose."""

    images: np.ndarray | Lazy  # uint8 [N, H, W, C]
    labels: np.ndarray | None  # int32 [N]


class Moments(NamedTuple):
    """Of pixels in [0, 1], for each channel."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images for training, and others that training never sees."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    """What the labels stand for; empty without labels."""
    digest: str
    """SHA-256 of all images and labels."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.train.images.shape[1:]

    def moments(self) -> Moments:
        """Mean and deviation of each channel of training pixels in [0, 1].

        The deviation is at least 1/255. Of images that are decoded when asked for, at most 1,000
        are read, evenly spaced.
        """
        return self._moments

    @cached_property
    def _moments(self) -> Moments:
        images = self.train.images
        count = images.shape[0]
        channels = images.shape[3]
        used = count if isinstance(images, np.ndarray) else min(count, _CHUNK)
        indices = np.linspace(0, count - 1, used).round().astype(int)
        counts = np.zeros((channels, 256))
        for start in range(0, used, _CHUNK):
            pixels = images[indices[start : start + _CHUNK]].reshape(-1, channels)
            counts += [np.bincount(channel, minlength=256) for channel in pixels.T]
        shares = counts / counts.sum(axis=1, keepdims=True)  # [channels, 256]
        levels = np.arange(256) / 255
        mean = shares @ levels
        variance = shares @ levels**2 - mean**2
        deviation = np.sqrt(np.maximum(variance, 255.0**-2))
        return Moments(tuple(mean.tolist()), tuple(deviation.tolist()))


def in_memory(train: Split, test: Split, classes: tuple[str, ...]) -> ImageSet:
    """The set of two splits that are arrays, with its digest."""
    found = hashlib.sha256()
    for array in (*train, *test):
        if array is not None:
            found.update(f"{array.dtype}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
    return ImageSet(train, test, classes, found.hexdigest())


def one_in_five(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices for training and for testing: a fifth, at random but fixed.

    For a set that has no split of its own.
    """
    order = np.random.default_rng(0).permutation(count)
    tested = max(1, count // 5)
    return np.sort(order[tested:]), np.sort(order[:tested])
