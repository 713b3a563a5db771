"""Classic control: one step equals Gymnasium's, from copied states, to rounding.

In float64 that is the equations; in float32 it is what agents get.
"""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.envs.games import acrobot, cartpole, mountain_car

STATES = 2000
GAMES = {
    # Beyond the thresholds too; Acrobot's velocities meet their bounds and its angles wrap. The last
    # number is what float32 may differ by: at the widest velocities Runge-Kutta adds numbers near 1000.
    "CartPole-v1": (cartpole.CartPole(), cartpole.State, [2.5, 3, 0.25, 3], 1e-5),
    "Acrobot-v1": (acrobot.Acrobot(), acrobot.State, [3.1, 3.1, 12, 28], 1e-3),
    "MountainCar-v0": (mountain_car.MountainCar(), mountain_car.State, [0.9, 0.07], 1e-6),
}


def states_of(env_id):
    """States [STATES, n] float32 over the whole range; every hundredth car stands at the wall."""
    _, _, widest, _ = GAMES[env_id]
    states = np.random.default_rng(0).uniform(-1, 1, (STATES, len(widest))) * widest
    if env_id == "MountainCar-v0":
        states[:, 0] -= 0.3  # -1.2 to 0.6
        states[::100, 0] = -1.2
        states[50::100] = np.random.default_rng(1).uniform([0.45, 0], [0.5, 0.07], (20, 2))
    return states.astype(np.float32)


@pytest.mark.parametrize("is_double", [True, False])
@pytest.mark.parametrize("env_id", GAMES)
def test_a_step_equals_gymnasiums(env_id, is_double):
    game, record, _, rounding = GAMES[env_id]
    key = jax.random.key(0)
    states = states_of(env_id)
    actions = np.random.default_rng(2).integers(0, game.action_space.n, STATES)
    theirs = gym.make(env_id).unwrapped
    theirs.reset(seed=0)
    expected = []
    for state, action in zip(states.astype(np.float64), actions, strict=True):
        theirs.state = tuple(state) if env_id == "MountainCar-v0" else state
        theirs.steps_beyond_terminated = None
        observation, reward, terminated, _, _ = theirs.step(int(action))
        expected.append((np.array(theirs.state), observation, reward, terminated))
    afters, observations, rewards, ends = map(np.array, zip(*expected, strict=True))

    @jax.jit
    @jax.vmap
    def step(state, action):
        after = game.transition(state, action, key)
        return (
            jnp.stack(after),
            game.observation(after, key),
            game.reward(state, action, after, key),
            game.terminal(after, key),
        )

    with jax.enable_x64(is_double):
        copied = record(*states.T.astype(np.float64 if is_double else np.float32))
        after, observation, reward, end = map(np.asarray, step(copied, actions))
    space = game.observation_space
    assert (space, game.action_space) == (theirs.observation_space, theirs.action_space)
    assert observation.shape[1:] == space.shape
    assert is_double or observation.dtype == space.dtype
    # Angles just short of a half-turn may come out at either side of it: observations are the same.
    turned = np.abs(after - afters) > 6
    assert np.count_nonzero(turned) < 5
    tolerance = 1e-9 if is_double else rounding
    np.testing.assert_allclose(np.where(turned, afters, after), afters, rtol=0, atol=tolerance)
    np.testing.assert_allclose(observation, observations, rtol=1e-6, atol=max(tolerance, 1e-6))
    assert np.count_nonzero(end != ends) == 0
    np.testing.assert_array_equal(reward, rewards)
    assert 5 < np.count_nonzero(ends) < STATES - 5, "both kinds of successors"


@pytest.mark.parametrize("env_id", GAMES)
def test_first_states_are_drawn_from_the_same_range(env_id):
    """The extremes of 2,000 draws lie within 1% of the range from the bounds (with p < 1e-8 not)."""
    game, _, _, _ = GAMES[env_id]
    first = jax.vmap(lambda key: jnp.stack(game.initial(key)))(
        jax.random.split(jax.random.key(0), STATES)
    )
    lowest = np.asarray(first.min(0))
    highest = np.asarray(first.max(0))
    low, high = {
        "CartPole-v1": ([-0.05] * 4, [0.05] * 4),
        "Acrobot-v1": ([-0.1] * 4, [0.1] * 4),
        "MountainCar-v0": ([-0.6, 0], [-0.4, 0]),
    }[env_id]
    np.testing.assert_allclose(lowest, low, atol=0.002)
    np.testing.assert_allclose(highest, high, atol=0.002)
    assert (lowest >= np.float32(low)).all()
    assert (highest <= np.float32(high)).all()


@pytest.mark.parametrize(
    ("angle", "expected"),
    [(0.5, 0.5), (3.5, 3.5 - 2 * np.pi), (-3.5, 2 * np.pi - 3.5), (9.0, 9 - 2 * np.pi)],
)
def test_angles_are_wrapped(angle, expected):
    np.testing.assert_allclose(acrobot.wrapped(jnp.float32(angle)), expected, rtol=1e-6)
