"""Networks from a vector to an image, which decode and generate.

Shapes: B vectors, Z numbers in each, K classes, H, W, C of an image, N numbers for each pixel.
"""

from typing import Literal

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits.nets.conv import Conv2D
from missing_bits.nets.layers import BatchNorm
from missing_bits.numeric import ceil_div

Network = Literal["conv", "mlp"]
Norm = Literal["none", "batch"]

_START = 8  # pixels: the longer side of the first map, at most
_HE = hk.initializers.VarianceScaling(2.0, "fan_in", "truncated_normal")  # He et al. 2015


class Generator(hk.Module):
    """A vector, perhaps with a class, becomes an image.

    The convolutional network starts from a small map of many channels, and as often as that takes
    doubles its sides and halves its channels, down to `width`: it repeats each pixel in a square of
    2 x 2, then convolves, which leaves no chessboards as transposed convolutions do (Odena et al.
    2016). The MLP has two hidden layers of 8 `width` units.

    Args:
      shape: height and width of the image, and N, numbers for each of its pixels.
      network: "conv" or "mlp".
      width: see above.
      norm: "batch" normalizes each layer but the last over the batch.
      classes: K; 0 for none.
      name: of the module.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        network: Network = "conv",
        width: int = 32,
        norm: Norm = "none",
        classes: int = 0,
        name: str | None = None,
    ):
        super().__init__(name)
        self._shape = shape
        self._network = network
        self._width = width
        self._norm = norm
        self._classes = classes

    def __call__(self, z: jax.Array, labels: jax.Array | None, is_training: bool) -> jax.Array:
        """Numbers [B, H, W, N] of an image, of any size, for vectors.

        Args:
          z: [B, Z].
          labels: int [B]; not looked at without classes.
          is_training: whether batch normalization uses and gathers the batch's statistics.
        """
        chex.assert_rank(z, 2)
        if self._classes:
            chex.assert_shape(labels, (z.shape[0],))
            z = jnp.concatenate([z, jax.nn.one_hot(labels, self._classes, dtype=z.dtype)], axis=1)
        if self._network == "mlp":
            return self._dense(z, is_training)
        return self._convolve(z, is_training)

    @hk.transparent
    def _dense(self, x: jax.Array, is_training: bool) -> jax.Array:
        for _ in range(2):
            x = hk.Linear(8 * self._width, w_init=_HE)(x)
            x = self._activate(x, is_training)
        height, width, numbers = self._shape
        x = hk.Linear(height * width * numbers, name="pixels")(x)
        return x.reshape(-1, *self._shape)

    @hk.transparent
    def _convolve(self, x: jax.Array, is_training: bool) -> jax.Array:
        rows, columns = sides(self._shape[:2])
        channels = self._width * 2 ** (len(rows) - 1)
        x = hk.Linear(rows[0] * columns[0] * channels, w_init=_HE)(x)
        x = x.reshape(-1, rows[0], columns[0], channels)
        x = self._activate(x, is_training)
        for height, width in zip(rows[1:], columns[1:], strict=True):
            channels //= 2
            x = doubled(x)[:, :height, :width]
            x = Conv2D(channels, 3, w_init=_HE)(x)
            x = self._activate(x, is_training)
        return Conv2D(self._shape[2], 3, name="pixels")(x)

    @hk.transparent
    def _activate(self, x: jax.Array, is_training: bool) -> jax.Array:
        if self._norm == "batch":
            x = BatchNorm()(x, is_training)
        return jax.nn.silu(x)


def sides(shape: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Heights and widths of the maps that lead to an image [H, W], the smallest first."""
    heights = [ceil_div(shape[0], 2), shape[0]]
    widths = [ceil_div(shape[1], 2), shape[1]]
    while max(heights[0], widths[0]) > _START:
        heights.insert(0, ceil_div(heights[0], 2))
        widths.insert(0, ceil_div(widths[0], 2))
    return heights, widths


def doubled(x: jax.Array) -> jax.Array:
    """Images [B, 2 H, 2 W, C] of [B, H, W, C]: each pixel fills a square."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)
