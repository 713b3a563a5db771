"""What the networks on sequences share: linear layers, normalization, starting anew at a reset.

Shapes: B rows, T steps, D width.
"""

from typing import Any, NamedTuple, Protocol, TypeVar

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits.nets.transformer import GLOROT, computed_once

S = TypeVar("S")


class Mixed(NamedTuple):
    """What a layer makes of a sequence, and what it remembers of it."""

    y: jax.Array  # [B, T, D], or [B, D] of a single step
    state: Any  # after the last step


class Mixer(Protocol):
    """A layer through which steps of a sequence learn of those before them; a Haiku module.

    All three forms belong to the same function: `__call__` maps a whole sequence at once, `step`
    one step of it. Where `reset` holds, all that the layer remembers starts anew before the step.
    """

    def initial(self, batch: int, width: int) -> Any:
        """What it remembers before the first step: a NamedTuple, most leaves [B, ...]."""

    def __call__(self, x: jax.Array, reset: jax.Array | None, state: Any | None) -> Mixed:
        """A sequence [B, T, D] to one of the same shape.

        Args:
          x: the sequence.
          reset: bool [B, T]; None if nothing starts anew, which may be faster.
          state: what is remembered of before; None for nothing, which may be faster.
        """

    def step(self, x: jax.Array, reset: jax.Array, state: Any) -> Mixed:
        """One step [B, D] to one of the same shape.

        Args:
          x: the step.
          reset: bool [B].
          state: what is remembered of before.
        """


class Linear(hk.Module):
    """A linear layer, computed in the type of what comes in; its parameters are float32.

    Args:
      size: of what goes out.
      bias: whether to add one.
      w_init: how weights start.
      name: of the module.
    """

    def __init__(
        self,
        size: int,
        bias: bool = True,
        w_init: hk.initializers.Initializer = GLOROT,
        name: str | None = None,
    ):
        super().__init__(name)
        self._size = size
        self._bias = bias
        self._w_init = w_init

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., D] to [..., size], as one product of matrices."""
        width = x.shape[-1]
        w = hk.get_parameter("w", [width, self._size], jnp.float32, self._w_init)
        y = x.reshape(-1, width) @ w.astype(x.dtype)
        if self._bias:
            b = hk.get_parameter("b", [self._size], jnp.float32, jnp.zeros)
            y += b.astype(x.dtype)[None]
        return computed_once(y).reshape(*x.shape[:-1], self._size)


def norm(x: jax.Array, name: str) -> jax.Array:
    """Layer normalization (Ba et al. 2016) over the last axis, computed in float32."""
    layer = hk.LayerNorm(-1, create_scale=True, create_offset=True, name=name)
    return layer(x.astype(jnp.float32)).astype(x.dtype)


def kept(state: S, reset: jax.Array | None) -> S:
    """What is left of a state of leaves [B, ...] at a step: zeros where `reset` [B] holds."""
    if reset is None:
        return state
    return jax.tree.map(lambda leaf: jnp.where(over(reset, leaf), 0, leaf), state)


def over(x: jax.Array, other: jax.Array) -> jax.Array:
    """x with as many axes as another array, the further ones of length 1."""
    return x.reshape(*x.shape, *(1,) * (other.ndim - x.ndim))


def check(x: jax.Array, reset: jax.Array | None) -> None:
    """Asserts that x is [B, T, D] and `reset` bool [B, T] or None."""
    chex.assert_rank(x, 3)
    if reset is not None:
        chex.assert_shape(reset, x.shape[:2])
        chex.assert_type(reset, bool)
