"""Drawing the next token: temperature, then the k likeliest, then the likeliest that hold p.

Shapes: B rows, V vocabulary.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
    """How tokens are drawn; arguments of compiled programs, which other values compile nothing."""

    temperature: float | jax.Array = 1.0
    """Logits are divided by it, before anything is left out; 0 for always the likeliest token."""
    top_k: int | jax.Array = 0
    """How many of the likeliest tokens may be drawn; 0 for all."""
    top_p: float | jax.Array = 1.0
    """Of those, the likeliest that together have this probability, above 0 and at most 1 (Holtzman
    et al. 2020): the one that crosses it among them."""


def log_chances(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """The logarithms of the probabilities by which tokens are drawn.

    Args:
      logits: float [B, V].
      sampling: how.

    Returns:
      float32 [B, V]; -inf for what is left out. Of equal logits that of the smaller token is the
      likelier.
    """
    chex.assert_rank(logits, 2)
    temperature = jnp.asarray(sampling.temperature, jnp.float32)
    greedy = temperature == 0
    logits = logits.astype(jnp.float32)
    # From 0 down: divided by however little, no logit becomes infinite but what is left out.
    logits -= jnp.max(logits, axis=1, keepdims=True)
    logits /= jnp.where(greedy, 1.0, temperature)
    order = jnp.argsort(-logits, axis=1, stable=True)  # the likeliest first
    sorted_logits = jnp.take_along_axis(logits, order, axis=1)
    size = logits.shape[1]
    most = jnp.where(jnp.asarray(sampling.top_k) > 0, sampling.top_k, size)
    most = jnp.where(greedy, 1, most)
    ranks = jnp.arange(size)[None]
    left = jnp.where(ranks < most, sorted_logits, -jnp.inf)
    chances = jax.nn.softmax(left, axis=1)
    likelier = jnp.cumsum(chances, axis=1) - chances  # the probability of all that are
    # The first is always kept, and at a p of 1 are all: sums are rounded.
    kept = (likelier < sampling.top_p) | (ranks == 0) | (jnp.asarray(sampling.top_p) >= 1)
    left = jnp.where(kept, left, -jnp.inf)
    left = jax.nn.log_softmax(left, axis=1)
    places = jnp.argsort(order, axis=1)
    return jnp.take_along_axis(left, places, axis=1)


def draw(key: jax.Array, logits: jax.Array, sampling: Sampling) -> jax.Array:
    """A token for each row, int32 [B]; the arguments are those of `log_chances`."""
    return jax.random.categorical(key, log_chances(logits, sampling)).astype(jnp.int32)
