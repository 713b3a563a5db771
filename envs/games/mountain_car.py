"""MountainCar (Moore 1990): a car too weak for the slope swings up to the flag on the right.

The equations are those of Sutton and Barto (2018), example 10.1; constants, bounds and rewards are
those of Gymnasium's MountainCar-v0, and one step equals its to the rounding of float32.
"""

from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.envs.games.classic_control import ClassicControl

LEFTMOST = -1.2
RIGHTMOST = 0.6
FASTEST = 0.07  # per step
FORCE = 0.001
GRAVITY = 0.0025
GOAL = 0.5
START = (-0.6, -0.4)  # around the bottom of the valley


class State(NamedTuple):
    """The car; float32 scalars."""

    position: jax.Array
    velocity: jax.Array  # per step


class MountainCar(ClassicControl):
    """Actions 0, 1 and 2 push to the left, not at all and to the right; every step costs 1."""

    drawn_by = "MountainCar-v0"
    action_space = gym.spaces.Discrete(3)
    observation_space = gym.spaces.Box(
        np.array([LEFTMOST, -FASTEST], np.float32),
        np.array([RIGHTMOST, FASTEST], np.float32),
        dtype=np.float32,
    )

    def initial(self, rng: jax.Array, params: Any = None) -> State:
        """At rest in the valley."""
        return State(jax.random.uniform(rng, minval=START[0], maxval=START[1]), jnp.float32(0))

    def transition(
        self, state: State, action: jax.Array, rng: jax.Array, params: Any = None
    ) -> State:
        """The state one step later; the wall at the left stops the car."""
        push = (action - 1) * FORCE - jnp.cos(3 * state.position) * GRAVITY
        velocity = jnp.clip(state.velocity + push, -FASTEST, FASTEST)
        position = jnp.clip(state.position + velocity, LEFTMOST, RIGHTMOST)
        is_stopped = (position <= LEFTMOST) & (velocity < 0)
        return State(position, jnp.where(is_stopped, 0.0, velocity))

    def observation(self, state: State, rng: jax.Array, params: Any = None) -> jax.Array:
        """[2] float32: the state itself."""
        return jnp.stack(state)

    def reward(
        self,
        state: State,
        action: jax.Array,
        next_state: State,
        rng: jax.Array,
        params: Any = None,
    ) -> jax.Array:
        """-1 for every step, the last one too."""
        return jnp.float32(-1)

    def terminal(self, state: State, rng: jax.Array, params: Any = None) -> jax.Array:
        """Whether the car has reached the flag, and does not roll back."""
        return (state.position >= GOAL) & (state.velocity >= 0)
