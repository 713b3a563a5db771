"""The kinds of replay as one set of functions, so that an agent need not ask which it has."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from missing_bits.envs.steps import Steps
from missing_bits.replay import prioritized, uniform
from missing_bits.replay.prioritized import Sample


class Kind(NamedTuple):
    """A replay as functions on its state."""

    init: Callable[..., Any]
    """As `uniform.init`."""
    insert: Callable[[Any, Steps], Any]
    """(replay, steps) -> replay."""
    sample: Callable[[Any, jax.Array, int, jax.Array], Sample]
    """(replay, key, batch size over all devices, share of training that is done) -> Sample."""
    reprioritize: Callable[[Any, Sample, jax.Array, jax.Array], Any]
    """(replay, sample, surprise [B], whether it counts) -> replay."""


def uniformly(n: int, discount: jax.Array | float) -> Kind:
    """Every transition of a lane equally often.

    Args:
      n: steps of return.
      discount: gamma, per step.
    """

    def sample(replay: Any, key: jax.Array, batch_size: int, share: jax.Array) -> Sample:
        found = uniform.sample(replay, key, batch_size, n, discount)
        nowhere = jnp.zeros_like(found.a_tm1)
        return Sample(found, jnp.ones_like(found.r_t), nowhere, nowhere)

    def reprioritize(replay: Any, drawn: Sample, surprise: jax.Array, counts: jax.Array) -> Any:
        return replay

    return Kind(uniform.init, uniform.insert, sample, reprioritize)


def by_priority(
    n: int, discount: jax.Array | float, alpha: jax.Array | float, beta: jax.Array | float
) -> Kind:
    """By how surprising a transition was (Schaul et al. 2016).

    Args:
      n: steps of return.
      discount: gamma, per step.
      alpha: how much priorities differ.
      beta: how much of the bias the weights undo at the start; all of it at the end.
    """

    def insert(replay: Any, steps: Steps) -> Any:
        return prioritized.insert(replay, steps, n)

    def sample(replay: Any, key: jax.Array, batch_size: int, share: jax.Array) -> Sample:
        undone = beta + (1 - beta) * share
        return prioritized.sample(replay, key, batch_size, n, discount, undone)

    def reprioritize(replay: Any, drawn: Sample, surprise: jax.Array, counts: jax.Array) -> Any:
        return prioritized.reprioritize(replay, drawn, surprise, counts, alpha)

    return Kind(prioritized.init, insert, sample, reprioritize)
