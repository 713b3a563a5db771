"""What can be sampled from replay equals one plain single-environment loop, whatever stepped the environments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.envs import actor, functional, gymnasium_envs
from missing_bits.replay import uniform
from missing_bits.tests.envs import counting

GAMMA, SEED, ROWS, LIMIT = (
    0.9,
    5,
    31,
    5,
)  # ROWS in a ring, so that a run of 60 steps goes round it twice
insert = jax.jit(uniform.insert)


@functools.partial(jax.jit, static_argnums=1)
def everything(replay, n):
    """Look at every row of a ring and some on either side: whether it is complete, and what starts there."""
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
    """Assert that a replay offers exactly the transitions of these streams, one per lane, that its ring can hold."""
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
    def make_vector(env_id, num_envs, seed, stream, vectorization):
        return counting.VECTORS[vectors](
            [
                functools.partial(gymnasium_envs._make_episodes, env_id, seed, stream, i)
                for i in range(num_envs)
            ]
        )

    monkeypatch.setattr(actor, "make_vector", make_vector)
    return actor.Actor(env_id, num_envs, [SEED], period, "serial")


def run_host(source, num_envs, period, steps=60):
    """Let an actor make about `steps` steps per environment; compare a third of the way, and at the end."""
    replay = uniform.init(num_envs, (ROWS - 1) * num_envs, (4,), jnp.float32)
    made, updates = np.zeros(num_envs, int), -(-steps * num_envs // period)
    for update in range(updates):
        batch = jax.tree.map(lambda x: x[0], source.next(counting.act, update))
        made += batch.valid.sum(axis=1)
        replay = insert(replay, batch)
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
    source = actor.Actor(counting.COUNTING, 2, [SEED], 4, "async")
    run_host(source, 2, 4)


def test_replay_equals_the_reference_loop_over_processes_that_reset_next_step(monkeypatch):
    run_host(make_actor(monkeypatch, "async_next_step", 2, 4), 2, 4)


def test_final_observations_survive_a_reset_that_reuses_their_buffer(monkeypatch):
    run_host(make_actor(monkeypatch, "serial", 4, 4, counting.REUSING), 4, 4)


@pytest.mark.parametrize("period", [1, 4, 7])
@pytest.mark.parametrize("num_envs", [1, 4])
def test_replay_equals_the_reference_loop_in_jax(num_envs, period):
    env = counting.FunctionalCounting()

    @jax.jit
    def update(state, replay, key):
        state, steps = functional.collect(
            env, LIMIT, num_envs, period, state, lambda s, env_steps, k: counting.policy(s), key
        )
        return state, uniform.insert(replay, steps), steps

    state = functional.reset(env, num_envs, jax.random.key(SEED))
    replay = uniform.init(num_envs, (ROWS - 1) * num_envs, (4,), jnp.float32)
    tags, made = [[] for _ in range(num_envs)], np.zeros(num_envs, int)
    updates = -(-60 * num_envs // period)
    for i in range(updates):
        state, replay, steps = update(
            state, replay, jax.random.fold_in(jax.random.key(SEED + 1), i)
        )
        steps = jax.tree.map(np.asarray, steps)
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
