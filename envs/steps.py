"""Environment steps as they go from environments, on the host or on the device, to a learner."""

from typing import NamedTuple

import jax


class Steps(NamedTuple):
    """Environment steps in order of time, per environment; rows that are not `valid` are ignored."""

    s_tm1: jax.Array  # [E, V, ...] observation the action was chosen on
    a_tm1: jax.Array  # [E, V] int32
    r_t: jax.Array  # [E, V] float32
    terminated: jax.Array  # [E, V] bool: the episode ended in a terminal state, worth nothing
    truncated: jax.Array  # [E, V] bool: the episode was cut short in a state worth its value
    s_t: jax.Array  # [E, V, ...] observation that followed: the true final one at an episode's end
    valid: jax.Array  # [E, V] bool
