"""The actor: its cadence, its seeds, and coming back to mid-episode."""

import functools
import warnings

import chex
import jax
import numpy as np
import pytest

from missing_bits.envs import actor, environments, gymnasium_envs
from missing_bits.tests.envs import counting

CARTPOLE = "CartPole-v1"


def cartpole_act(observation, counts):
    """Push to where the pole does not lean, except at every third step: episodes of a dozen steps."""
    return ((observation[..., 2] < 0) ^ (counts[:, 1:] % 3 == 0)).astype(np.int32)


ACTS = {counting.COUNTING: counting.act, CARTPOLE: cartpole_act}


def next_step_actor(monkeypatch, num_envs, seeds, period):
    """Make an actor over SyncVectorEnv in Gymnasium's default mode, whose rows after an end are dummies."""

    def make_vector(env_id, num_envs, seed, stream, vectorization):
        make_one = functools.partial(gymnasium_envs._make_episodes, env_id, seed, stream)
        return counting.VECTORS["next_step"](
            [functools.partial(make_one, i) for i in range(num_envs)]
        )

    monkeypatch.setattr(actor, "make_vector", make_vector)
    return actor.Actor(counting.COUNTING, num_envs, seeds, period, "serial")


def batches(source, act, first, count):
    """Take `count` batches from update `first` on."""
    return [source.next(act, update) for update in range(first, first + count)]


@pytest.mark.parametrize("num_envs", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("period", [1, 3, 4, 10])
def test_steps_made_are_the_fewest_vector_steps_that_reach_the_period(num_envs, period):
    """After update i: (i + 1) * period, rounded up to whole vector steps, and never to whole updates."""
    source = actor.Actor(counting.COUNTING, num_envs, [0], period, "serial")
    total = 0
    for update in range(12):
        batch = source.next(counting.act, update)
        assert batch.valid.shape == (1, num_envs, -(-period // num_envs)), "the shape never changes"
        total += int(batch.valid.sum())
        assert total == -(-(update + 1) * period // num_envs) * num_envs
        assert source.save()["env_steps"].tolist() == [total]


@pytest.mark.parametrize("num_envs", [1, 3, 8])
@pytest.mark.parametrize("period", [1, 4, 10])
def test_dummies_after_an_end_are_neither_stored_nor_counted(monkeypatch, num_envs, period):
    source, told = next_step_actor(monkeypatch, num_envs, [0], period), []

    def act(observation, counts):
        told.append((int(counts[0, 0]), int(counts[0, 1])))
        return counting.act(observation, counts)

    made = np.zeros(num_envs, int)
    for update in range(25 * num_envs // period):
        batch = source.next(act, update)
        made += batch.valid[0].sum(axis=1)
        due = (update + 1) * period
        assert due <= made.sum() < due + num_envs, "not one vector step more than needed"
    streams = [counting.reference_steps(counting.seeds_of(0, i), made[i]) for i in range(num_envs)]
    ended = sum(step.terminated or step.truncated for stream in streams for step in stream)
    vector_steps = told[-1][1] + 1
    assert [v for _, v in told] == list(range(vector_steps))
    dummies = vector_steps * num_envs - made.sum()
    assert ended - num_envs <= dummies <= ended, (
        "one for each end, but for those that the last step brought"
    )
    assert dummies > 0
    assert told[-1][0] < made.sum()


def test_the_policy_is_told_the_observation_and_the_steps_made():
    told = []

    def act(observation, counts):
        told.append((counts[:, 0].copy(), counts[:, 1].copy()))
        return counting.act(observation, counts)

    source = actor.Actor(counting.COUNTING, 3, [0, 1], 3, "serial")
    for batch in batches(source, act, 0, 4):
        np.testing.assert_array_equal(batch.a_tm1, counting.policy(batch.s_tm1))
    np.testing.assert_array_equal([steps for steps, _ in told], [[3 * i] * 2 for i in range(4)])
    np.testing.assert_array_equal([steps for _, steps in told], [[i] * 2 for i in range(4)])


def test_the_training_return_is_the_mean_of_the_last_finished_episodes():
    source = actor.Actor(counting.COUNTING, 2, [3], 2, "serial")
    assert source.metrics() == [{}], "no episode has ended yet"
    batches(source, counting.act, 0, 30)
    last = []
    for i in range(2):
        returns, total = [], 0.0
        for step in counting.reference_steps(counting.seeds_of(3, i), 30):
            total += step.r_t
            if step.terminated or step.truncated:
                returns, total = [*returns, total], 0.0
        last.append(returns[-1])
    assert source.metrics() == [{"train/episode_return": pytest.approx(np.mean(last))}]


@pytest.mark.parametrize("env_id", ACTS)
@pytest.mark.parametrize("vectorization", ["serial", "async"])
def test_a_restored_actor_goes_on_as_if_never_stopped(env_id, vectorization):
    act, make = ACTS[env_id], functools.partial(actor.Actor, env_id, 2, [0, 7], 3, vectorization)
    if vectorization == "async":  # processes are slow to start: one seed
        make = functools.partial(actor.Actor, env_id, 2, [7], 3, vectorization)
    uninterrupted = make()
    moments = (0, 1, 9, 16, 17)  # before the first step, and in mid-episode
    saved, stream = {}, []
    for update in range(30):
        if update in moments:
            saved[update] = jax.tree.map(np.copy, uninterrupted.save())
        stream.append(uninterrupted.next(act, update))
    end = uninterrupted.save()
    assert max(state["lengths"].max() for state in saved.values()) > 2, "episodes were open"
    assert saved[17]["episode"].min() > 0, "episodes had ended"
    resumed = make()
    for moment in moments:  # into the new actor, then again into one that has moved on
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            resumed.restore(saved[moment])
        chex.assert_trees_all_equal(resumed.save(), saved[moment])
        for batch, expected in zip(
            batches(resumed, act, moment, 30 - moment), stream[moment:], strict=True
        ):
            chex.assert_trees_all_equal(batch, expected)
        chex.assert_trees_all_equal(resumed.save(), end)
        assert resumed.metrics() == uninterrupted.metrics()
    resumed.close()
    uninterrupted.close()


def test_an_environment_that_does_not_reproduce_is_named():
    """Its episodes may end while they are played again: that is no reason to step past the end."""
    source = actor.Actor(counting.DICE, 4, [0], 4, "serial")
    batches(source, counting.act, 0, 20)
    while source.save()["lengths"].max() < 5:
        batches(source, counting.act, int(source.save()["vector_steps"][0]), 1)
    saved = source.save()
    for _ in range(20):
        resumed = actor.Actor(counting.DICE, 4, [0], 4, "serial")
        with pytest.warns(
            UserWarning, match=r"Dice-v0: environments \[0, 1, 2, 3\] did not come back"
        ):
            resumed.restore(saved)
        batches(resumed, counting.act, int(saved["vector_steps"][0]), 5)


def test_native_vector_environments_say_that_they_cannot_come_back():
    source = actor.Actor(CARTPOLE, 2, [0], 4, "native")
    batches(source, cartpole_act, 0, 5)
    saved = source.save()
    resumed = actor.Actor(CARTPOLE, 2, [0], 4, "native")
    with pytest.warns(UserWarning, match=r"CartPole-v1: environments \[0, 1\] did not come back"):
        resumed.restore(saved)


@pytest.mark.parametrize("vectors", ["serial", "next_step"])
def test_each_of_several_seeds_acts_as_it_does_alone(monkeypatch, vectors):
    def make(seeds):
        if vectors == "next_step":
            return next_step_actor(monkeypatch, 3, seeds, 4)
        return actor.Actor(counting.COUNTING, 3, seeds, 4, "serial")

    seeds = [3, 4, 5]
    together = batches(make(seeds), counting.act, 0, 15)
    for row, seed in enumerate(seeds):
        for batch, alone in zip(together, batches(make([seed]), counting.act, 0, 15), strict=True):
            chex.assert_trees_all_equal(
                jax.tree.map(lambda x, row=row: x[row : row + 1], batch), alone
            )
    firsts = together[0].s_tm1[:, :, 0]  # [seeds, environments, 4]
    assert len({int(tag) for tag in counting.tag_of(firsts).ravel()}) == 9


def test_every_episode_of_every_seed_purpose_and_environment_is_another():
    seeds = {
        gymnasium_envs.episode_seed(seed, stream, env, episode)
        for seed in (0, 1, 2, 2**31, 2**32)
        for stream in ("train", "eval", "record")
        for env in range(8)
        for episode in range(50)
    }
    assert len(seeds) == 5 * 3 * 8 * 50
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_evaluation_has_episodes_of_its_own_and_leaves_training_alone():
    envs = environments.HostEnvironments(counting.COUNTING, 2, 3, "serial")
    alone = batches(envs.source([0]), counting.act, 0, 20)
    source, watched = envs.source([0]), []

    def greedy(params, observation):
        watched.extend(counting.tag_of(observation).tolist())
        return counting.policy(observation)

    with_evaluation = []
    for update in range(20):
        with_evaluation += batches(source, counting.act, update, 1)
        if update % 5 == 0:
            envs.returns(greedy, None, 3, jax.random.key(update))
    chex.assert_trees_all_equal(with_evaluation, alone)
    trained = {int(tag) for batch in alone for tag in counting.tag_of(batch.s_tm1[batch.valid])}
    assert watched
    assert not trained & set(watched)


def test_evaluation_returns_are_those_of_one_whole_episode_each():
    envs = environments.HostEnvironments(counting.COUNTING, 2, 3, "serial")
    key, starts = jax.random.key(4), []

    def greedy(params, observation):
        starts.append(np.copy(observation))
        return counting.policy(observation)

    returns = envs.returns(greedy, None, 20, key)
    tags = counting.tag_of(starts[0]).tolist()
    assert len(set(tags)) == 20
    expected = [
        sum(s.r_t for s in counting.reference_steps([tag], counting.length(tag))) for tag in tags
    ]
    np.testing.assert_allclose(returns, expected)
    np.testing.assert_array_equal(envs.returns(greedy, None, 20, key), returns)
    assert not np.array_equal(envs.returns(greedy, None, 20, jax.random.key(5)), returns)
