"""Long sequences in blocks, for layers whose state is many times as large as what comes in.

All rows at once, or one after the other: then the state of a row stays in a processor's cache, and
on a CPU that is what counts.

Shapes: B rows, T steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

ELEMENTS = 1 << 22  # of the states of one block of all rows: 16 MiB each copy
IN_CACHE = 1 << 18  # of the states of one block of a single row: 1 MiB


def by_blocks(
    body: Callable[[Any, Any], tuple[Any, jax.Array]],
    state: Any,
    inputs: Any,
    of_a_step: int,
    at_most: int | None = None,
) -> tuple[jax.Array, Any]:
    """Applies `body` to one block of steps after the other.

    Only the states between blocks are kept; the way back computes those within anew, block by
    block (Chen et al. 2016, "sublinear memory"; Gu and Dao 2023, section 3.3.2, do so with all).

    Args:
      body: maps (state, inputs of a block) to the next state and y, a block [B, size, ...].
      state: before the first step.
      inputs: a pytree of arrays [B, T, ...].
      of_a_step: elements of the states of one step, over all rows.
      at_most: elements of the states of one block; `ELEMENTS` by default.

    Returns:
      y [B, T, ...], and the last state.
    """
    length = jax.tree.leaves(inputs)[0].shape[1]
    size = min(length, max(1, (at_most or ELEMENTS) // of_a_step))
    body = jax.checkpoint(body)
    many = length // size
    whole = many * size

    def of_blocks(leaf: jax.Array) -> jax.Array:  # [blocks, B, size, ...]
        blocks = leaf[:, :whole].reshape(leaf.shape[0], many, size, *leaf.shape[2:])
        return jnp.moveaxis(blocks, 1, 0)

    state, y = jax.lax.scan(body, state, jax.tree.map(of_blocks, inputs))
    y = jnp.moveaxis(y, 0, 1)
    y = y.reshape(y.shape[0], whole, *y.shape[3:])
    if whole < length:
        state, rest = body(state, jax.tree.map(lambda leaf: leaf[:, whole:], inputs))
        y = jnp.concatenate([y, rest], axis=1)
    return y, state


def by_rows(
    body: Callable[[Any, Any], tuple[Any, jax.Array]],
    state: Any,
    inputs: Any,
    of_a_step: int,
) -> tuple[jax.Array, Any]:
    """The same, one row after the other.

    Args:
      body: maps (state of a row, its inputs of a block) to its next state and y, a block
        [size, ...].
      state: before the first step.
      inputs: a pytree of arrays [B, T, ...].
      of_a_step: elements of the states of one step of one row.

    Returns:
      y [B, T, ...], and the last state.
    """

    def alone(state, inputs):
        state, y = body(*jax.tree.map(lambda leaf: leaf[0], (state, inputs)))
        return jax.tree.map(lambda leaf: leaf[None], state), y[None]

    def of_row(row):
        state, inputs = jax.tree.map(lambda leaf: leaf[None], row)
        found = by_blocks(alone, state, inputs, of_a_step, IN_CACHE)
        return jax.tree.map(lambda leaf: leaf[0], found)

    return jax.lax.map(of_row, (state, inputs))
