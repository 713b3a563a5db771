"""What passes between environments, agents and learners; `envs/environments.py` tells how."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

EPISODE_RETURN = "train/episode_return"
"""The metric of both kinds of environments: the mean return of the episodes that ended."""


class Acted(NamedTuple):
    """What an agent answers to the observations of E environments."""

    action: jax.Array | np.ndarray  # [E] int32, from 0
    memory: Any = ()  # pytree, leaves [E, ...]: what it remembers at its next answer
    extras: Any = ()  # pytree, leaves [E, ...]: what else the learner needs, as log probabilities


class Player(NamedTuple):
    """A learned agent as evaluation needs it."""

    memory: Callable[[int], Any]
    """What the agent remembers at first, for so many environments: a pytree, leaves [E, ...]."""
    act: Callable[[Any, Any, Any, Any], tuple[Any, Any]]
    """(learned, memory, observation [E, ...], reset [E]) -> (action [E], memory); jitted, once."""


class Outcome(NamedTuple):
    """What came of one action in each of E environments, or in one."""

    r_t: jax.Array | np.ndarray  # [E] float
    terminated: jax.Array | np.ndarray  # [E] bool
    truncated: jax.Array | np.ndarray  # [E] bool
    s_t: jax.Array | np.ndarray  # [E, ...]: the true final observation at an episode's end


class Steps(NamedTuple):
    """Environment steps in order of time, per environment; rows not `valid` are ignored."""

    s_tm1: jax.Array  # [E, V, ...] observation the action was chosen on
    a_tm1: jax.Array  # [E, V] int32
    r_t: jax.Array  # [E, V] float32
    terminated: jax.Array  # [E, V] bool: the episode ended in a terminal state, worth nothing
    truncated: jax.Array  # [E, V] bool: the episode was cut short in a state worth its value
    s_t: jax.Array  # [E, V, ...] observation that followed: the true final one at an episode's end
    valid: jax.Array  # [E, V] bool
    extras: Any = ()  # pytree, leaves [E, V, ...]: what the agent said beside its action


def says_something(extras: Any) -> bool:
    """Whether an agent says anything beside its actions; most do not, and must not wait for it."""
    return not (isinstance(extras, tuple) and not extras)
