"""Encoders of text that read from left to right: what a language model has learned."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from missing_bits.encoders import text
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require
from missing_bits.nets.sequences.parts import Mixed
from missing_bits.nets.sequences.stack import Network, Settings
from missing_bits.nets.text import PADDING

_MOST = {  # of what a file may claim
    "layers": 512,
    "width": 65_536,
    "heads": 65_536,
    "qrnn_window": 1_024,
    "s4_states": 65_536,
    "mamba_states": 65_536,
}


@dataclass(frozen=True)
class CausalEncoder:
    """Embedded tokens and a network on sequences, with its tokenizer.

    These fields are all that its file must say besides its variables. What it makes of a token
    depends on that one and those before it in its document.
    """

    settings: Settings
    """The network."""
    vocabulary: int
    """Number of different tokens."""
    length: int
    """Its context: the longest row it is trained on, in tokens."""
    tokenizer: str
    """What `data.tokenizer.Tokenizer.to_json` gave."""

    def __post_init__(self) -> None:
        self.settings.check("")
        for name, most in _MOST.items():
            number = getattr(self.settings, name)
            require(
                number <= most,
                f"The {name} of a network on sequences is {number}; it must be at most {most:,}.",
            )
        text.check_sizes(self.vocabulary, self.length)

    @property
    def num_features(self) -> int:
        """D, the width of a feature."""
        return self.settings.width

    @functools.cached_property
    def network(self) -> Network:
        """What reads embedded tokens."""
        return self.settings.make(self.length)

    def table(self, params: hk.Params) -> jax.Array:
        """The embeddings [V, D] of tokens in this encoder's parameters."""
        return params["embed"]["embeddings"]

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables."""
        table_key, network_key = jax.random.split(key)
        shape = (self.vocabulary, self.settings.width)
        # As GPT-2's: they are small, because they also tell what comes next.
        table = 0.02 * jax.random.truncated_normal(table_key, -2, 2, shape)
        params = {"embed": {"embeddings": table}, **self.network.init(network_key)}
        return Variables(params, {})

    def apply(
        self, variables: Variables, tokens: jax.Array, is_training: bool = False
    ) -> tuple[jax.Array, hk.State]:
        """Features of texts: means over their tokens, each of which knows those before it.

        Args:
          variables: of this encoder.
          tokens: int [B, L], padded at the end with `text.PADDING`; `prepare` makes them of texts.
          is_training: makes no difference.

        Returns:
          Features [B, D], float32, and the state as it was.
        """
        real = (tokens != PADDING).astype(jnp.float32)
        each = self.tokens(variables, tokens)  # [B, L, D]: padding is after all that counts
        count = jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)
        return jnp.sum(each * real[:, :, None], axis=1) / count, variables.state

    def prepare(self, texts: str | Sequence[str] | ArrayLike) -> jax.Array:
        """Texts, or their tokens, as `apply` takes them: int32 [B, L].

        As `TextEncoder.prepare`.
        """
        return text.prepare(texts, self.tokenizer, self.vocabulary, self.length)

    def tokens(
        self,
        variables: Variables,
        tokens: jax.Array,
        reset: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Encoded tokens [B, L, D], float32, of rows that begin anywhere in a document.

        Args:
          variables: of this encoder.
          tokens: int [B, L].
          reset: bool [B, L], which of them begin a document; None if none does within a row.
          keys: random keys [B] for dropout; None for none.
        """
        return self.read(variables, tokens, reset, keys).y

    def read(
        self,
        variables: Variables,
        tokens: jax.Array,
        reset: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> Mixed:
        """What `tokens` gives, and what is remembered after the last one."""
        x = self.table(variables.params)[tokens]
        return self.network.apply(self._inner(variables), x, reset, None, keys)

    def step(self, variables: Variables, tokens: jax.Array, reset: jax.Array, state: Any) -> Mixed:
        """One more token of each row, [B]: what it is encoded to [B, D], and what is remembered.

        Args:
          variables: of this encoder.
          tokens: int [B].
          reset: bool [B], which of them begin a document.
          state: what is remembered: `network.initial(B)` of nothing.
        """
        x = self.table(variables.params)[tokens]
        return self.network.step(self._inner(variables), x, reset, state)

    def _inner(self, variables: Variables) -> hk.Params:
        """The parameters of the network."""
        return {name: leaves for name, leaves in variables.params.items() if name != "embed"}
