"""The decoder of masked autoencoders: hidden patches from the tokens of visible ones."""

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits.nets import transformer


class PatchDecoder(hk.Module):
    """A small transformer over visible tokens and mask tokens (He et al. 2022, section 3).

    Args:
      grid: rows and columns of patches.
      numbers: P, numbers to predict for a patch.
      width: of its tokens, a multiple of 4 and of `heads`.
      layers: number of blocks.
      heads: of attention in each.
      name: of the module.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        numbers: int,
        width: int,
        layers: int,
        heads: int,
        name: str | None = None,
    ):
        super().__init__(name)
        self._grid = grid
        self._numbers = numbers
        self._width = width
        self._layers = layers
        self._heads = heads

    def __call__(self, tokens: jax.Array, kept: jax.Array, hidden: jax.Array) -> jax.Array:
        """Predictions [B, M, P] of hidden patches.

        Args:
          tokens: [B, 1 + K, D], of the class and of the visible patches.
          kept: int [B, K], which patches are visible.
          hidden: int [B, M], which ones are to be predicted.
        """
        chex.assert_rank([tokens, kept, hidden], [3, 2, 2])
        positions = jnp.asarray(transformer.grid_positions(*self._grid, self._width))  # [L, width]
        x = hk.Linear(self._width, w_init=transformer.GLOROT, name="embed")(tokens)
        mask_token = hk.get_parameter(
            "mask_token", (self._width,), init=hk.initializers.TruncatedNormal(0.02)
        )
        class_token = x[:, :1]
        visible = x[:, 1:] + positions[kept]
        guessed = mask_token[None, None] + positions[hidden]
        # The order of tokens means nothing to a transformer: the hidden ones can stand behind the
        # visible ones.
        x = jnp.concatenate([class_token, visible, guessed], axis=1)
        x = transformer.Transformer(self._layers, self._heads)(x)
        patches = hk.Linear(self._numbers, w_init=transformer.GLOROT, name="patches")
        return patches(x[:, -hidden.shape[1] :])
