"""Some images of a split, evenly spaced, as networks get them."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.data.images import Split
from missing_bits.eval.probes import at_once


def chosen(split: Split, most: int) -> np.ndarray:
    """Indices [n] of at most so many images of a split, evenly spaced."""
    count = split.images.shape[0]
    return np.linspace(0, count - 1, min(count, most)).astype(int)


def read(split: Split, indices: np.ndarray) -> jax.Array:
    """Images, float [n, H, W, C] in [0, 1]."""
    return jnp.asarray(split.images[indices]) / 255


def batches(split: Split, most: int, size: int = 0) -> Iterator[tuple[slice, jax.Array]]:
    """The images of `chosen`, some at once, and which of them these are.

    Args:
      split: of images.
      most: images, all together.
      size: images at once; 0 for as many as networks get.
    """
    indices = chosen(split, most)
    size = size or at_once(split.images.shape[1:])
    for start in range(0, len(indices), size):
        some = slice(start, start + size)
        yield some, read(split, indices[some])
