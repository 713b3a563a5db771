"""Distortions that gradients pass through, for both kinds of images that a discriminator sees.

DiffAugment (Zhao et al. 2020, section 3.2): where real images are few, a discriminator learns them
by heart. Real and generated images are distorted alike, and the generator's gradient passes
through: it learns images, not distorted ones. What happens to an image depends on its own key
alone.
Shapes: B images in a batch, H, W, C of an image.
"""

from collections.abc import Sequence
from typing import Literal

import chex
import jax
import jax.numpy as jnp

Distortion = Literal["color", "translation", "cutout"]

_DRAWS = 7  # uniform numbers for an image
_SHIFT = 1 / 8  # the largest translation, of a side
_HOLE = 1 / 2  # the side of what is cut out, of the image's


def distort(keys: jax.Array, images: jax.Array, distortions: Sequence[Distortion]) -> jax.Array:
    """Distorts images, each by its own key.

    "color": brightness is moved by -0.5 to 0.5, deviations from a pixel's mean over channels are
    multiplied by 0 to 2, those from the image's mean by 0.5 to 1.5. "translation": by whole pixels,
    up to an eighth of each side; what comes in is 0. "cutout": a rectangle of half of each side, at
    any place, which may reach beyond the image, becomes 0.

    Args:
      keys: [B], typed.
      images: [B, H, W, C], of mean about 0, in [-1, 1].
      distortions: in this order, whatever theirs.

    Returns:
      [B, H, W, C].
    """
    chex.assert_rank([keys, images], [1, 4])
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (_DRAWS,)))(keys)  # [B, draws]
    if "color" in distortions:
        images = _recolored(images, uniform[:, :3])
    if "translation" in distortions:
        images = _translated(images, uniform[:, 3:5])
    if "cutout" in distortions:
        images = _cut(images, uniform[:, 5:7])
    return images


def _recolored(x: jax.Array, uniform: jax.Array) -> jax.Array:
    """By uniform numbers [B, 3]."""
    brightness, saturation, contrast = uniform.T[:, :, None, None, None]  # [B, 1, 1, 1] each
    x = x + (brightness - 0.5)
    gray = jnp.mean(x, axis=3, keepdims=True)
    x = gray + (x - gray) * (2 * saturation)
    mean = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    return mean + (x - mean) * (contrast + 0.5)


def _translated(x: jax.Array, uniform: jax.Array) -> jax.Array:
    """By uniform numbers [B, 2]: products with matrices, whose gradients are fast everywhere."""
    rows = _shift(x.shape[1], uniform[:, 0])  # [B, H, H]
    columns = _shift(x.shape[2], uniform[:, 1])  # [B, W, W]
    x = jnp.einsum("bgh,bhwc->bgwc", rows, x, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("bvw,bgwc->bgvc", columns, x, precision=jax.lax.Precision.HIGHEST)


def _shift(size: int, uniform: jax.Array) -> jax.Array:
    """Matrices [B, size, size] that move pixels along an axis."""
    most = round(size * _SHIFT)
    moved = jnp.floor(uniform * (2 * most + 1)) - most  # [B], -most to most
    places = jnp.arange(size, dtype=jnp.float32)
    taken = places[None, :, None] - moved[:, None, None] == places[None, None, :]
    return taken.astype(jnp.float32)


def _cut(x: jax.Array, uniform: jax.Array) -> jax.Array:
    """By uniform numbers [B, 2]."""
    _, height, width, _ = x.shape
    rows = _outside(height, uniform[:, 0])  # [B, H]
    columns = _outside(width, uniform[:, 1])  # [B, W]
    seen = rows[:, :, None] | columns[:, None, :]
    return jnp.where(seen[..., None], x, 0.0)


def _outside(size: int, uniform: jax.Array) -> jax.Array:
    """Bool [B, size]: the places along an axis that lie outside of what is cut out."""
    hole = round(size * _HOLE)
    center = jnp.floor(uniform * (size + 1 - hole % 2))[:, None]  # [B, 1]
    places = jnp.arange(size, dtype=jnp.float32)[None]
    first = center - hole // 2
    return (places < first) | (places >= first + hole)
