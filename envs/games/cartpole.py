"""CartPole (Barto, Sutton and Anderson 1983): push a cart so that the pole on it does not fall.

The equations are those of Florian, "Correct equations for the dynamics of the cart-pole system"
(2007), without friction, integrated by Euler's explicit method; constants, bounds and rewards are
those of Gymnasium's CartPole-v1, and one step equals its to the rounding of float32.
"""

from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.envs.games.classic_control import ClassicControl

GRAVITY = 9.8  # m/s^2
CART_MASS = 1.0  # kg
POLE_MASS = 0.1  # kg
TOTAL_MASS = CART_MASS + POLE_MASS
HALF_LENGTH = 0.5  # m: from the pivot to the pole's center of mass
FORCE = 10.0  # N
SECONDS = 0.02  # of a step
FARTHEST = 2.4  # m: the cart leaves the track
STEEPEST = 12 * np.pi / 180  # radians: the pole has fallen
START = 0.05  # every number of a first state lies within this distance of 0


class State(NamedTuple):
    """Cart and pole; float32 scalars."""

    x: jax.Array  # m, 0 is the middle of the track
    x_dot: jax.Array  # m/s
    theta: jax.Array  # radians from the vertical, clockwise
    theta_dot: jax.Array  # radians/s


class CartPole(ClassicControl):
    """Action 0 pushes to the left, 1 to the right; every step is worth 1."""

    drawn_by = "CartPole-v1"
    action_space = gym.spaces.Discrete(2)
    _bounds = np.array([2 * FARTHEST, np.inf, 2 * STEEPEST, np.inf], np.float32)
    observation_space = gym.spaces.Box(-_bounds, _bounds, dtype=np.float32)

    def initial(self, rng: jax.Array, params: Any = None) -> State:
        """Near the upright position, in the middle of the track."""
        return State(*jax.random.uniform(rng, (4,), minval=-START, maxval=START))

    def transition(
        self, state: State, action: jax.Array, rng: jax.Array, params: Any = None
    ) -> State:
        """The state 0.02 seconds later."""
        force = jnp.where(action == 1, FORCE, -FORCE)
        sin = jnp.sin(state.theta)
        cos = jnp.cos(state.theta)
        pole_moment = POLE_MASS * HALF_LENGTH
        push = (force + pole_moment * state.theta_dot**2 * sin) / TOTAL_MASS
        theta_acceleration = (GRAVITY * sin - cos * push) / (
            HALF_LENGTH * (4 / 3 - POLE_MASS * cos**2 / TOTAL_MASS)
        )
        x_acceleration = push - pole_moment * theta_acceleration * cos / TOTAL_MASS
        return State(
            state.x + SECONDS * state.x_dot,
            state.x_dot + SECONDS * x_acceleration,
            state.theta + SECONDS * state.theta_dot,
            state.theta_dot + SECONDS * theta_acceleration,
        )

    def observation(self, state: State, rng: jax.Array, params: Any = None) -> jax.Array:
        """[4] float32: the state itself."""
        return jnp.stack(state)

    def reward(
        self,
        state: State,
        action: jax.Array,
        next_state: State,
        rng: jax.Array,
        params: Any = None,
    ) -> jax.Array:
        """1 for every step, the last one too."""
        return jnp.float32(1)

    def terminal(self, state: State, rng: jax.Array, params: Any = None) -> jax.Array:
        """Whether the cart has left the track or the pole has fallen."""
        return (jnp.abs(state.x) > FARTHEST) | (jnp.abs(state.theta) > STEEPEST)
