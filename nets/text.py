"""Encoders of text in Haiku: token numbers [B, L] to tokens [B, L, D].

Their sizes are those of Turc et al. 2019.
"""

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import jmp

from missing_bits.nets import transformer

PADDING = 0  # the number of the token that fills a row
_REACH = 32  # distances between tokens that attention tells apart

_SIZES: dict[str, tuple[int, int]] = {  # width, layers; a head for every 64 of the width
    "bert_nano": (64, 1),  # for tests
    "bert_tiny": (128, 2),
    "bert_mini": (256, 4),
    "bert_small": (512, 4),
    "bert_medium": (512, 8),
    "bert_base": (768, 12),
}
NAMES = tuple(_SIZES)


class TextTransformer(hk.Module):
    """BERT's encoder (Devlin et al. 2019).

    Normalization stands before each layer, and there are no segment embeddings. Positions enter as
    distances between tokens, in attention, so that rows may be of any length and documents may
    begin anywhere in them.

    Args:
      width: of a token.
      layers: number of blocks.
      vocabulary: number of different tokens.
      dropout: of each block.
      name: of the module.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        vocabulary: int,
        dropout: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(name)
        self._width = width
        self._layers = layers
        self._vocabulary = vocabulary
        self._dropout = dropout

    def __call__(self, tokens: jax.Array, segments: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Tokens [B, L, D] of packed rows.

        Args:
          tokens: int [B, L].
          segments: int [B, L], which document of its row a token belongs to; attention stays
            within.
          keys: random keys [B] for dropout; None for none.
        """
        chex.assert_equal_shape([tokens, segments])
        near_zero = hk.initializers.TruncatedNormal(0.02)
        x = hk.Embed(self._vocabulary, self._width, w_init=near_zero, name="embed")(tokens)
        heads = self._width // 64
        stack = transformer.Transformer(self._layers, heads, self._dropout, _REACH)
        return stack(x, transformer.same_segment(segments), keys)


class WordHead(hk.Module):
    """Guesses tokens: a dense layer, GELU, normalization, and the embeddings once more.

    The latter as in Press and Wolf 2017.
    """

    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        """Logits [..., V] of encoded tokens [..., D], for a table [V, D] of embeddings."""
        chex.assert_equal(x.shape[-1], table.shape[1])
        x = jax.nn.gelu(hk.Linear(x.shape[-1], w_init=transformer.GLOROT, name="dense")(x))
        x = hk.LayerNorm(-1, create_scale=True, create_offset=True, name="norm")(x)
        bias = hk.get_parameter("bias", table.shape[:1], init=jnp.zeros)
        return x @ table.T + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def make(
    name: str, vocabulary: int, dropout: float = 0.0, bfloat16: bool = False
) -> hk.Transformed:
    """An encoder by name: a Haiku transform of (tokens, segments, keys) to float32 tokens.

    Args:
      name: bert_nano (for tests), bert_tiny, bert_mini, bert_small, bert_medium or bert_base.
      vocabulary: number of different tokens.
      dropout: where keys are given, 0 up to 1.
      bfloat16: compute in bfloat16; parameters and results stay float32.
    """
    width, layers = _SIZES[name]

    def forward(tokens: jax.Array, segments: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return TextTransformer(width, layers, vocabulary, dropout)(tokens, segments, keys)

    network = hk.transform(forward)
    compute = "bfloat16" if bfloat16 else "float32"
    policy = jmp.get_policy(f"params=float32,compute={compute},output=float32")

    def apply(params: hk.Params, key: jax.Array | None, *inputs: jax.Array | None) -> jax.Array:
        return policy.cast_to_output(network.apply(policy.cast_to_compute(params), key, *inputs))

    return hk.Transformed(network.init, apply)


def word_head() -> hk.Transformed:
    """The head of masked language models.

    It is a Haiku transform of (encoded tokens, table of embeddings) to logits.
    """
    return hk.without_apply_rng(hk.transform(lambda x, table: WordHead()(x, table)))
