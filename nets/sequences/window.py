"""Short causal convolutions see a step and the few before it, and remember these.

Shapes: B rows, T steps, D width, K steps seen at once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from missing_bits.nets.sequences import parts
from missing_bits.nets.sequences.attention import since


class Recent(NamedTuple):
    """The last K - 1 inputs, the newest last; zeros for those before a reset."""

    inputs: jax.Array  # [B, K - 1, D]


class Seen(NamedTuple):
    """What a convolution sees."""

    lags: list[jax.Array]  # K of [B, T, D], or [B, D]: the input of each step, of the one before...
    recent: Recent  # after the last step


def initial(batch: int, size: int, width: int) -> Recent:
    """Nothing before the first step, for a window of `size` steps."""
    return Recent(jnp.zeros((batch, size - 1, width), jnp.float32))


def see(x: jax.Array, reset: jax.Array | None, recent: Recent) -> Seen:
    """What each step of x [B, T, D] sees: zeros in place of what was before the last reset.

    Args:
      x: the sequence.
      reset: bool [B, T]; None for nowhere.
      recent: the inputs before.
    """
    batch, length, _ = x.shape
    reach = recent.inputs.shape[1]  # K - 1
    inputs = jnp.concatenate([recent.inputs.astype(x.dtype), x], axis=1)  # [B, K - 1 + T, D]
    lags = [inputs[:, reach - lag : reach - lag + length] for lag in range(reach + 1)]
    last = inputs[:, length:]
    if reset is not None:
        count = since(reset, jnp.full((batch,), reach, jnp.int32), length)[:, :, None]  # [B, T, 1]
        lags = [jnp.where(count >= lag, seen, 0) for lag, seen in enumerate(lags)]
        age = jnp.arange(reach - 1, -1, -1)[None, :, None]  # of `last`, in steps
        last = jnp.where(count[:, -1:] >= age, last, 0)
    return Seen(lags, Recent(last.astype(jnp.float32)))


def see_step(x: jax.Array, reset: jax.Array, recent: Recent) -> Seen:
    """What one step [B, D] sees; see `see`."""
    before = parts.kept(recent, reset).inputs.astype(x.dtype)
    inputs = jnp.concatenate([before, x[:, None]], axis=1)  # [B, K, D]
    lags = [inputs[:, place] for place in reversed(range(inputs.shape[1]))]
    return Seen(lags, Recent(inputs[:, 1:].astype(jnp.float32)))
