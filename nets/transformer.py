"""The pre-norm transformer (Vaswani et al. 2017; Xiong et al. 2020), and fixed positions.

It is that of images and of text. Shapes: B examples, L tokens, D the width of a token.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from missing_bits.numeric import ceil_div

T = TypeVar("T")

GLOROT = hk.initializers.VarianceScaling(1.0, "fan_avg", "uniform")  # Glorot and Bengio 2010


class Block(hk.Module):
    """Self-attention, then an MLP of four times the width.

    Each normalizes its input and adds to it.

    Args:
      heads: of attention; the width must be a multiple.
      dropout: share of what attention and MLP add that is dropped where `keys` are given, 0 to
        0.9, in 256ths.
      reach: the largest distance in tokens that attention tells from larger ones; 0 for no
        knowledge of distances.
      causal: whether a token attends only to those before it and to itself.
      name: of the module.
    """

    def __init__(
        self,
        heads: int,
        dropout: float = 0.0,
        reach: int = 0,
        causal: bool = False,
        name: str | None = None,
    ):
        super().__init__(name)
        self._heads = heads
        self._dropout = dropout
        self._reach = reach
        self._causal = causal

    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, keys: jax.Array | None = None
    ) -> jax.Array:
        """Tokens [B, L, D] to tokens [B, L, D].

        Args:
          x: tokens.
          mask: bool [B, L, L], whether a token (second axis) attends to another (last axis), where
            the latter is not hidden by `causal`; None: to all.
          keys: random keys [B] for dropout; None for none.
        """
        chex.assert_rank(x, 3)
        width = x.shape[2]
        x = computed_once(x)
        qkv = _linear(3 * width, "qkv")(_norm(x, "attention_norm"))
        qkv = qkv.reshape(*x.shape[:2], 3, self._heads, -1)
        q, k, v = jnp.moveaxis(qkv, 2, 0)  # each [B, L, heads, D / heads]
        heads_mask = None if mask is None else mask[:, None]  # the same for all heads
        bias = self._by_distance(x.shape[1]).astype(x.dtype) if self._reach else None
        mixed = jax.nn.dot_product_attention(q, k, v, bias, heads_mask, is_causal=self._causal)
        mixed = _linear(width, "mix")(mixed.reshape(x.shape))
        x += dropped(mixed, self._dropout, keys, 0)
        x = computed_once(x)
        hidden = jax.nn.gelu(_linear(4 * width, "widen")(_norm(x, "mlp_norm")))
        return x + dropped(_linear(width, "narrow")(hidden), self._dropout, keys, 1)

    def _by_distance(self, length: int) -> jax.Array:
        """What is added to scores of attention [1, heads, L, L] (Raffel et al. 2020, 2.1)."""
        start = functools.partial(_near, causal=self._causal)
        table = hk.get_parameter("by_distance", [2 * self._reach + 1, self._heads], init=start)
        place = np.arange(length)
        distance = place[None, :] - place[:, None]  # from query to key
        distance = np.clip(distance, -self._reach, self._reach)
        return jnp.moveaxis(table[distance + self._reach], 2, 0)[None]


class Transformer(hk.Module):
    """A stack of blocks and a last normalization.

    Args:
      layers: number of blocks.
      heads: of attention in each.
      dropout: of each block.
      reach: of attention in each block.
      causal: whether a token's result depends only on those before it and on itself.
      name: of the module.
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        dropout: float = 0.0,
        reach: int = 0,
        causal: bool = False,
        name: str | None = None,
    ):
        super().__init__(name)
        self._layers = layers
        self._heads = heads
        self._dropout = dropout
        self._reach = reach
        self._causal = causal

    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, keys: jax.Array | None = None
    ) -> jax.Array:
        """Tokens [B, L, D] to tokens [B, L, D]; `mask` and `keys` as for `Block`."""
        for layer in range(self._layers):
            block = Block(self._heads, self._dropout, self._reach, self._causal)
            x = block(x, mask, folded(keys, layer))
        return _norm(x, "norm")


def dropped(x: jax.Array, share: float, keys: jax.Array | None, place: int) -> jax.Array:
    """What dropout leaves of x [B, L, D], scaled to the same mean.

    Args:
      x: tokens.
      share: that is dropped, 0 to 0.9, in 256ths.
      keys: random keys [B]; what is dropped of an example depends on its own alone. None: nothing.
      place: another number for each place where the same keys drop.
    """
    of_256 = round(256 * share)
    if keys is None or of_256 == 0:
        return x
    length, width = x.shape[1:]
    # A random number of 32 bits is drawn for four elements.
    words = (length, ceil_div(width, 4))
    bits = jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(key, place), words))(keys)
    shifts = jnp.arange(0, 32, 8, dtype=jnp.uint32).reshape(1, 1, 1, 4)
    parts = bits[..., None] >> shifts & 255  # [B, L, D / 4, 4]
    kept = parts.reshape(*x.shape[:2], -1)[:, :, :width] >= of_256
    return jnp.where(kept, x * (256 / (256 - of_256)), 0)


def folded(keys: jax.Array | None, layer: int) -> jax.Array | None:
    """Keys [B] of a layer."""
    if keys is None:
        return None
    return jax.vmap(jax.random.fold_in, (0, None))(keys, layer)


def computed_once(x: T) -> T:
    """x, a pytree of arrays which, and whose gradients, are computed once.

    XLA's CPU compiler else repeats in each block the gradient of all blocks above.
    """
    return jax.lax.optimization_barrier(x)


def _linear(size: int, name: str) -> Callable[[jax.Array], jax.Array]:
    """A linear layer of tokens [B, L, D] as one product of matrices.

    That is what XLA's CPU compiler multiplies fastest.
    """
    layer = hk.Linear(size, w_init=GLOROT, name=name)
    return lambda x: computed_once(layer(x.reshape(-1, x.shape[2]))).reshape(*x.shape[:2], size)


def _norm(x: jax.Array, name: str) -> jax.Array:
    """Layer normalization of tokens, computed in float32."""
    norm = hk.LayerNorm(-1, create_scale=True, create_offset=True, name=name)
    return norm(x.astype(jnp.float32)).astype(x.dtype)


def _near(shape: Sequence[int], dtype: DTypeLike, causal: bool) -> jax.Array:
    """A start [distances, heads] that prefers what is near on one side.

    It falls with the distance as in Press et al. 2022, section 3. Even heads look to the left and
    odd ones to the right: the neighbors of a place tell most about it. Causal ones all look to the
    left.
    """
    distances, heads = shape
    distance = np.arange(distances)[:, None] - distances // 2
    head = np.arange(heads)[None]
    slope = 0.5 ** (1 + head // 2)
    looks_right = (head % 2 == 1) & (not causal)
    other_side = np.where(looks_right, distance < 0, distance > 0)
    return jnp.asarray(-slope * np.abs(distance) - 4 * other_side, dtype)


def same_segment(segments: jax.Array) -> jax.Array:
    """The mask [B, L, L] that keeps attention within a segment of packed rows [B, L].

    Padding is a segment too.
    """
    chex.assert_rank(segments, 2)
    return segments[:, :, None] == segments[:, None, :]


def grid_positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Sines and cosines of the two coordinates of a grid of patches.

    As in Vaswani et al. 2017, section 3.5; half of the features tell the row, half the column (Chen
    et al. 2021, "MoCo v3").

    Args:
      rows: of the grid.
      columns: of the grid.
      width: of a token; a multiple of 4.

    Returns:
      [rows * columns, width], float32, row by row.
    """
    frequencies = 10_000 ** -np.linspace(0, 1, width // 4, endpoint=False)  # [width / 4]
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    rows_angles = np.outer(row.ravel(), frequencies)
    columns_angles = np.outer(column.ravel(), frequencies)
    features = [
        np.sin(rows_angles),
        np.cos(rows_angles),
        np.sin(columns_angles),
        np.cos(columns_angles),
    ]
    return np.concatenate(features, axis=1).astype(np.float32)
