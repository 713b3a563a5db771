"""What can be sampled from replay equals one plain loop, whatever stepped the environments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.envs import actor, gymnasium_envs
from missing_bits.envs.functional import DeviceActor
from missing_bits.envs.gymnasium_envs import Recipe
from missing_bits.envs.steps import Acted
from missing_bits.numeric import ceil_div
from missing_bits.replay import uniform
from missing_bits.tests.envs import counting

GAMMA = 0.9
SEED = 5
ROWS = 31  # in a ring, so that a run of 60 steps goes round it twice
LIMIT = 5
LANES = 4  # the most environments of a test
MOST = 14  # the most vector steps of an update
insert = jax.jit(uniform.insert)


def empty():
    """Make a replay with a lane for each environment of any test, so that one program does."""
    return uniform.init(LANES, (ROWS - 1) * LANES, (4,), jnp.float32)


def store(replay, steps):
    """Insert steps [E, V, ...], with rows that are not valid up to [LANES, MOST]."""
    num_envs, made = steps.valid.shape

    def padded(x):
        return np.pad(x, [(0, LANES - num_envs), (0, MOST - made)] + [(0, 0)] * (x.ndim - 2))

    return insert(replay, jax.tree.map(padded, steps))


@functools.partial(jax.jit, static_argnums=1)
def everything(replay, n):
    """Look at every row of a ring and some around it: is it complete, what starts there?"""
    lanes, rows = replay.kind.shape
    row = replay.head[:, None] - rows - 1 + jnp.arange(rows + n + 2)[None]  # [E, rows + n + 2]
    lane = jnp.broadcast_to(jnp.arange(lanes)[:, None], row.shape)
    found = uniform.transitions(replay, lane.ravel(), row.ravel(), n, GAMMA)
    return (
        row,
        uniform.complete(replay, lane, row, n),
        jax.tree.map(lambda x: x.reshape(*row.shape, *x.shape[1:]), found),
    )


def assert_holds(replay, streams):
    """Assert that a replay offers exactly the transitions of these streams that it can hold."""
    assert not np.any(replay.head[len(streams) :])
    for n in (1, 3, 5):
        rows, fit, found = jax.tree.map(np.asarray, everything(replay, n))
        for lane, steps in enumerate(streams):
            expected, head = counting.reference_transitions(steps, n, GAMMA)
            assert replay.head[lane] == head
            kept = [t for t in expected if t.row > head - ROWS]
            assert kept, "nothing to compare"
            mine = fit[lane]
            np.testing.assert_array_equal(rows[lane][mine], [t.row for t in kept])
            for name in ("s_tm1", "a_tm1", "s_t"):
                np.testing.assert_array_equal(
                    getattr(found, name)[lane][mine], [getattr(t, name) for t in kept]
                )
            for name in ("r_t", "discount_t"):
                values = [getattr(t, name) for t in kept]
                np.testing.assert_allclose(getattr(found, name)[lane][mine], values, rtol=1e-5)


def kinds_of_end(streams):
    """Say which ends occurred, and whether an episode of a single step did."""
    ends = {(step.terminated, step.truncated) for steps in streams for step in steps}
    single = any(
        step.s_t[2] == 1 and (step.terminated or step.truncated)
        for steps in streams
        for step in steps
    )
    return ends, single


def make_actor(monkeypatch, vectors, num_envs, period, env_id=counting.COUNTING):
    def make_vector(recipe, num_envs, seed, stream, vectorization):
        make_one = functools.partial(gymnasium_envs._make_episodes, recipe, seed, stream)
        return counting.VECTORS[vectors]([functools.partial(make_one, i) for i in range(num_envs)])

    monkeypatch.setattr(actor, "make_vector", make_vector)
    return actor.Actor(Recipe(env_id), num_envs, [SEED], period, "serial")


def run_host(source, num_envs, period, steps=60):
    """Let an actor make about `steps` steps per environment; compare midway, and at the end."""
    replay = empty()
    made = np.zeros(num_envs, int)
    updates = ceil_div(steps * num_envs, period)
    for update in range(updates):
        batch = jax.tree.map(lambda x: x[0], source.next(counting.act, update))
        made += batch.valid.sum(axis=1)
        replay = store(replay, batch)
        if update in (updates // 3, updates - 1):
            streams = [
                counting.reference_steps(counting.seeds_of(SEED, i), made[i])
                for i in range(num_envs)
            ]
            assert_holds(replay, streams)
    assert max(replay.head) > 2 * ROWS, "the rings went round"
    source.close()
    return streams


@pytest.mark.parametrize("period", [1, 4, 7])
@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("vectors", ["next_step", "same_step", "disabled", "serial"])
def test_replay_equals_the_reference_loop(monkeypatch, vectors, num_envs, period):
    streams = run_host(make_actor(monkeypatch, vectors, num_envs, period), num_envs, period)
    if num_envs == 4:
        ends, single = kinds_of_end(streams)
        assert ends == {(False, False), (True, False), (False, True), (True, True)}
        assert single


def test_replay_equals_the_reference_loop_over_processes():
    """SAME_STEP, as `--vectorization=async` makes it: nothing is patched."""
    source = actor.Actor(Recipe(counting.COUNTING), 2, [SEED], 4, "async")
    run_host(source, 2, 4)


def test_replay_equals_the_reference_loop_over_processes_that_reset_next_step(monkeypatch):
    run_host(make_actor(monkeypatch, "async_next_step", 2, 4), 2, 4)


def test_final_observations_survive_a_reset_that_reuses_their_buffer(monkeypatch):
    run_host(make_actor(monkeypatch, "serial", 4, 4, counting.REUSING), 4, 4)


@pytest.mark.parametrize(("num_envs", "period"), [(1, 4), (4, 1), (4, 7)])
def test_replay_equals_the_reference_loop_in_jax(num_envs, period):
    source = DeviceActor(counting.FunctionalCounting(), LIMIT, num_envs, period)

    def act(memory, observation, reset, env_steps, key):
        return Acted(counting.policy(observation))

    @jax.jit
    def update(state, key):
        state, steps, _ = source.next(state, act, key)
        return state, steps

    init = jax.jit(lambda key: source.init(lambda num_envs: (), key))
    state = init(jax.random.key(SEED))
    replay = empty()
    tags = [[] for _ in range(num_envs)]
    made = np.zeros(num_envs, int)
    updates = ceil_div(60 * num_envs, period)
    for i in range(updates):
        state, steps = update(state, jax.random.fold_in(jax.random.key(SEED + 1), i))
        steps = jax.tree.map(np.asarray, steps)
        replay = store(replay, steps)
        made += steps.valid.sum(axis=1)
        for lane, v in np.argwhere(steps.valid & (steps.s_tm1[..., 2] == 0)):
            tags[lane].append(int(counting.tag_of(steps.s_tm1[lane, v])))
        if i in (updates // 3, updates - 1):
            assert all(len(set(own)) == len(own) for own in tags), "every episode is another"
            end = counting.limited_end(LIMIT)
            streams = [
                counting.reference_steps(own, made[lane], end) for lane, own in enumerate(tags)
            ]
            assert [len(stream) for stream in streams] == made.tolist()
            assert_holds(replay, streams)
    assert max(replay.head) > 2 * ROWS, "the rings went round"
    ends, single = kinds_of_end(streams)
    assert ends == {(False, False), (True, False), (False, True)}
    assert single or num_envs == 1
