"""The pre-norm transformer (Vaswani et al. 2017; Xiong et al. 2020) and fixed positions on a grid."""

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np


class Block(hk.Module):
    """Self-attention, then an MLP of four times the width; each normalises its input and adds to it.

    Args:
      heads: of attention; the width must be a multiple.
      name: of the module.
    """

    def __init__(self, heads: int, name: str | None = None):
        super().__init__(name)
        self._heads = heads

    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens [B, L, D] to tokens [B, L, D]."""
        chex.assert_rank(x, 3)
        width = x.shape[2]
        qkv = _linear(3 * width, "qkv")(_norm(x, "attention_norm"))
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, self._heads, -1), 2, 0)  # each [B, L, heads, D / heads]
        mixed = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        x += _linear(width, "mix")(mixed)
        hidden = jax.nn.gelu(_linear(4 * width, "widen")(_norm(x, "mlp_norm")))
        return x + _linear(width, "narrow")(hidden)


class Transformer(hk.Module):
    """A stack of blocks and a last normalisation.

    Args:
      layers: number of blocks.
      heads: of attention in each.
      name: of the module.
    """

    def __init__(self, layers: int, heads: int, name: str | None = None):
        super().__init__(name)
        self._layers, self._heads = layers, heads

    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens [B, L, D] to tokens [B, L, D]."""
        for _ in range(self._layers):
            x = Block(self._heads)(x)
        return _norm(x, "norm")


def _linear(size: int, name: str) -> hk.Linear:
    return hk.Linear(size, w_init=hk.initializers.VarianceScaling(1.0, "fan_avg", "uniform"), name=name)


def _norm(x: jax.Array, name: str) -> jax.Array:
    """Layer normalisation of tokens, computed in float32."""
    norm = hk.LayerNorm(-1, create_scale=True, create_offset=True, name=name)
    return norm(x.astype(jnp.float32)).astype(x.dtype)


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
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)
