"""Figures of an update that the loop averages over the log window."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mean(NamedTuple):
    """A mean of figures that are not there in every update; with a count of 0 it does not exist."""

    total: jax.Array  # float32 scalar: their sum
    count: jax.Array  # float32 scalar: how many they are


Metrics = dict[str, jax.Array | Mean]


def where(condition: jax.Array, value: jax.Array) -> Mean:
    """A figure that exists in this update only if the condition holds."""
    count = jnp.asarray(condition, jnp.float32)
    return Mean(jnp.where(condition, value, 0.0), count)
