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
    probe: Split | None = None
    """Images with labels for probes, where those for training have none."""

    @property
    def labeled(self) -> Split:
        """What is learned from with labels: the split for probes, or else that for training."""
        return self.train if self.probe is None else self.probe

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.train.images.shape[1:]

    def lacking(self, split: Split) -> list[str]:
        """The classes of which a split with labels has no image."""
        there = set(split.labels.tolist())
        return [name for index, name in enumerate(self.classes) if index not in there]

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


def in_memory(
    train: Split, test: Split, classes: tuple[str, ...], probe: Split | None = None
) -> ImageSet:
    """The set of splits that are arrays, with its digest."""
    found = hashlib.sha256()
    for array in (*train, *test, *(probe or ())):
        if array is not None:
            found.update(f"{array.dtype}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
    return ImageSet(train, test, classes, found.hexdigest(), probe)


class Parts(NamedTuple):
    """Indices of two parts, sorted."""

    kept: np.ndarray
    held_out: np.ndarray


def divide(labels: np.ndarray, parts: int) -> Parts:
    """Holds out one example in so many of each class, at random but always the same.

    For a set that has no split of its own. At least one of a class is held out if it has two, none
    if it has one.

    Args:
      labels: int [N], the same number for all where there are none.
      parts: 5 holds out a fifth.
    """
    rng = np.random.default_rng(0)
    held_out = [np.empty(0, np.int64)]
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        count = max(len(mine) // parts, int(len(mine) > 1))
        held_out.append(mine[rng.permutation(len(mine))[:count]])
    chosen = np.sort(np.concatenate(held_out))
    return Parts(np.setdiff1d(np.arange(len(labels)), chosen), chosen)
