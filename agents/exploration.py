"""How agents explore: functions of keys, the same for every number of devices."""

import jax
import jax.numpy as jnp

from missing_bits import collectives


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
