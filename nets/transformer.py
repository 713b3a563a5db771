"""The pre-norm transformer (Vaswani et al. 2017; Xiong et al. 2020), for images and text, and fixed positions.

Shapes: B examples, L tokens, D the width of a token.
"""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

GLOROT = hk.initializers.VarianceScaling(1.0, "fan_avg", "uniform")  # Glorot and Bengio 2010


class Block(hk.Module):
    """Self-attention, then an MLP of four times the width; each normalizes its input and adds to it.

    Args:
      heads: of attention; the width must be a multiple.
      dropout: share of what attention and MLP add that is dropped where `keys` are given, 0 to 0.9, in 256ths.
      reach: the largest distance in tokens that attention tells from larger ones; 0 for no knowledge of distances.
      name: of the module.
    """

    def __init__(self, heads: int, dropout: float = 0.0, reach: int = 0, name: str | None = None):
        super().__init__(name)
        self._heads, self._dropout, self._reach = heads, dropout, reach

    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, keys: jax.Array | None = None
    ) -> jax.Array:
        """Tokens [B, L, D] to tokens [B, L, D].

        Args:
          x: tokens.
          mask: bool [B, L, L], whether a token (second axis) attends to another (last axis); None: to all.
          keys: random keys [B] for dropout; None for none.
        """
        chex.assert_rank(x, 3)
        width, x = x.shape[2], _computed_once(x)
        qkv = _linear(3 * width, "qkv")(_norm(x, "attention_norm"))
        q, k, v = jnp.moveaxis(
            qkv.reshape(*x.shape[:2], 3, self._heads, -1), 2, 0
        )  # each [B, L, heads, D / heads]
        heads_mask = None if mask is None else mask[:, None]  # the same for all heads
        bias = self._by_distance(x.shape[1]).astype(x.dtype) if self._reach else None
        mixed = jax.nn.dot_product_attention(q, k, v, bias, heads_mask).reshape(x.shape)
        x += self._drop(_linear(width, "mix")(mixed), keys, 0)
        x = _computed_once(x)
        hidden = jax.nn.gelu(_linear(4 * width, "widen")(_norm(x, "mlp_norm")))
        return x + self._drop(_linear(width, "narrow")(hidden), keys, 1)

    def _by_distance(self, length: int) -> jax.Array:
        """What is added to scores of attention [1, heads, L, L] (Raffel et al. 2020, section 2.1)."""
        table = hk.get_parameter("by_distance", [2 * self._reach + 1, self._heads], init=_near)
        place = np.arange(length)
        distance = np.clip(
            place[None, :] - place[:, None], -self._reach, self._reach
        )  # from query to key
        return jnp.moveaxis(table[distance + self._reach], 2, 0)[None]

    def _drop(self, x: jax.Array, keys: jax.Array | None, place: int) -> jax.Array:
        """What is left of x, scaled to the same mean; an example's mask depends on its own key alone."""
        dropped = round(
            256 * self._dropout
        )  # of 256: a random number of 32 bits is drawn for four elements
        if keys is None or dropped == 0:
            return x
        words = (x.shape[1], -(-x.shape[2] // 4))
        bits = jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(key, place), words))(
            keys
        )  # [B, L, D / 4]
        parts = bits[..., None] >> jnp.arange(0, 32, 8, dtype=jnp.uint32).reshape(1, 1, 1, 4) & 255
        kept = parts.reshape(*x.shape[:2], -1)[:, :, : x.shape[2]] >= dropped
        return jnp.where(kept, x * (256 / (256 - dropped)), 0)


class Transformer(hk.Module):
    """A stack of blocks and a last normalization.

    Args:
      layers: number of blocks.
      heads: of attention in each.
      dropout: of each block.
      reach: of attention in each block.
      name: of the module.
    """

    def __init__(
        self, layers: int, heads: int, dropout: float = 0.0, reach: int = 0, name: str | None = None
    ):
        super().__init__(name)
        self._layers, self._heads, self._dropout, self._reach = layers, heads, dropout, reach

    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, keys: jax.Array | None = None
    ) -> jax.Array:
        """Tokens [B, L, D] to tokens [B, L, D]; `mask` and `keys` as for `Block`."""
        for layer in range(self._layers):
            layer_keys = (
                None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, layer)
            )
            x = Block(self._heads, self._dropout, self._reach)(x, mask, layer_keys)
        return _norm(x, "norm")


def _computed_once(x: jax.Array) -> jax.Array:
    """x, whose gradient is computed once: XLA's CPU compiler else repeats in each block that of all blocks above."""
    return jax.lax.optimization_barrier(x)


def _linear(size: int, name: str) -> Callable[[jax.Array], jax.Array]:
    """A linear layer of tokens [B, L, D] as one product of matrices, which XLA's CPU compiler multiplies fastest."""
    layer = hk.Linear(size, w_init=GLOROT, name=name)
    return lambda x: _computed_once(layer(x.reshape(-1, x.shape[2]))).reshape(*x.shape[:2], size)


def _norm(x: jax.Array, name: str) -> jax.Array:
    """Layer normalization of tokens, computed in float32."""
    norm = hk.LayerNorm(-1, create_scale=True, create_offset=True, name=name)
    return norm(x.astype(jnp.float32)).astype(x.dtype)


def _near(shape: Sequence[int], dtype: Any) -> jax.Array:
    """A start [distances, heads] that prefers what is near (Press et al. 2022, section 3), on one side.

    Even heads look to the left and odd ones to the right: the neighbors of a place tell most about it.
    """
    distance, head = np.arange(shape[0])[:, None] - shape[0] // 2, np.arange(shape[1])[None]
    other_side = np.where(head % 2, distance < 0, distance > 0)
    return jnp.asarray(-(0.5 ** (1 + head // 2)) * np.abs(distance) - 4 * other_side, dtype)


def same_segment(segments: jax.Array) -> jax.Array:
    """The mask [B, L, L] that keeps attention within a segment of packed rows [B, L]; padding is a segment too."""
    chex.assert_rank(segments, 2)
    return segments[:, :, None] == segments[:, None, :]


def grid_positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Sines and cosines of the two coordinates of a grid of patches (Vaswani et al. 2017, section 3.5).

    Half of the features tell the row, half the column (Chen et al. 2021, "MoCo v3").

    Args:
      rows: of the grid.
      columns: of the grid.
      width: of a token; a multiple of 4.

    Returns:
      [rows * columns, width], float32, row by row.
    """
    frequencies = 10_000 ** -np.linspace(0, 1, width // 4, endpoint=False)  # [width / 4]
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles = [np.outer(place.ravel(), frequencies) for place in (row, column)]
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1).astype(
        np.float32
    )
