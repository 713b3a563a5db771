"""Gaussian blur of one image, as in torchvision's tensor version: a cut-off kernel, reflecting edges."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.augment import geometry


def reach(height: int, width: int) -> int:
    """How far the kernel reaches, in pixels: it is about a tenth of the image wide (23 of 224), at least 3."""
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
    rows, columns = (
        jnp.einsum(
            "d,dij->ij", weights, _at_distance(size, distances), precision=jax.lax.Precision.HIGHEST
        )
        for size in image.shape[1:]
    )
    return geometry.resample(image, rows, columns)


def _at_distance(size: int, distances: int) -> np.ndarray:
    """How often the pixel at distance d from pixel i is pixel j (0, 1 or 2): [distances + 1, size, size]."""
    counts = np.zeros((distances + 1, size, size), np.float32)
    i, last = np.arange(size), size - 1
    for offset in range(-distances, distances + 1):
        reflected = last - np.abs(last - np.abs(i + offset))
        counts[abs(offset), i, reflected] += 1
    return counts
