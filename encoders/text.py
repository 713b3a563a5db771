"""Encoders of text: a network by name, with its tokenizer."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from missing_bits.encoders.variables import Variables
from missing_bits.errors import UserError, require
from missing_bits.nets import text

_MOST_TOKENS = 10_000_000  # in a vocabulary or a row


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

    def __post_init__(self) -> None:
        require(
            self.network in text.NAMES,
            f"An encoder of text is one of {', '.join(text.NAMES)}; there is no {self.network}.",
        )
        check_sizes(self.vocabulary, self.length)
        require(
            0 <= self.dropout < 1,
            f"The dropout of an encoder of text is {self.dropout}; it must be at least 0 and below "
            "1.",
        )

    @property
    def num_features(self) -> int:
        """D, the width of a feature."""
        return self.table(jax.eval_shape(self.init, jax.random.key(0)).params).shape[1]

    def table(self, params: hk.Params) -> jax.Array:
        """The embeddings [V, D] of tokens in this encoder's parameters."""
        return params["text_transformer/embed"]["embeddings"]

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables."""
        row = jnp.zeros((1, 1), jnp.int32)  # parameters do not depend on its length
        return Variables(self._network.init(key, row, row, None), {})

    def apply(
        self, variables: Variables, tokens: jax.Array, is_training: bool = False
    ) -> tuple[jax.Array, hk.State]:
        """Features of texts: means over their tokens.

        Args:
          variables: of this encoder.
          tokens: int [B, L], padded at the end with `text.PADDING`; `prepare` makes them of texts.
          is_training: makes no difference.

        Returns:
          Features [B, D], float32, and the state as it was.
        """
        real = (tokens != text.PADDING).astype(jnp.int32)
        each = self.tokens(variables, tokens, real)  # [B, L, D]
        count = jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)
        return jnp.sum(each * real[:, :, None], axis=1) / count, variables.state

    def prepare(self, texts: str | Sequence[str] | ArrayLike) -> jax.Array:
        """Texts, or their tokens, as `apply` takes them: int32 [B, L].

        Args:
          texts: a text or several; or integers [B, L], tokens padded at the end with
            `text.PADDING`. In a traced function only the shape and type of tokens are known, and
            checked. A text of more than `length` tokens is cut, with a warning; an empty one has
            features of zeros.

        Raises:
          UserError: they are none of these.
        """
        return prepare(texts, self.tokenizer, self.vocabulary, self.length)

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


def check_sizes(vocabulary: int, length: int) -> None:
    """Raises `UserError` for sizes that no encoder of text has."""
    for what, number in (("vocabulary", vocabulary), ("length", length)):
        require(
            1 <= number <= _MOST_TOKENS,
            f"The {what} of an encoder of text is {number}; it must lie between 1 and "
            f"{_MOST_TOKENS:,}.",
        )


def prepare(
    texts: str | Sequence[str] | ArrayLike, tokenizer: str, vocabulary: int, length: int
) -> jax.Array:
    """Texts, or their tokens, as `TextEncoder.prepare` describes it.

    Args:
      texts: a text or several, or tokens [B, L].
      tokenizer: as JSON.
      vocabulary: number of different tokens.
      length: tokens of a text, at most.
    """
    if isinstance(texts, np.ndarray) and texts.dtype.kind in "UO":  # strings
        texts = texts.tolist()
    if isinstance(texts, str):
        texts = [texts]
    if isinstance(texts, Sequence) and texts and all(isinstance(one, str) for one in texts):
        texts = _tokenized(texts, tokenizer, length)
    is_traced = isinstance(texts, jax.core.Tracer)
    try:
        tokens = texts if is_traced else np.asarray(texts)
    except ValueError as error:
        raise UserError(
            f"Rows of tokens differ in length; pad them at the end with {text.PADDING}."
        ) from error
    require(
        jnp.issubdtype(tokens.dtype, jnp.integer),
        f"Texts are of type {tokens.dtype}; give a list of strings, or tokens as integers.",
    )
    shape = tokens.shape
    advice = " Give a single text as tokens[None]." if len(shape) == 1 else ""
    require(
        len(shape) == 2 and shape[1] > 0,
        f"Tokens are of shape {shape}; this encoder takes (texts, tokens of a text).{advice}",
    )
    if not is_traced and tokens.size:
        low = tokens.min()
        high = tokens.max()
        require(
            low >= 0 and high < vocabulary,
            f"Tokens are numbers from {low} to {high}; those of this encoder's vocabulary go "
            f"from 0 to {vocabulary - 1}. Give strings, or cut them by its own tokenizer.",
        )
    return jnp.asarray(tokens, jnp.int32)


def _tokenized(texts: Sequence[str], tokenizer: str, length: int) -> np.ndarray:
    """Tokens int32 [B, L] of texts, of which too long ones are cut."""
    from missing_bits.data.tokenizer import Tokenizer  # late: its library is not always needed

    found = [encoded.ids for encoded in Tokenizer.from_json(tokenizer).encode_all(texts)]
    long = sum(len(ids) > length for ids in found)
    if long:
        warnings.warn(
            f"{long} of {len(texts)} texts have more than {length} tokens, the most that "
            "this encoder reads: their ends are cut off.",
            stacklevel=5,
        )
    longest = max(1, *map(len, found))
    tokens = np.full((len(texts), min(longest, length)), text.PADDING, np.int32)
    for row, ids in zip(tokens, found, strict=True):
        row[: len(ids)] = ids[:length]
    return tokens
