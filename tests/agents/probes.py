"""Probe environments: their values are known, and each asks for one thing that an agent must do.

Which of them an agent fails tells what is wrong (the idea is Andy Jones's, "Debugging reinforcement
learning systems"). They are kinds of episodes of one JAX-native environment, drawn at random and
told apart by the observation, so that one short run tests them all.
"""

from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.envs.functional_jax_env import FunctionalJaxEnv
from gymnasium.experimental.functional import FuncEnv

ENV = f"{__name__}:Probes-v0"
DISCOUNT = 0.8
KINDS = ("one", "delayed", "choice", "mortal", "forever")
"""
- one: ends after a step that earns 1. Is the loss right, and the network wired?
- delayed: ends after two steps, the second of which earns 1. Are values discounted?
- choice: ends after a step that earns 1 for action 1 and loses 1 for action 0. Do actions matter?
- mortal: earns 1 at each of four steps, and ends. Does a termination not bootstrap?
- forever: the same, but never ends; a time limit of five steps cuts it short. Does that bootstrap?
"""
_ENDS = (1, 2, 1, 4, 10**6)  # steps after which a kind ends
_SEEN = 4  # later steps look like this one


class Place(NamedTuple):
    """Where an episode stands."""

    kind: jax.Array  # int32
    step: jax.Array  # int32, from 0


class Probes(FuncEnv):
    """All kinds; observes the kind and the step, each as a one-hot vector."""

    observation_space = gym.spaces.Box(0, 1, (len(KINDS) + _SEEN + 1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def initial(self, rng: jax.Array, params: Any = None) -> Place:
        """A kind at random."""
        return Place(jax.random.randint(rng, (), 0, len(KINDS)), jnp.int32(0))

    def transition(
        self, state: Place, action: jax.Array, rng: jax.Array, params: Any = None
    ) -> Place:
        """The next step."""
        return state._replace(step=state.step + 1)

    def observation(self, state: Place, rng: jax.Array, params: Any = None) -> jax.Array:
        """The kind and the step."""
        kind = jax.nn.one_hot(state.kind, len(KINDS))
        return jnp.concatenate([kind, jax.nn.one_hot(jnp.minimum(state.step, _SEEN), _SEEN + 1)])

    def reward(
        self,
        state: Place,
        action: jax.Array,
        next_state: Place,
        rng: jax.Array,
        params: Any = None,
    ) -> jax.Array:
        """What each kind earns."""
        one = jnp.float32(1)
        delayed = jnp.where(state.step == 1, 1.0, 0.0)
        choice = jnp.where(action == 1, 1.0, -1.0)
        return jnp.stack([one, delayed, choice, one, one])[state.kind]

    def terminal(self, state: Place, rng: jax.Array, params: Any = None) -> jax.Array:
        """Whether an episode of this kind has ended."""
        return state.step >= jnp.array(_ENDS)[state.kind]


def _discounted(steps: int) -> float:
    return sum(DISCOUNT**i for i in range(steps))


VALUES = {  # for every step, of both actions
    "one": [[1, 1]],
    "delayed": [[DISCOUNT, DISCOUNT], [1, 1]],
    "choice": [[-1, 1]],
    "mortal": [[_discounted(left)] * 2 for left in (4, 3, 2, 1)],
    "forever": [[1 / (1 - DISCOUNT)] * 2] * 5,
}


def observations(kind: str) -> np.ndarray:
    """What is seen at each step for which a kind has known values, [steps, ...]."""
    seen = np.zeros((len(VALUES[kind]), len(KINDS) + _SEEN + 1), np.float32)
    seen[:, KINDS.index(kind)] = 1
    for step in range(len(seen)):
        seen[step, len(KINDS) + step] = 1
    return seen


def _make(render_mode: str | None = None) -> FunctionalJaxEnv:
    return FunctionalJaxEnv(Probes(), {"render_modes": [], "jax": True})


gym.register("Probes-v0", _make, max_episode_steps=5)
