"""JAX-native environments: time limits, resets, cadence, and the same on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits import collectives
from missing_bits.envs import environments, functional
from missing_bits.tests.envs import counting

ENV, LIMIT = counting.FunctionalCounting(), 5
initial = jax.jit(lambda key: functional.initial(ENV, key))
step = jax.jit(
    lambda state, key: functional.step(ENV, LIMIT, state, counting.policy(state.observation), key)
)


def play(key):
    """Play one episode; return its tag, whether it terminated or was truncated, its steps and the state after it."""
    state = initial(key)
    for made in range(1, 10):
        before, (state, outcome) = state, step(state, key)
        _, terminated, truncated, successor = outcome
        assert successor[2] == made, "the successor is the true one, at an end too"
        if terminated or truncated:
            return int(before.inner.tag), bool(terminated), bool(truncated), made, state
        assert state.elapsed == made
    raise AssertionError("an episode that does not end")


def test_a_time_limit_truncates_and_never_terminates():
    seen = set()
    for i in range(60):
        tag, terminated, truncated, made, _ = play(jax.random.key(i))
        dies = counting.ending(tag) != counting.TRUNCATES and counting.length(tag) <= LIMIT
        assert (terminated, truncated) == (dies, not dies)
        assert made == (counting.length(tag) if dies else LIMIT)
        seen.add((terminated, made == LIMIT))
    assert seen == {(True, False), (True, True), (False, True)}, (
        "a terminal state at the limit is terminal"
    )


def test_after_an_end_a_new_episode_begins_and_the_return_is_remembered():
    key = jax.random.key(3)
    tag, *_, made, state = play(key)
    assert int(state.inner.tag) != tag
    assert (int(state.elapsed), float(state.open_return)) == (0, 0.0)
    np.testing.assert_array_equal(state.observation[2:], [0, 0])
    assert int(counting.tag_of(np.asarray(state.observation))) == int(state.inner.tag)
    steps = counting.reference_steps([tag], made, counting.limited_end(LIMIT))
    assert state.last_return == sum(s.r_t for s in steps)


def test_returns_are_those_of_one_whole_episode_each():
    """An environment that ended early plays on until the last one ends, but earns nothing more."""
    starts = []

    def act(observation):
        jax.debug.callback(lambda x: starts.append(np.asarray(x)), observation, ordered=True)
        return counting.policy(observation)

    returns = functional.returns(ENV, LIMIT, 20, act, jax.random.key(0))
    jax.effects_barrier()
    tags = counting.tag_of(starts[0]).tolist()
    assert len(set(tags)) == 20
    expected = [
        sum(s.r_t for s in counting.reference_steps([tag], LIMIT, counting.limited_end(LIMIT)))
        for tag in tags
    ]
    np.testing.assert_allclose(returns, expected)


@pytest.mark.parametrize(("num_envs", "period"), [(1, 3), (3, 4), (5, 2)])
def test_steps_made_are_the_fewest_vector_steps_that_reach_the_period(num_envs, period):
    """After update i: (i + 1) * period, rounded up to whole vector steps; actions here say what exploration is told."""

    @jax.jit
    def update(state, key):
        def act(observation, env_steps, key):
            return jnp.full(num_envs, env_steps)

        return functional.collect(ENV, LIMIT, num_envs, period, state, act, key)

    state, total = functional.reset(ENV, num_envs, jax.random.key(0)), 0
    for i in range(12):
        before = total
        state, steps = update(state, jax.random.key(i))
        assert steps.valid.shape == (num_envs, -(-period // num_envs)), "the shape never changes"
        total += int(steps.valid.sum())
        assert total == -(-(i + 1) * period // num_envs) * num_envs
        assert (int(state.updates), int(state.vector_steps) * num_envs) == (i + 1, total)
        for lane in range(num_envs):
            assert steps.a_tm1[lane][steps.valid[lane]].tolist() == list(
                range(before, total, num_envs)
            )


def roll_out(key):
    """Make eight updates' steps in four environments with a policy that explores: drawn for all, then sliced."""

    def act(observation, env_steps, key):
        return (
            counting.policy(observation) + collectives.shard(jax.random.randint(key, (4,), 0, 3))
        ) % 3

    return jax.lax.scan(
        lambda state, k: functional.collect(ENV, LIMIT, 4, 6, state, act, k),
        functional.reset(ENV, 4, key),
        jax.random.split(key, 8),
    )[1]


@pytest.mark.parametrize("devices", [2, 4])
def test_steps_do_not_depend_on_the_number_of_devices(devices):
    key = jax.random.key(1)
    alone = jax.jit(roll_out)(key)  # leaves [8, E, V, ...]
    mapped = jax.pmap(roll_out, collectives.AXIS)(
        jnp.broadcast_to(key, (devices,))
    )  # [D, 8, E / D, V, ...]
    for name, whole, parts in zip(alone._fields, alone, mapped, strict=True):
        np.testing.assert_array_equal(
            np.concatenate(np.asarray(parts), axis=1), whole, err_msg=name
        )
    assert len(np.unique(counting.tag_of(np.asarray(alone.s_tm1[0, :, 0])))) == 4, (
        "environments differ"
    )


def test_gymnasiums_own_functional_environments_are_found():
    """CartPole-v1 ends after 500 steps; pushing left only, the pole falls within ten."""
    envs = environments.find("phys2d/CartPole-v1", 4, 4, "serial")
    assert isinstance(envs, environments.FunctionalEnvironments)
    assert (envs.observation_space.shape, envs.num_actions, envs.source([0])) == ((4,), 2, None)
    assert envs.metrics(envs.init(jax.random.key(0)))["train/episode_return"] == 0
    left = jax.tree_util.Partial(
        lambda params, observation: jnp.zeros(observation.shape[0], jnp.int32)
    )
    returns = envs.returns(left, None, 8, jax.random.key(0))
    assert returns.shape == (8,)
    assert 8 <= returns.min() <= returns.max() <= 10
