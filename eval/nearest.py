"""The nearest of some images to others, by the squared difference of pixels: what was memorized.

Shapes: N images to look among, Q to look for, H, W, C of an image.
"""

from typing import NamedTuple

import chex
import numpy as np

_ROWS = 500  # images that are looked for at once


class Nearest(NamedTuple):
    """What is nearest to each image."""

    indices: np.ndarray  # int [Q, k], the nearest first
    distances: np.ndarray  # float64 [Q, k], root mean squares over pixels in [0, 1]


def find(images: np.ndarray, among: np.ndarray, k: int = 1) -> Nearest:
    """The k nearest to images [Q, H, W, C] of others [N, H, W, C], both uint8."""
    chex.assert_type([images, among], np.uint8)
    chex.assert_equal_shape_suffix([images, among], 3)
    others = _pixels(among)
    lengths = np.square(others).sum(axis=1)
    indices = []
    distances = []
    for start in range(0, len(images), _ROWS):
        mine = _pixels(images[start : start + _ROWS])
        # float32 is exact enough to find candidates; their distances are then taken exactly.
        squares = lengths[None] - 2 * mine @ others.T  # [q, N], less the lengths of mine
        near = np.argpartition(squares, k - 1, axis=1)[:, :k]  # [q, k]
        differences = (mine[:, None] - others[near]).astype(np.float64)
        exact = np.sqrt(np.square(differences).mean(axis=2))
        order = np.argsort(exact, axis=1, kind="stable")
        indices.append(np.take_along_axis(near, order, axis=1))
        distances.append(np.take_along_axis(exact, order, axis=1))
    return Nearest(np.concatenate(indices), np.concatenate(distances))


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255
