"""Networks from a vector to an image, which decode and generate.

Shapes: B vectors, Z numbers in each, K classes, H, W, C of an image, N numbers for each pixel.
"""

import math
from typing import Literal

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits.nets.conv import Conv2D, conv2d
from missing_bits.nets.layers import BatchNorm
from missing_bits.numeric import ceil_div

Network = Literal["conv", "mlp"]
Norm = Literal["none", "batch"]

_START = 8  # pixels: the longer side of the first map, at most
_HE = hk.initializers.VarianceScaling(2.0, "fan_in", "truncated_normal")  # He et al. 2015


class Generator(hk.Module):
    """A vector, perhaps with a class, becomes an image.

    The MLP has two hidden layers of 8 `width` units. The convolutional network starts from a small
    map of many channels, and as often as that takes doubles its sides and halves its channels, down
    to `width`: it repeats each pixel in a square of 2 x 2, then convolves, which leaves no
    chessboards as transposed convolutions do (Odena et al. 2016). Before its map it may have hidden
    layers too, which bend the space of vectors (as in Karras et al. 2019).

    Args:
      shape: height and width of the image, and N, numbers for each of its pixels.
      network: "conv" or "mlp".
      width: see above.
      norm: "batch" normalizes each layer but the last over the batch.
      classes: K; 0 for none.
      hidden: hidden layers of the convolutional network.
      name: of the module.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        network: Network = "conv",
        width: int = 32,
        norm: Norm = "none",
        classes: int = 0,
        hidden: int = 0,
        name: str | None = None,
    ):
        super().__init__(name)
        self._shape = shape
        self._network = network
        self._width = width
        self._norm = norm
        self._classes = classes
        self._hidden = hidden if network == "conv" else 2

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
        x = z
        for _ in range(self._hidden):
            x = hk.Linear(8 * self._width, w_init=_HE)(x)
            x = self._activate(x, is_training)
        if self._network == "conv":
            return self._convolve(x, is_training)
        x = hk.Linear(math.prod(self._shape), name="pixels")(x)
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
            x = DoublingConv2D(channels)(x)[:, :height, :width]
            x = self._activate(x, is_training)
        return Conv2D(self._shape[2], 3, name="pixels")(x)

    @hk.transparent
    def _activate(self, x: jax.Array, is_training: bool) -> jax.Array:
        if self._norm == "batch":
            x = BatchNorm()(x, is_training)
        return jax.nn.silu(x)


class DoublingConv2D(hk.Module):
    """Repeats each pixel in a square of 2 x 2, then convolves with a kernel of 3 x 3.

    Args:
      output_channels: O.
      name: of the module.
    """

    def __init__(self, output_channels: int, name: str | None = None):
        super().__init__(name)
        self._channels = output_channels

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [B, 2 H, 2 W, O] of [B, H, W, C]."""
        w = hk.get_parameter("w", (3, 3, x.shape[3], self._channels), init=_HE)
        b = hk.get_parameter("b", (self._channels,), init=jnp.zeros)
        return doubling_conv2d(x, w) + b[None, None, None]


def doubling_conv2d(x: jax.Array, w: jax.Array) -> jax.Array:
    """What a kernel of 3 x 3 makes of an image whose pixels are repeated in squares of 2 x 2.

    Of the nine products of a window, up to four meet the same pixel: their weights are added first,
    which leaves four. A kernel of 2 x 2 for each of the four places in a square gives the same sums
    at less than half the products.

    Args:
      x: [B, H, W, C].
      w: [3, 3, C, O].

    Returns:
      [B, 2 H, 2 W, O], as of padding "SAME".
    """
    batch, height, width, _ = x.shape
    kernels = [place for row in _of_places(w, 0) for place in _of_places(row, 1)]  # [2, 2, C, O]
    # Padded here, not by the convolution: its gradient convolves the image with one that has a row
    # and a column more, and where the second is larger XLA swaps the two, into a slow layout.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = conv2d(x, jnp.concatenate(kernels, axis=3), padding="VALID")
    y = y.reshape(batch, height + 1, width + 1, 2, 2, w.shape[3])
    rows = jnp.stack([y[:, :height, :, 0], y[:, 1:, :, 1]], axis=2)  # [B, H, 2, W + 1, 2, O]
    squares = jnp.stack([rows[:, :, :, :width, 0], rows[:, :, :, 1:, 1]], axis=4)
    return squares.reshape(batch, 2 * height, 2 * width, w.shape[3])


def _of_places(w: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The weights of even and of odd places of the result: two for three along an axis of w.

    Even places meet the pixel before once and their own twice, odd ones their own twice and the one
    after.
    """
    before, here, after = jnp.moveaxis(w, axis, 0)
    even = jnp.stack([before, here + after], axis)
    return even, jnp.stack([before + here, after], axis)


def sides(shape: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Heights and widths of the maps that lead to an image [H, W], the smallest first."""
    heights = [ceil_div(shape[0], 2), shape[0]]
    widths = [ceil_div(shape[1], 2), shape[1]]
    while max(heights[0], widths[0]) > _START:
        heights.insert(0, ceil_div(heights[0], 2))
        widths.insert(0, ceil_div(widths[0], 2))
    return heights, widths
