"""Images as grids of patches, of which some are hidden.

Shapes: B images in a batch, H, W, C of an image, L patches of an image, P numbers in a patch (its
side * side * C), K patches that are visible, M that are hidden, n that are named.
"""

from dataclasses import dataclass
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from missing_bits.augment import masking


class Masks(NamedTuple):
    """Which patches of each image are visible and which are hidden; numbers ascend."""

    kept: jax.Array  # int32 [B, K]
    hidden: jax.Array  # int32 [B, M]


@dataclass(frozen=True)
class Patches:
    """How images are cut into square patches, numbered row by row."""

    rows: int
    columns: int
    side: int
    """Of a patch, in pixels."""
    channels: int

    @classmethod
    def cut(cls, image_shape: tuple[int, int, int], side: int) -> "Patches":
        """Those of images (H, W, C), with a side in pixels that divides H and W."""
        height, width, channels = image_shape
        return cls(height // side, width // side, side, channels)

    @property
    def count(self) -> int:
        """L, patches of an image."""
        return self.rows * self.columns

    @property
    def numbers(self) -> int:
        """P, numbers in a patch."""
        return self.side**2 * self.channels

    def of(self, images: jax.Array) -> jax.Array:
        """All patches [B, L, P] of images [B, H, W, C]."""
        return masking.patchify(images, self.side)

    def at(self, images: jax.Array, places: jax.Array) -> jax.Array:
        """Patches [B, n, P] of images [B, H, W, C] at places, int [B, n]."""
        return jnp.take_along_axis(self.of(images), places[:, :, None], axis=1)

    def images(self, patches: jax.Array) -> jax.Array:
        """Images [B, H, W, C] of all their patches [B, L, P]."""
        return masking.unpatchify(patches, self.rows, self.columns, self.channels)

    def replaced(self, images: jax.Array, places: jax.Array, patches: jax.Array) -> jax.Array:
        """Images [B, H, W, C] with other patches [B, n, P] at places, int [B, n]."""
        chex.assert_equal_shape_prefix([places, patches], 2)
        rows = jnp.arange(images.shape[0])[:, None]
        return self.images(self.of(images).at[rows, places].set(patches))

    def masks(self, keys: jax.Array, ratio: float) -> Masks:
        """Draws which patches to hide, for each image by its own key.

        Args:
          keys: [B].
          ratio: share of the patches to hide, see `masking.num_kept`.
        """
        kept = masking.num_kept(self.count, ratio)
        return Masks(*jax.vmap(lambda key: masking.partition(key, self.count, kept))(keys))
