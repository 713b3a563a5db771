"""Text that a language model writes, a token after the other, by what it remembers.

A recurrent network remembers all that it has read. A transformer knows as many positions as its
context has: once they are used up, it reads the last half of the context anew, and what was before
is forgotten. What it makes of each token is therefore what it makes of the window as a whole.
Shapes: B rows, n tokens, D width, V vocabulary, C context.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.data.tokenizer import MASK, PAD, SEP, UNK
from missing_bits.encoders.causal import CausalEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.eval import sampling
from missing_bits.eval.sampling import Sampling
from missing_bits.numeric import ceil_div

_AT_ONCE = 32  # tokens of one call: often enough to be read along


class _Reader(NamedTuple):
    """Where a text stands."""

    state: Any  # of the network
    y: jax.Array  # [B, D], what it makes of the last token


class Writer:
    """Continues texts with an encoder's parameters.

    Args:
      encoder: which.
      variables: its own.
      rows: B, how many continuations are written at once.
    """

    def __init__(self, encoder: CausalEncoder, variables: Variables, rows: int) -> None:
        self._encoder = encoder
        self._variables = jax.device_put(variables)
        self._rows = rows
        # What the transformer alone has an end of.
        self._room = encoder.length if encoder.settings.network == "transformer" else None
        self._read = jax.jit(functools.partial(_read, encoder))
        self._write = jax.jit(functools.partial(_write, encoder))
        self._again = jax.jit(functools.partial(_again, encoder))

    @property
    def longest(self) -> int | None:
        """Tokens of a prompt, at most, to which one can still be added; None for any number."""
        return None if self._room is None else self._room - 1

    def compile(self, prompt: np.ndarray, how: Sampling) -> None:
        """Compiles what `write` runs for such a prompt, but for what follows a full context."""
        reader = self._start(prompt, 0)
        jax.block_until_ready(
            self._write(self._variables, reader, jax.random.key(0), 0, 0, _numbers(how))
        )

    def write(
        self, prompt: np.ndarray, length: int, how: Sampling, key: jax.Array
    ) -> Iterator[np.ndarray]:
        """Continues a prompt; yields int32 [n, B], the next tokens of each row.

        Rows go on after the end of a document (SEP) with another one; the others of the special
        tokens are never drawn.

        Args:
          prompt: int [n], at least one token, and at most `longest`.
          length: tokens of each continuation.
          how: they are drawn.
          key: of which those of all draws are folded.
        """
        reader = self._start(prompt, len(prompt))
        seen = [np.broadcast_to(prompt[:, None], (len(prompt), self._rows))]
        used = len(prompt)  # positions
        done = 0
        while done < length:
            if used == self._room:
                kept = ceil_div(self._room, 2)
                last = np.concatenate(seen)[-kept:]
                reader = self._again(self._variables, np.ascontiguousarray(last.T))
                seen = [last]
                used = kept
            room = length if self._room is None else self._room - used
            count = min(_AT_ONCE, length - done, room)
            reader, tokens = self._write(self._variables, reader, key, done, count, _numbers(how))
            tokens = np.asarray(tokens)[:count]
            done += count
            used += count
            if self._room is not None:
                seen.append(tokens)
            yield tokens

    def _start(self, prompt: np.ndarray, count: int) -> _Reader:
        """What is remembered of the first tokens of a prompt."""
        # Some lengths for all: each is compiled once.
        padded = np.full(1 << max(4, len(prompt) - 1).bit_length(), PAD, np.int32)
        padded[: len(prompt)] = prompt
        state = self._encoder.network.initial(self._rows)
        y = jnp.zeros((self._rows, self._encoder.settings.width))
        return self._read(self._variables, _Reader(state, y), padded, count)


def _numbers(how: Sampling) -> Sampling:
    """As arrays: other values are no other program."""
    return Sampling(np.float32(how.temperature), np.int32(how.top_k), np.float32(how.top_p))


def _step(
    encoder: CausalEncoder, variables: Variables, reader: _Reader, tokens: jax.Array
) -> _Reader:
    """What is remembered after one more token of each row, [B]."""
    y, state = encoder.step(variables, tokens, tokens == SEP, reader.state)
    return _Reader(state, y)


def _read(
    encoder: CausalEncoder,
    variables: Variables,
    reader: _Reader,
    prompt: jax.Array,
    count: jax.Array,
) -> _Reader:
    """What is remembered after the first tokens of a prompt [n], the same for all rows."""

    def body(i: jax.Array, reader: _Reader) -> _Reader:
        tokens = jnp.full(reader.y.shape[:1], prompt[i])
        return _step(encoder, variables, reader, tokens)

    return jax.lax.fori_loop(0, count, body, reader)


def _again(encoder: CausalEncoder, variables: Variables, tokens: jax.Array) -> _Reader:
    """What is remembered of rows [B, n] that are read from their start, all at once."""
    y, state = encoder.read(variables, tokens, tokens == SEP)
    return _Reader(state, y[:, -1])


def _write(
    encoder: CausalEncoder,
    variables: Variables,
    reader: _Reader,
    key: jax.Array,
    first: jax.Array,
    count: jax.Array,
    how: Sampling,
) -> tuple[_Reader, jax.Array]:
    """Draws tokens first, ..., first + count - 1 of each row: int32 [_AT_ONCE, B]."""

    def body(i: jax.Array, carry: tuple[_Reader, jax.Array]) -> tuple[_Reader, jax.Array]:
        reader, written = carry
        logits = next_logits(encoder, variables, reader.y)
        tokens = sampling.draw(jax.random.fold_in(key, first + i), logits, how)
        return _step(encoder, variables, reader, tokens), written.at[i].set(tokens)

    rows = reader.y.shape[0]
    written = jnp.full((_AT_ONCE, rows), PAD, jnp.int32)
    return jax.lax.fori_loop(0, count, body, (reader, written))


def next_logits(encoder: CausalEncoder, variables: Variables, y: jax.Array) -> jax.Array:
    """Logits [B, V] of what follows, from what a network makes of the last token [B, D].

    What never comes in a text has -inf.
    """
    logits = y @ encoder.table(variables.params).T
    never = np.isin(np.arange(encoder.vocabulary), (PAD, UNK, MASK))
    return jnp.where(never[None], -jnp.inf, logits)
