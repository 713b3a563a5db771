"""Masks over the patches of an image: how many, which ones, and images as patches.

Patches lie on a grid of rows x columns and are numbered row by row. Functions that draw treat one
image; vmap them.
Shapes: H, W, C of an image, L patches, P numbers in a patch (side * side * C).
"""

import math
from fractions import Fraction
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from missing_bits.errors import require

_EPSILON = 1e-6
_ASPECT = (0.3, 1 / 0.3)  # least and largest height / width of a block


class Normalized(NamedTuple):
    """Patches, usually of mean 0 and deviation 1; `values * std + mean` are they as they were."""

    values: jax.Array  # [..., L, P]
    mean: jax.Array  # [..., L, 1]
    std: jax.Array  # [..., L, 1]


def num_kept(count: int, ratio: float) -> int:
    """The patches that stay visible: `count - round(count * ratio)`.

    It is computed in exact decimal arithmetic, and rounds halves to even.

    Args:
      count: patches of an image.
      ratio: share of patches to hide, in [0, 1], meant as it is written: 0.9 is nine tenths.
    """
    return count - round(count * Fraction(str(ratio)))


def check(ratio: float, count: int) -> None:
    """Raises `UserError` unless hiding `ratio` of `count` patches hides some and leaves some."""
    require(0 < ratio < 1, f"--mask-ratio is {ratio}; it must lie above 0 and below 1.")
    kept = num_kept(count, ratio)
    of = f"--mask-ratio is {ratio}: of {count} patch{'es' * (count != 1)}"
    require(kept > 0, f"{of} none stays visible; choose a smaller ratio or smaller patches.")
    require(kept < count, f"{of} none is hidden; choose a larger ratio or smaller patches.")


def partition(key: jax.Array, count: int, kept: int) -> tuple[jax.Array, jax.Array]:
    """Divides the patches into visible and hidden ones (He et al. 2022, section 3).

    All divisions are equally likely.

    Args:
      key: a typed key.
      count: patches of an image.
      kept: how many stay visible, 0 to `count`.

    Returns:
      int32 [kept] and int32 [count - kept], each ascending: the visible and the hidden patches.
    """
    assert 0 <= kept <= count, f"{kept} of {count} patches cannot stay visible"
    order = jax.random.permutation(key, count)  # [L]
    return jnp.sort(order[:kept]), jnp.sort(order[kept:])


def patchify(images: jax.Array, side: int) -> jax.Array:
    """Cuts images into square patches, row by row; within a patch pixels row by row, then channels.

    Args:
      images: [..., H, W, C].
      side: of a patch, in pixels; divides H and W.

    Returns:
      [..., L, side * side * C].
    """
    *leading, height, width, channels = images.shape
    chex.assert_is_divisible(height, side)
    chex.assert_is_divisible(width, side)
    rows = height // side
    columns = width // side
    pixels = images.reshape(*leading, rows, side, columns, side, channels)
    return pixels.swapaxes(-4, -3).reshape(*leading, rows * columns, side * side * channels)


def unpatchify(patches: jax.Array, rows: int, columns: int, channels: int) -> jax.Array:
    """Puts images together again from the patches [..., rows * columns, P] of `patchify`.

    Args:
      patches: [..., L, P].
      rows: of patches.
      columns: of patches.
      channels: of the images.

    Returns:
      [..., rows * side, columns * side, channels].
    """
    *leading, count, numbers = patches.shape
    side = math.isqrt(numbers // channels)
    chex.assert_equal((count, numbers), (rows * columns, side * side * channels))
    pixels = patches.reshape(*leading, rows, columns, side, side, channels)
    return pixels.swapaxes(-4, -3).reshape(*leading, rows * side, columns * side, channels)


def normalize(patches: jax.Array) -> Normalized:
    """Normalizes each patch by its own mean and deviation (He et al. 2022, section 3).

    As in the authors' code the variance is the unbiased one, and epsilon is added to it under the
    root.

    Args:
      patches: [..., L, P] floats, P at least 2.
    """
    chex.assert_axis_dimension_gt(patches, -1, 1)
    mean = jnp.mean(patches, axis=-1, keepdims=True)
    std = jnp.sqrt(jnp.var(patches, axis=-1, ddof=1, keepdims=True) + _EPSILON)
    return Normalized((patches - mean) / std, mean, std)


def unchanged(patches: jax.Array) -> Normalized:
    """Patches [..., L, P] as they are, in the form of normalized ones."""
    nothing = patches[..., :1]
    return Normalized(patches, jnp.zeros_like(nothing), jnp.ones_like(nothing))


def block(
    key: jax.Array, rows: int, columns: int, ratio_low: float, ratio_high: float
) -> jax.Array:
    """Draws one rectangle of patches, anywhere on the grid.

    As in blockwise masking (BEiT: Bao et al. 2022, algorithm 1; iBOT: Zhou et al. 2021) its share
    of the grid is uniform and its aspect ratio log-uniform in [0.3, 1 / 0.3]. Deviations: a single
    rectangle, where the papers add further ones until a given number of patches is hidden; and
    sides are rounded and clipped to the grid, where their code draws again.

    Args:
      key: a typed key.
      rows: of the grid; `rows * columns` is at least 2.
      columns: of the grid.
      ratio_low: least share of the grid, in (0, 1], before rounding and clipping.
      ratio_high: largest share, at least `ratio_low`, at most 1.

    Returns:
      bool [rows * columns], True inside: at least one patch, never all of them.
    """
    assert rows * columns > 1, "a block needs a grid of at least two patches"
    share_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
    area = rows * columns * jax.random.uniform(share_key, minval=ratio_low, maxval=ratio_high)
    narrowest = math.log(_ASPECT[0])
    widest = math.log(_ASPECT[1])
    aspect = jnp.exp(jax.random.uniform(aspect_key, minval=narrowest, maxval=widest))
    height = jnp.clip(jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32), 1, rows)
    width = jnp.clip(jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32), 1, columns)
    whole = (height == rows) & (width == columns)
    # The whole grid loses one line of its longer side: the shorter may be a single patch.
    if rows > columns:
        height = height - whole
    else:
        width = width - whole
    top = jax.random.randint(top_key, (), 0, rows - height + 1)
    left = jax.random.randint(left_key, (), 0, columns - width + 1)
    y = jnp.arange(rows)
    x = jnp.arange(columns)
    inside_rows = (y >= top) & (y < top + height)
    inside_columns = (x >= left) & (x < left + width)
    return (inside_rows[:, None] & inside_columns[None, :]).reshape(-1)
