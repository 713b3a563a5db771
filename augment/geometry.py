"""Operations on the geometry of one image: crops, resampling, flips, shifts.

Resampling is separable: two matrix products with a matrix [pixels out, pixels in] per axis, into
which the crop, the antialiasing filter and the flip are folded.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

_TRIES = 10
CROP_DRAWS = 2 * _TRIES + 2  # uniform numbers that `crop_box` needs


class Box(NamedTuple):
    """A rectangle of whole pixels; each is an integer in float32, shape []."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


def crop_box(
    uniforms: jax.Array,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Draws a crop as torchvision's RandomResizedCrop does (Szegedy et al. 2015).

    Its area is uniform, its aspect ratio log-uniform; the first of ten tries that fits into the
    image counts, and if none does, the largest central crop of an allowed ratio.

    Args:
      uniforms: [CROP_DRAWS] in [0, 1).
      height: of the image, in pixels.
      width: of the image, in pixels.
      scale: least and largest area, as shares of the image's.
      ratio: least and largest width / height.
    """
    chex.assert_shape(uniforms, (CROP_DRAWS,))
    areas, ratios, (top, left) = jnp.split(uniforms, [_TRIES, 2 * _TRIES])
    area = height * width * (scale[0] + (scale[1] - scale[0]) * areas)
    aspect = jnp.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * ratios)
    widths = jnp.round(jnp.sqrt(area * aspect))  # [tries]
    heights = jnp.round(jnp.sqrt(area / aspect))  # [tries]
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    found = jnp.any(fits)
    first = jnp.argmax(fits)
    whole = min(max(width / height, ratio[0]), ratio[1])  # the allowed ratio nearest to the image's
    most_wide = min(width, max(1, round(height * whole)))
    most_high = min(height, max(1, round(width / whole)))
    h = jnp.where(found, heights[first], most_high)
    w = jnp.where(found, widths[first], most_wide)
    return Box(
        top=jnp.where(found, jnp.floor(top * (height - h + 1)), (height - most_high) // 2),
        left=jnp.where(found, jnp.floor(left * (width - w + 1)), (width - most_wide) // 2),
        height=h,
        width=w,
    )


def resized_crop(image: jax.Array, box: Box, flip: jax.Array, height: int, width: int) -> jax.Array:
    """Cuts a box out, resizes it bilinearly with antialiasing, and flips it left to right.

    Args:
      image: [C, H, W] float32.
      box: what to cut out.
      flip: bool [], whether to flip.
      height: of the result, in pixels.
      width: of the result, in pixels.

    Returns:
      [C, height, width].
    """
    rows = _resampling(box.top, box.height, image.shape[1], height, jnp.array(False))
    columns = _resampling(box.left, box.width, image.shape[2], width, flip)
    return resample(image, rows, columns)


def resample(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Replaces the rows and columns of an image by weighted sums of them.

    Args:
      image: [C, H, W] float32.
      rows: [Y, H] weights.
      columns: [X, W] weights.

    Returns:
      [C, Y, X].
    """
    chex.assert_rank(image, 3)
    # Full precision: by default an accelerator would round the weights to ten bits or fewer.
    image = jnp.einsum("yh,chw->cyw", rows, image, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("xw,cyw->cyx", columns, image, precision=jax.lax.Precision.HIGHEST)


def random_shift(keys: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    """Shifts images by a few whole pixels, repeating their edges.

    As in DrQ (Yarats et al. 2021, section 4.1).

    Args:
      keys: [B], one per image.
      images: [B, H, W, C], of any type.
      pad: the largest shift in either direction of either axis, in pixels; all are equally likely.

    Returns:
      [B, H, W, C], of the same type.
    """
    chex.assert_rank([keys, images], [1, 4])

    def shift(key: jax.Array, image: jax.Array) -> jax.Array:
        top, left = jax.random.randint(key, (2,), 0, 2 * pad + 1)
        padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return jax.vmap(shift)(keys, images)


def _resampling(
    start: jax.Array, length: jax.Array, size: int, out: int, flip: jax.Array
) -> jax.Array:
    """The matrix [out, size] that resizes pixels [start, start + length) of `size` to `out`.

    It is bilinear: a pixel of the result weighs the pixels around its center by a triangle, as wide
    as the larger of a pixel before and after; the weights within the crop sum to one.
    """
    i = jnp.arange(out, dtype=jnp.float32)
    j = jnp.arange(size, dtype=jnp.float32)
    i = jnp.where(flip, out - 1 - i, i)
    scale = length / out
    center = start + (i + 0.5) * scale
    distance = jnp.abs(j[None, :] + 0.5 - center[:, None])
    weights = jnp.maximum(0, 1 - distance / jnp.maximum(1, scale))
    weights = jnp.where(((j >= start) & (j < start + length))[None, :], weights, 0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)
