"""How agents explore: functions of keys, the same for every number of devices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from missing_bits import collectives

_LONGEST = 10_000  # repetitions (Dabney et al. 2021, appendix A)


def epsilon_greedy(
    key: jax.Array, greedy: jax.Array, num_actions: int, epsilon: jax.Array
) -> jax.Array:
    """The greedy action, or with probability epsilon one of all at random, for each environment.

    Two words of random bits for each environment decide: drawing them for the environments of all
    devices and keeping one's own makes actions independent of the number of devices.

    Args:
      key: a random key, the same on every device.
      greedy: int [E], the greedy actions.
      num_actions: A.
      epsilon: scalar in [0, 1].

    Returns:
      int32 [E].
    """
    envs = greedy.shape[0] * collectives.size()
    bits = collectives.shard(jax.random.bits(key, (envs, 2)))  # [E, 2]
    explore = bits[:, 0].astype(jnp.float32) * 2**-32 < epsilon
    random_action = (bits[:, 1] % num_actions).astype(jnp.int32)
    return jnp.where(explore, random_action, greedy)


def linear_decay(steps: jax.Array, decay_steps: int, final: jax.Array | float) -> jax.Array:
    """A probability that falls linearly from 1 to `final` over `decay_steps`, and stays there."""
    return jnp.maximum(final, 1 - (1 - final) * steps / decay_steps)


class Persisting(NamedTuple):
    """The action that each environment goes on with."""

    action: jax.Array  # [E] int32
    left: jax.Array  # [E] int32, how often it will be repeated


def no_persisting(envs: int) -> Persisting:
    """Nothing to go on with."""
    return Persisting(jnp.zeros(envs, jnp.int32), jnp.zeros(envs, jnp.int32))


def persistent_epsilon_greedy(
    key: jax.Array,
    greedy: jax.Array,
    num_actions: int,
    epsilon: jax.Array,
    before: Persisting,
    reset: jax.Array,
    exponent: float,
) -> tuple[jax.Array, Persisting]:
    """Temporally extended epsilon-greedy (Dabney et al. 2021, algorithm 1).

    A random action is repeated n times, with a probability proportional to n^-exponent: most are
    short, a few last long enough to get somewhere. An episode's end ends it.

    Args:
      key: a random key, the same on every device.
      greedy: int [E], the greedy actions.
      num_actions: A.
      epsilon: scalar in [0, 1], the probability of beginning where nothing is repeated.
      before: what is being repeated.
      reset: bool [E], whether an episode has just begun.
      exponent: above 1; 2 in the paper.

    Returns:
      int32 [E], and what is repeated from here on.
    """
    envs = greedy.shape[0] * collectives.size()
    bits = collectives.shard(jax.random.bits(key, (envs, 3)))  # [E, 3]
    chances = jnp.arange(1, _LONGEST + 1, dtype=jnp.float32) ** -exponent
    ends = jnp.cumsum(chances)
    drawn = bits[:, 2].astype(jnp.float32) * 2**-32 * ends[-1]
    duration = 1 + jnp.searchsorted(ends, drawn, side="right").astype(jnp.int32)
    begins = bits[:, 0].astype(jnp.float32) * 2**-32 < epsilon
    random_action = (bits[:, 1] % num_actions).astype(jnp.int32)
    goes_on = (before.left > 0) & ~reset
    action = jnp.where(goes_on, before.action, jnp.where(begins, random_action, greedy))
    fresh = jnp.where(begins, jnp.minimum(duration, _LONGEST) - 1, 0)
    return action, Persisting(action, jnp.where(goes_on, before.left - 1, fresh))
