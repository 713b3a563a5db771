"""Acrobot (Sutton 1996): two links hang from a pivot; swing the lower end above a line.

A torque acts on the joint between the links. The equations are those of the book (Sutton and Barto
2018, section 11.3 of the first edition), integrated by one step of the classical Runge-Kutta method
of fourth order; constants, bounds and rewards are those of Gymnasium's Acrobot-v1, and one step
equals its to the rounding of float32.
"""

from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.envs.games.classic_control import ClassicControl

# Both links have mass 1 kg, length 1 m, center of mass at 0.5 m and moment of inertia 1 kg m^2.
MASS = 1.0
LENGTH = 1.0
CENTER = 0.5
INERTIA = 1.0
GRAVITY = 9.8  # m/s^2
SECONDS = 0.2  # of a step
FASTEST_1 = 4 * np.pi  # radians/s
FASTEST_2 = 9 * np.pi  # radians/s
START = 0.1  # every number of a first state lies within this distance of 0


class State(NamedTuple):
    """Two links; float32 scalars."""

    theta_1: jax.Array  # radians: of the first link, 0 hangs down
    theta_2: jax.Array  # radians: of the second link, 0 goes on straight
    velocity_1: jax.Array  # radians/s
    velocity_2: jax.Array  # radians/s


def derivatives(state: State, torque: jax.Array) -> State:
    """The rates of change of a state under a torque in N m."""
    theta_1, theta_2, velocity_1, velocity_2 = state
    sin = jnp.sin(theta_2)
    cos = jnp.cos(theta_2)
    coupling = MASS * LENGTH * CENTER
    d_1 = MASS * CENTER**2 + MASS * (LENGTH**2 + CENTER**2) + 2 * coupling * cos + 2 * INERTIA
    d_2 = MASS * CENTER**2 + coupling * cos + INERTIA
    # cos(angle - pi / 2) is sin(angle).
    phi_2 = MASS * CENTER * GRAVITY * jnp.sin(theta_1 + theta_2)
    phi_1 = (
        -coupling * velocity_2**2 * sin
        - 2 * coupling * velocity_2 * velocity_1 * sin
        + MASS * (CENTER + LENGTH) * GRAVITY * jnp.sin(theta_1)
        + phi_2
    )
    acceleration_2 = (torque + d_2 / d_1 * phi_1 - coupling * velocity_1**2 * sin - phi_2) / (
        MASS * CENTER**2 + INERTIA - d_2**2 / d_1
    )
    acceleration_1 = -(d_2 * acceleration_2 + phi_1) / d_1
    return State(velocity_1, velocity_2, acceleration_1, acceleration_2)


def runge_kutta(state: State, torque: jax.Array) -> State:
    """The state `SECONDS` later, by one step of fourth order."""

    def moved(rate: State, seconds: float) -> State:
        return jax.tree.map(lambda s, r: s + seconds * r, state, rate)

    k_1 = derivatives(state, torque)
    k_2 = derivatives(moved(k_1, SECONDS / 2), torque)
    k_3 = derivatives(moved(k_2, SECONDS / 2), torque)
    k_4 = derivatives(moved(k_3, SECONDS), torque)
    mean = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k_1, k_2, k_3, k_4)
    return moved(mean, SECONDS)


def wrapped(angle: jax.Array) -> jax.Array:
    """The same angle between -pi and pi, which stay as they are."""
    turns = jnp.ceil((jnp.abs(angle) - np.pi) / (2 * np.pi))
    return angle - jnp.sign(angle) * 2 * np.pi * jnp.maximum(turns, 0)


class Acrobot(ClassicControl):
    """Actions 0, 1 and 2 put a torque of -1, 0 and 1 N m on the joint; steps cost 1."""

    drawn_by = "Acrobot-v1"
    action_space = gym.spaces.Discrete(3)
    _bounds = np.array([1, 1, 1, 1, FASTEST_1, FASTEST_2], np.float32)
    observation_space = gym.spaces.Box(-_bounds, _bounds, dtype=np.float32)

    def initial(self, rng: jax.Array, params: Any = None) -> State:
        """Hanging down, nearly at rest."""
        return State(*jax.random.uniform(rng, (4,), minval=-START, maxval=START))

    def transition(
        self, state: State, action: jax.Array, rng: jax.Array, params: Any = None
    ) -> State:
        """The state 0.2 seconds later."""
        after = runge_kutta(state, jnp.float32(action - 1))
        return State(
            wrapped(after.theta_1),
            wrapped(after.theta_2),
            jnp.clip(after.velocity_1, -FASTEST_1, FASTEST_1),
            jnp.clip(after.velocity_2, -FASTEST_2, FASTEST_2),
        )

    def observation(self, state: State, rng: jax.Array, params: Any = None) -> jax.Array:
        """[6] float32: cosine and sine of both angles, then both velocities."""
        return jnp.stack(
            [
                jnp.cos(state.theta_1),
                jnp.sin(state.theta_1),
                jnp.cos(state.theta_2),
                jnp.sin(state.theta_2),
                state.velocity_1,
                state.velocity_2,
            ]
        )

    def reward(
        self,
        state: State,
        action: jax.Array,
        next_state: State,
        rng: jax.Array,
        params: Any = None,
    ) -> jax.Array:
        """-1 for every step, but 0 for the one that reaches the line."""
        return jnp.where(self.terminal(next_state, rng), 0.0, -1.0)

    def terminal(self, state: State, rng: jax.Array, params: Any = None) -> jax.Array:
        """Whether the lower end is more than 1 m above the pivot."""
        return -jnp.cos(state.theta_1) - jnp.cos(state.theta_1 + state.theta_2) > 1
