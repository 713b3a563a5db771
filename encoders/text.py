"""Encoders of text: a network by name, with its tokenizer."""

from dataclasses import dataclass

import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits.encoders.variables import Variables
from missing_bits.nets import text


@dataclass(frozen=True)
class TextEncoder:
    """An encoder of text with its tokenizer.

    These fields are all that its file must say besides its variables.
    """

    network: str
    """A name that `text.make` knows."""
    vocabulary: int
    """Number of different tokens."""
    length: int
    """The longest row it is trained on, in tokens."""
    tokenizer: str
    """What `data.tokenizer.Tokenizer.to_json` gave."""
    dropout: float = 0.0
    """Share that `tokens` drops where it is given keys."""
    bfloat16: bool = False
    """Compute in bfloat16."""

    @property
    def num_features(self) -> int:
        """D, the width of a feature."""
        return self.table(jax.eval_shape(self.init, jax.random.key(0)).params).shape[1]

    def table(self, params: hk.Params) -> jax.Array:
        """The embeddings [V, D] of tokens in this encoder's parameters."""
        return params["text_transformer/embed"]["embeddings"]

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables."""
        row = jnp.zeros((1, self.length), jnp.int32)
        return Variables(self._network.init(key, row, row, None), {})

    def apply(
        self, variables: Variables, tokens: jax.Array, is_training: bool = False
    ) -> tuple[jax.Array, hk.State]:
        """Features of texts: means over their tokens.

        Args:
          variables: of this encoder.
          tokens: int [B, L], padded at the end with `text.PADDING`.
          is_training: makes no difference.

        Returns:
          Features [B, D], float32, and the state as it was.
        """
        real = (tokens != text.PADDING).astype(jnp.int32)
        each = self.tokens(variables, tokens, real)  # [B, L, D]
        count = jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)
        return jnp.sum(each * real[:, :, None], axis=1) / count, variables.state

    def tokens(
        self,
        variables: Variables,
        tokens: jax.Array,
        segments: jax.Array,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Encoded tokens [B, L, D], float32, of packed rows.

        Args:
          variables: of this encoder.
          tokens: int [B, L].
          segments: int [B, L], which document of its row a token belongs to.
          keys: random keys [B] for dropout; None for none.
        """
        return self._network.apply(variables.params, None, tokens, segments, keys)

    @property
    def _network(self) -> hk.Transformed:
        return text.make(self.network, self.vocabulary, self.dropout, self.bfloat16)
