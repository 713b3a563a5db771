"""`gymnasium.make` and `gymnasium.make_vec` find the JAX-native environments and play them right."""

import itertools
import subprocess
import sys

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from missing_bits.envs import native
from missing_bits.envs.environments import Envs, FunctionalEnvironments

IDS = [f"jax/{name}" for name, _, _ in native._GAMES]


@pytest.mark.parametrize("env_id", IDS)
def test_make_plays_reproducibly_and_draws(env_id):
    env = gym.make(env_id, render_mode="rgb_array")

    def play():
        observation, _ = env.reset(seed=3)
        seen = [observation]
        rewards = []
        for i in range(8):
            observation, reward, terminated, truncated, _ = env.step(i % env.action_space.n)
            assert not terminated
            assert not truncated
            seen.append(observation)
            rewards.append(reward)
        return np.stack(seen), rewards

    seen, rewards = play()
    again, rewards_again = play()
    np.testing.assert_array_equal(seen, again)
    assert rewards == rewards_again
    for observation in seen:
        assert env.observation_space.contains(observation)
    assert any((a != b).any() for a, b in itertools.pairwise(seen)), "something moves"
    image = env.render()
    assert (image.shape[2], image.dtype) == (3, np.uint8)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 1, "something is drawn"
    env.close()


@pytest.mark.parametrize("env_id", IDS)
def test_agents_find_them_as_functional_environments(env_id):
    envs = Envs(env=env_id, num_envs=2).find(2)
    assert isinstance(envs, FunctionalEnvironments)
    assert envs.num_actions == gym.make(env_id).action_space.n
    assert envs.observation_space.dtype in (np.uint8, np.float32)


def test_vector_environments_begin_anew_one_by_one():
    """CartPole, pushed to one side by each environment in its own time, against a plain loop.

    The step after an end begins an episode, ignores the action and is worth nothing; the others are
    stepped in it as ever.
    """
    envs = gym.make_vec("jax/CartPole-v1", num_envs=3)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    game = envs.unwrapped.func_env
    key = jax.random.key(0)
    transition = jax.jit(jax.vmap(lambda state, action: game.transition(state, action, key)))
    observation, _ = envs.reset(seed=0)
    over = np.zeros(3, bool)
    ends = 0
    for i in range(60):
        actions = np.array([0, 1, i % 2])
        before = observation
        observation, reward, terminated, truncated, _ = envs.step(actions)
        after = jnp.stack(transition(type(envs.unwrapped._state)(*before.T), actions), axis=1)
        np.testing.assert_allclose(observation[~over], after[~over], atol=1e-6)
        assert (np.abs(observation[over]) <= 0.05).all(), "a first observation"
        np.testing.assert_array_equal(reward, np.where(over, 0, 1))
        assert not truncated.any()
        assert not terminated[over].any()
        over = np.asarray(terminated)
        ends += int(over.sum())
    assert ends > 6
    first, _ = envs.reset(seed=0)
    again, _ = envs.reset(seed=0)
    np.testing.assert_array_equal(first, again)


def test_vector_environments_hold_states_of_many_arrays():
    """MinAtar's Breakout without a paddle that moves: some ball is lost, then starts in row 3."""
    envs = gym.make_vec("jax/Breakout-v1", num_envs=3, sticky_action_prob=0.0)
    observation, _ = envs.reset(seed=0)
    assert (observation.shape, observation.dtype) == ((3, 10, 10, 4), np.uint8)
    for _ in range(20):
        observation, _, terminated, _, _ = envs.step(np.zeros(3, int))
        if terminated.any():
            break
    assert terminated.any()
    observation, reward, _, _, _ = envs.step(np.zeros(3, int))
    ball = np.asarray(observation[..., 1][terminated])
    np.testing.assert_array_equal(ball.sum((1, 2)), 1)
    np.testing.assert_array_equal(ball[:, 3].sum(1), 1)
    np.testing.assert_array_equal(reward[terminated], 0)


def test_vector_environments_are_truncated_at_the_limit():
    """MountainCar without a push ends after 200 steps; the next episode takes as many."""
    envs = gym.make_vec("jax/MountainCar-v0", num_envs=2)
    envs.reset(seed=0)
    ends = []
    for i in range(1, 403):
        _, _, terminated, truncated, _ = envs.step(np.ones(2, int))
        assert not terminated.any()
        if truncated.any():
            assert truncated.all()
            ends.append(i)
    assert ends == [200, 401], "step 201 begins an episode"


def test_they_are_found_without_an_import_of_ours_and_without_jax():
    """Gymnasium imports what stands before the colon; processes of host environments want no JAX."""
    code = (
        "import sys, gymnasium, missing_bits.envs.native; assert 'jax' not in sys.modules; "
        "print(gymnasium.make('missing_bits.envs.native:jax/CartPole-v1').spec.max_episode_steps)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("500\n", 0), done.stderr
