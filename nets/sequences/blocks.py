"""Long sequences in blocks, for layers whose state is many times as large as what comes in.

Shapes: B rows, T steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

ELEMENTS = 1 << 22  # of the states of one block of all rows: 16 MiB each copy


def by_blocks(
    body: Callable[[Any, Any], tuple[Any, jax.Array]],
    state: Any,
    inputs: Any,
    of_a_step: int,
    at_most: int,
) -> tuple[jax.Array, Any]:
    """Applies `body` to one block of steps after the other.

    Only the states between blocks are kept; the way back computes those within anew, block by
    block (Chen et al. 2016, "sublinear memory"; Gu and Dao 2023, section 3.3.2, do so with all).

    Args:
      body: maps (state, inputs of a block) to the next state and y, a block [B, size, ...].
      state: before the first step.
      inputs: a pytree of arrays [B, T, ...].
      of_a_step: elements of the states of one step, over all rows.
      at_most: elements of the states of one block.

    Returns:
      y [B, T, ...], and the last state.
    """
    length = jax.tree.leaves(inputs)[0].shape[1]
    size = min(length, max(1, at_most // of_a_step))
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
