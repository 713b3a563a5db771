"""Gaussian blur of one image, as in torchvision's tensor version.

The kernel is cut off, edges reflect.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.augment import geometry


def reach(height: int, width: int) -> int:
    """How far the kernel reaches, in pixels.

    It is about a tenth of the image wide (23 of 224), at least 3.
    """
    return max(1, round(min(height, width) / 20))


def gaussian(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Blurs an image.

    Args:
      image: [C, H, W] float32, H and W at least 2.
      sigma: [] deviation of the kernel, in pixels, above 0.
    """
    chex.assert_rank(image, 3)
    distances = reach(*image.shape[1:])
    weights = jnp.exp(-0.5 * jnp.square(jnp.arange(distances + 1) / sigma))  # [distances + 1]
    weights = weights / (weights[0] + 2 * jnp.sum(weights[1:]))
    rows = _blurring(weights, image.shape[1])
    columns = _blurring(weights, image.shape[2])
    return geometry.resample(image, rows, columns)


def _blurring(weights: jax.Array, size: int) -> jax.Array:
    """The matrix [size, size] that blurs an axis by the weights of distances [distances + 1]."""
    counts = _at_distance(size, len(weights) - 1)
    return jnp.einsum("d,dij->ij", weights, counts, precision=jax.lax.Precision.HIGHEST)


def _at_distance(size: int, distances: int) -> np.ndarray:
    """How often the pixel at distance d from pixel i is pixel j (0, 1 or 2).

    Args:
      size: of an axis, in pixels.
      distances: the largest d.

    Returns:
      [distances + 1, size, size], for d, i and j.
    """
    counts = np.zeros((distances + 1, size, size), np.float32)
    i = np.arange(size)
    last = size - 1
    for offset in range(-distances, distances + 1):
        reflected = last - np.abs(last - np.abs(i + offset))
        counts[abs(offset), i, reflected] += 1
    return counts
