"""Pixels as features: what probes reach without any encoder, at a bounded cost.

A probe's memory grows with N D and its time with N D K, so pictures that are too large for that are
shrunk: each number is then the mean of an area. What comes of it names its size, as raw pixels and
means of 32 x 32 areas are different baselines.
Shapes: N images, H, W, C of an image, D numbers of a feature, K classes.
"""

from typing import NamedTuple

import numpy as np

from missing_bits.data.images import Lazy

_NUMBERS = 3_072  # of a feature, at most: those of 32 x 32 pixels in color
_IMAGES = 60_000  # of a split, at most
_PRODUCTS = 1 << 31  # N D K, at most: one pass over the images in about a second on two cores
_SIDE = 4  # the longer side is never shrunk below
_AT_ONCE = 1 << 24  # numbers of the images that are shrunk at once: 64 MiB


class Pixels(NamedTuple):
    """How images become features."""

    rows: int
    columns: int
    shrunk: bool
    """Whether features are means of areas, not the pixels themselves."""
    images: int
    """Of a split that are to be used, at most, evenly spaced."""
    fewer: bool
    """Whether that leaves training images out."""

    @property
    def name(self) -> str:
        """What metrics call them: "pixels", or such as "pixels_32x32_of_60000"."""
        size = f"_{self.rows}x{self.columns}" if self.shrunk else ""
        return f"pixels{size}" + (f"_of_{self.images}" if self.fewer else "")

    def __str__(self) -> str:
        what = f"{self.rows} x {self.columns} means of pixels" if self.shrunk else "raw pixels"
        return what + (f" of {self.images:,} training images" if self.fewer else "")

    def features(self, images: np.ndarray | Lazy) -> np.ndarray:
        """Features [N, D], float32 in [0, 1], of images uint8 [N, H, W, C], read few at once."""
        count, height, width, channels = images.shape
        found = np.empty((count, self.rows, self.columns, channels), np.float32)
        down = _means(height, self.rows)  # [rows, H]
        across = _means(width, self.columns)  # [columns, W]
        at_once = max(1, _AT_ONCE // (height * width * channels))
        for start in range(0, count, at_once):
            indices = np.arange(start, min(start + at_once, count))
            some = images[indices].astype(np.float32) / 255
            if self.shrunk:
                some = np.einsum("rh,nhwc,sw->nrsc", down, some, across, optimize=True)
            found[indices] = some
        return found.reshape(count, -1)


def of(shape: tuple[int, int, int, int], classes: int) -> Pixels:
    """The finest features of training images [N, H, W, C] that probes of K classes can afford.

    At most 60,000 images of 3,072 numbers, and at most 2^31 products of a number with a class in
    all, unless that needs fewer than 4 x 4 areas. In float32 that is 0.7 GB at most; on two cores
    it takes minutes, whatever the set.
    """
    count, height, width, channels = shape
    images = min(count, _IMAGES)
    most = min(_NUMBERS, _PRODUCTS // (images * max(classes, 1)))
    longer = max(height, width)
    side = longer
    while True:
        rows = max(1, height * side // longer)
        columns = max(1, width * side // longer)
        if rows * columns * channels <= most or side <= _SIDE:
            break
        side -= 1
    return Pixels(rows, columns, side < longer, images, images < count)


def _means(size: int, parts: int) -> np.ndarray:
    """The matrix [parts, size] that makes means over equal parts; a pixel may belong to two."""
    edges = np.linspace(0, size, parts + 1)
    pixel = np.arange(size)[None]
    ends = np.minimum(edges[1:, None], pixel + 1)
    starts = np.maximum(edges[:-1, None], pixel)
    return (np.maximum(ends - starts, 0) * parts / size).astype(np.float32)
