"""The actor: its cadence, its seeds, agents with memory, and coming back to mid-episode."""

import functools
import subprocess
import sys
import warnings

import chex
import jax
import numpy as np
import pytest

from missing_bits.envs import actor, gymnasium_envs
from missing_bits.envs.environments import Envs
from missing_bits.envs.gymnasium_envs import Recipe
from missing_bits.envs.steps import Acted, Player
from missing_bits.numeric import ceil_div
from missing_bits.tests.envs import counting, remembering

CARTPOLE = "CartPole-v1"


def cartpole_act(observation, resets, due, counts):
    """Push to where the pole does not lean, but at every third step: a dozen steps an episode."""
    return Acted(((observation[..., 2] < 0) ^ (counts[:, 1:] % 3 == 0)).astype(np.int32))


ACTS = {counting.COUNTING: counting.act, CARTPOLE: cartpole_act}


def make(env_id, num_envs, seeds, period, vectorization="serial"):
    """Make an actor."""
    return actor.Actor(Recipe(env_id), num_envs, seeds, period, vectorization)


def actor_over(monkeypatch, vectors, num_envs, seeds, period, env_id=counting.COUNTING):
    """Make an actor over one of `counting.VECTORS`, which differ in their autoreset mode."""

    def make_vector(recipe, num_envs, seed, stream, vectorization):
        make_one = functools.partial(gymnasium_envs._make_episodes, recipe, seed, stream)
        return counting.VECTORS[vectors]([functools.partial(make_one, i) for i in range(num_envs)])

    monkeypatch.setattr(actor, "make_vector", make_vector)
    return make(env_id, num_envs, seeds, period)


def batches(source, act, first, count):
    """Take `count` batches from update `first` on."""
    return [source.next(act, update) for update in range(first, first + count)]


@pytest.mark.parametrize("num_envs", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("period", [1, 3, 4, 10])
def test_steps_made_are_the_fewest_vector_steps_that_reach_the_period(num_envs, period):
    """After update i: (i + 1) * period, rounded up to whole vector steps, not whole updates."""
    source = make(counting.COUNTING, num_envs, [0], period)
    total = 0
    for update in range(12):
        batch = source.next(counting.act, update)
        assert batch.valid.shape == (1, num_envs, ceil_div(period, num_envs)), "always the same"
        total += int(batch.valid.sum())
        assert total == ceil_div((update + 1) * period, num_envs) * num_envs
        assert source.save()["env_steps"].tolist() == [total]


@pytest.mark.parametrize("num_envs", [1, 3, 8])
@pytest.mark.parametrize("period", [1, 4, 10])
def test_dummies_after_an_end_are_neither_stored_nor_counted(monkeypatch, num_envs, period):
    """SyncVectorEnv in Gymnasium's default mode answers the action after an end with a reset."""
    source = actor_over(monkeypatch, "next_step", num_envs, [0], period)
    told = []

    def act(observation, resets, due, counts):
        told.append((int(counts[0, 0]), int(counts[0, 1])))
        return counting.act(observation, resets, due, counts)

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
    # One for each end, but for those that the last step brought.
    assert ended - num_envs <= dummies <= ended
    assert dummies > 0
    assert told[-1][0] < made.sum()


def test_the_policy_is_told_the_observation_and_the_steps_made():
    told = []

    def act(observation, resets, due, counts):
        assert due.tolist() == [True, True]
        told.append(counts.copy())
        return counting.act(observation, resets, due, counts)

    source = make(counting.COUNTING, 3, [0, 1], 3)
    for batch in batches(source, act, 0, 4):
        np.testing.assert_array_equal(batch.a_tm1, counting.policy(batch.s_tm1))
    np.testing.assert_array_equal(told, [[[3 * i, i]] * 2 for i in range(4)])


@pytest.mark.parametrize("vectors", ["serial", "same_step", "next_step", "disabled"])
def test_resets_tell_which_observations_begin_an_episode(monkeypatch, vectors):
    """The counting environment says its step; rows that only reset are not of the new episode."""
    source = actor_over(monkeypatch, vectors, 3, [0, 1], 4)
    seen = []

    def act(observation, resets, due, counts):
        np.testing.assert_array_equal(resets, observation[..., 2] == 0)
        seen.append(resets.copy())
        return counting.act(observation, resets, due, counts)

    batches(source, act, 0, 20)
    assert seen[0].all(), "the very first observations begin episodes"
    later = np.stack(seen[1:])
    assert later.any(axis=0).all(), "every environment began further ones"
    assert not later.all(axis=0).any()


@pytest.mark.parametrize("vectors", ["serial", "same_step", "next_step", "disabled"])
def test_an_agent_remembers_its_episode_and_what_it_says_arrives(monkeypatch, vectors):
    """Seeds end episodes at other times: in NEXT_STEP mode one then waits while the others act."""
    source = actor_over(monkeypatch, vectors, 3, [0, 1, 2], 4)
    loop = remembering.Loop(3, 3)
    most = 0
    for batch in batches(source, loop.act, 0, 25):
        np.testing.assert_array_equal(
            batch.a_tm1[batch.valid], counting.policy(batch.s_tm1)[batch.valid]
        )
        said = batch.extras["since_reset"]
        assert said.dtype == np.int32
        np.testing.assert_array_equal(said[batch.valid], batch.s_tm1[batch.valid][:, 2])
        np.testing.assert_array_equal(batch.extras["code"], batch.s_tm1[..., 2:])
        if vectors != "next_step":  # there, a row that only resets was acted on
            assert not said[~batch.valid].any(), "zeros where no step was needed"
        most = max(most, said[batch.valid].max(initial=0))
    assert most == 6, "the longest episode's last step"


def test_what_an_agent_would_say_is_known_where_no_step_is_due():
    """Of 8 environments, one vector step feeds eight updates; a run may resume between them."""
    source = make(counting.COUNTING, 8, [0], 1)
    loop = remembering.Loop(1, 8)
    first = source.next(loop.act, 0)
    memory = loop.memory.copy()
    saved = source.save()
    expected = source.next(loop.act, 1)
    assert not expected.valid.any()
    assert loop.asked == 1
    resumed = make(counting.COUNTING, 8, [0], 1)
    resumed.restore(saved)
    batch = resumed.next(loop.act, 1)
    chex.assert_trees_all_equal(batch, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(batch, first)
    np.testing.assert_array_equal(loop.memory, memory)


def test_the_training_return_is_the_mean_of_the_episodes_that_ended_since_it_was_asked_for():
    source = make(counting.COUNTING, 2, [3, 4], 2)
    assert source.metrics() == [{}, {}], "no episode has ended yet"
    expected = {}  # moment -> seed -> the returns of episodes that ended since the moment before
    moments = [1, 9, 10, 30]
    for s, seed in enumerate([3, 4]):
        for i in range(2):
            total = 0.0
            for made, step in enumerate(
                counting.reference_steps(counting.seeds_of(seed, i), 30), 1
            ):
                total += step.r_t
                if step.terminated or step.truncated:
                    moment = min(moment for moment in moments if made <= moment)
                    expected.setdefault((moment, s), []).append(total)
                    total = 0.0
    found = {}
    for update in range(30):
        source.next(counting.act, update)
        if update + 1 in moments:
            for s, row in enumerate(source.metrics()):
                if row:
                    found[update + 1, s] = row
    assert found == {
        at: {"train/episode_return": pytest.approx(np.mean(returns))}
        for at, returns in expected.items()
    }
    assert source.metrics() == [{}, {}]


@pytest.mark.parametrize("env_id", ACTS)
@pytest.mark.parametrize("vectorization", ["serial", "async"])
def test_a_restored_actor_goes_on_as_if_never_stopped(env_id, vectorization):
    act = ACTS[env_id]
    seeds = [7] if vectorization == "async" else [0, 7]  # processes are slow to start
    uninterrupted = make(env_id, 2, seeds, 3, vectorization)
    moments = (0, 1, 9, 16, 17)  # before the first step, and in mid-episode
    saved = {}
    stream = []
    resets = []

    def note(observation, begins, due, counts):
        resets.append(begins.copy())
        return act(observation, begins, due, counts)

    for update in range(30):
        if update in moments:
            saved[update] = jax.tree.map(np.copy, uninterrupted.save())
            resets.clear()
        if update == 20:
            uninterrupted.metrics()
        stream.append(uninterrupted.next(note, update))
    end = uninterrupted.save()
    expected_metrics = uninterrupted.metrics()
    assert max(state["lengths"].max() for state in saved.values()) > 2, "episodes were open"
    assert saved[17]["episode"].min() > 0, "episodes had ended"
    assert saved[17]["ended_episodes"].min() > 0
    resets_after_17 = [begins.tolist() for begins in resets]
    resumed = make(env_id, 2, seeds, 3, vectorization)
    for moment in moments:  # into the new actor, then again into one that has moved on
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            resumed.restore(saved[moment])
        chex.assert_trees_all_equal(resumed.save(), saved[moment])
        resets.clear()
        for update in range(moment, 30):
            if update == 20:
                resumed.metrics()
            chex.assert_trees_all_equal(resumed.next(note, update), stream[update])
        chex.assert_trees_all_equal(resumed.save(), end)
        assert resumed.metrics() == expected_metrics
    assert [begins.tolist() for begins in resets] == resets_after_17
    resumed.close()
    uninterrupted.close()


def test_an_environment_that_does_not_reproduce_is_named():
    """Its episodes may end while they are played again: that is no reason to step past the end."""
    source = make(counting.DICE, 4, [0], 4)
    batches(source, counting.act, 0, 20)
    while source.save()["lengths"].max() < 5:
        batches(source, counting.act, int(source.save()["vector_steps"][0]), 1)
    saved = source.save()
    for _ in range(20):
        resumed = make(counting.DICE, 4, [0], 4)
        with pytest.warns(
            UserWarning, match=r"Dice-v0: environments \[0, 1, 2, 3\] did not come back"
        ):
            resumed.restore(saved)
        batches(resumed, counting.act, int(saved["vector_steps"][0]), 5)


def test_native_vector_environments_say_that_they_cannot_come_back():
    source = make(CARTPOLE, 2, [0], 4, "native")
    batches(source, cartpole_act, 0, 5)
    saved = source.save()
    resumed = make(CARTPOLE, 2, [0], 4, "native")
    with pytest.warns(UserWarning, match=r"CartPole-v1: environments \[0, 1\] did not come back"):
        resumed.restore(saved)
    begins = []

    def act(observation, resets, due, counts):
        begins.append(resets.copy())
        return cartpole_act(observation, resets, due, counts)

    resumed.next(act, 5)
    assert begins[0].all(), "they begin new episodes"


@pytest.mark.parametrize("vectors", ["serial", "next_step"])
def test_each_of_several_seeds_acts_as_it_does_alone(monkeypatch, vectors):
    seeds = [3, 4, 5]
    source = actor_over(monkeypatch, vectors, 3, seeds, 4)
    together = batches(source, counting.act, 0, 15)
    returns = source.metrics()
    for row, seed in enumerate(seeds):
        solo = actor_over(monkeypatch, vectors, 3, [seed], 4)
        for batch, alone in zip(together, batches(solo, counting.act, 0, 15), strict=True):
            mine = jax.tree.map(lambda x, row=row: x[row : row + 1], batch)
            chex.assert_trees_all_equal(mine, alone)
        assert solo.metrics() == [returns[row]]
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
    envs = Envs(env=counting.COUNTING, num_envs=2).find(3)
    alone = batches(envs.source([0]), counting.act, 0, 20)
    source = envs.source([0])
    watched = []

    def act(learned, memory, observation, reset):
        watched.extend(counting.tag_of(observation).tolist())
        return counting.policy(observation), memory

    with_evaluation = []
    for update in range(20):
        with_evaluation += batches(source, counting.act, update, 1)
        if update % 5 == 0:
            envs.returns(Player(lambda num_envs: (), act), None, 3, jax.random.key(update))
    chex.assert_trees_all_equal(with_evaluation, alone)
    trained = {int(tag) for batch in alone for tag in counting.tag_of(batch.s_tm1[batch.valid])}
    assert watched
    assert not trained & set(watched)


def test_processes_that_step_environments_import_no_jax():
    """What a worker imports: JAX would take each of them seconds and memory."""
    program = "import sys, missing_bits.envs.gymnasium_envs as used; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("vectors", counting.VECTORS)
def test_an_update_waits_until_its_steps_are_made(vectors, monkeypatch):
    """Four environments, an update for every two steps: a vector step serves about two of them."""
    source = actor_over(monkeypatch, vectors, 4, [0, 1], 2)
    assert source.inner_steps == 2
    waited = []
    for update in range(40):
        waited.append(source.waits(update))
        steps = source.next(counting.act, update)
        assert steps.valid.any() == waited[-1]
        assert not source.waits(update)
        made = source.save()["env_steps"].min()
        assert source.waits(update + 1) == (made < 2 * (update + 2))
    assert waited[:2] == [True, False]
    assert 20 <= sum(waited) < 40
