"""JAX-native environments: limits, resets, cadence, memory; the same on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits import collectives
from missing_bits.envs import environments, functional
from missing_bits.envs.episodes import Judging
from missing_bits.envs.functional import DeviceActor
from missing_bits.envs.steps import Acted, Player
from missing_bits.numeric import ceil_div
from missing_bits.tests.envs import counting, remembering

ENV = counting.FunctionalCounting()
LIMIT = 5
EPISODE_RETURN = "train/episode_return"
initial = jax.jit(lambda key: functional.initial(ENV, key))
step = jax.jit(
    lambda state, key: functional.step(ENV, LIMIT, state, counting.policy(state.observation), key)
)


def play(key):
    """Play one episode; return its tag, how it ended, the steps made and the state after it."""
    state = initial(key)
    for made in range(1, 10):
        before = state
        state, outcome = step(before, key)
        assert outcome.s_t[2] == made, "the successor is the true one, at an end too"
        if outcome.terminated or outcome.truncated:
            ends = bool(outcome.terminated), bool(outcome.truncated)
            return int(before.inner.tag), ends, made, state
        assert state.elapsed == made
    raise AssertionError("an episode that does not end")


def test_a_time_limit_truncates_and_never_terminates():
    seen = set()
    for i in range(60):
        tag, (terminated, truncated), made, _ = play(jax.random.key(i))
        dies = counting.ending(tag) != counting.TRUNCATES and counting.length(tag) <= LIMIT
        assert (terminated, truncated) == (dies, not dies)
        assert made == (counting.length(tag) if dies else LIMIT)
        seen.add((terminated, made == LIMIT))
    assert seen == {(True, False), (True, True), (False, True)}, (
        "a terminal state at the limit is terminal"
    )


def test_after_an_end_a_new_episode_begins():
    tag, _, _, state = play(jax.random.key(3))
    assert int(state.inner.tag) != tag
    assert (int(state.elapsed), float(state.open_return)) == (0, 0.0)
    np.testing.assert_array_equal(state.observation[2:], [0, 0])
    assert int(counting.tag_of(np.asarray(state.observation))) == int(state.inner.tag)


@pytest.mark.parametrize(("cut_at", "is_cut"), [(0, False), (LIMIT, False), (3, True)])
def test_returns_are_those_of_whole_episodes_and_the_player_remembers(cut_at, is_cut, monkeypatch):
    """19 episodes in two rounds of ten, of which the last one counts for nothing."""
    monkeypatch.setattr(functional, "LANES", 12)
    seen = []

    def act(learned, memory, observation, reset):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), observation, ordered=True)
        return remembering.PLAYER.act(learned, memory, observation, reset)

    player = Player(remembering.memory, act)
    judging = Judging(steps=cut_at)
    play = jax.jit(lambda key: functional.returns(ENV, LIMIT, judging, 19, player, None, key))
    returns, cut = play(jax.random.key(0))
    jax.effects_barrier()
    assert bool(cut) == is_cut
    end = counting.limited_end(cut_at or LIMIT)
    firsts = [step for step in seen if (step[:, 2] == 0).all()]
    assert len(firsts) == 2
    expected = []
    for start in np.concatenate(firsts)[:19]:
        tag = int(counting.tag_of(start))
        expected.append(sum(s.r_t for s in counting.reference_steps([tag], LIMIT, end)))
    np.testing.assert_allclose(returns, expected)


def test_the_episodes_of_an_evaluation_are_played_side_by_side():
    """A hundred at once: the program steps no longer than the longest of them, of at most LIMIT."""
    widths = []

    def act(learned, memory, observation, reset):
        jax.debug.callback(lambda x: widths.append(len(x)), observation, ordered=True)
        return jnp.zeros(len(observation), jnp.int32), memory

    player = Player(lambda num_envs: (), act)
    play = jax.jit(lambda key: functional.returns(ENV, LIMIT, Judging(), 100, player, None, key))
    returns, _ = play(jax.random.key(0))
    jax.effects_barrier()
    assert returns.shape == (100,)
    assert widths == [100] * len(widths)
    assert 0 < len(widths) <= LIMIT


def test_an_evaluation_explores_at_its_rate(monkeypatch):
    """Of 400 episodes, 16 at a time, half of all steps take one of three actions at random."""
    monkeypatch.setattr(functional, "LANES", 16)
    actions = []
    env = counting.FunctionalCounting()

    def reward(state, action, next_state, rng, params=None):
        jax.debug.callback(lambda x: actions.append(int(x)), action - counting.FIRST_ACTION)
        return 1.0

    env.reward = reward
    player = Player(lambda n: (), lambda learned, memory, seen, reset: (jnp.zeros(16, int), memory))
    for epsilon in (0.0, 0.5):
        actions.clear()
        judging = Judging(epsilon=epsilon)
        play = jax.jit(
            lambda key, judging=judging: functional.returns(
                env, LIMIT, judging, 400, player, None, key
            )
        )
        jax.block_until_ready(play(jax.random.key(1)))
        jax.effects_barrier()
        rate = np.mean(np.array(actions) > 0)
        # Two of three random actions are not the greedy one.
        sigma = np.sqrt(epsilon / 3 / len(actions))
        assert abs(rate - epsilon * 2 / 3) <= 5 * sigma


@pytest.mark.parametrize(("num_envs", "period"), [(1, 3), (3, 4), (5, 2)])
def test_only_the_steps_that_are_due_are_made_and_remembered(num_envs, period):
    """After update i: (i + 1) * period, rounded up to whole vector steps.

    Actions here say what exploration is told. The agent remembers how often it was asked, and
    counts its steps in an episode as it does on the host, in `test_actor.py`.
    """
    source = DeviceActor(ENV, LIMIT, num_envs, period)

    def act(memory, observation, reset, env_steps, key):
        asked = memory["asked"] + 1
        acted = remembering.answer(memory, observation, reset)
        return Acted(
            jnp.full(num_envs, env_steps),
            {"asked": asked, **acted.memory},
            {"asked": asked, **acted.extras},
        )

    def memory(num_envs):
        return {"asked": jnp.zeros(num_envs, jnp.int32), **remembering.memory(num_envs)}

    update = jax.jit(lambda state, key: source.next(state, act, key))
    state = jax.jit(lambda key: source.init(memory, key))(jax.random.key(0))
    total = 0
    episodes = 0
    for i in range(12):
        before = total
        state, steps, _ = update(state, jax.random.key(i))
        steps = jax.tree.map(np.asarray, steps)
        assert steps.valid.shape == (num_envs, ceil_div(period, num_envs)), "always the same"
        total += int(steps.valid.sum())
        assert total == ceil_div((i + 1) * period, num_envs) * num_envs
        assert (int(state.updates), int(state.vector_steps) * num_envs) == (i + 1, total)
        np.testing.assert_array_equal(state.memory["asked"], [total // num_envs] * num_envs)
        expected = list(range(before, total, num_envs))
        for lane in range(num_envs):
            mine = steps.valid[lane]
            assert steps.a_tm1[lane][mine].tolist() == expected
            asked = [env_steps // num_envs + 1 for env_steps in expected]
            assert steps.extras["asked"][lane][mine].tolist() == asked
        seen = steps.s_tm1[steps.valid]
        assert steps.extras["since_reset"].dtype == np.int32
        np.testing.assert_array_equal(steps.extras["since_reset"][steps.valid], seen[:, 2])
        np.testing.assert_array_equal(steps.extras["code"][steps.valid], seen[:, 2:])
        for said in steps.extras.values():
            assert not said[~steps.valid].any(), "zeros where no step was needed"
        episodes += int(np.count_nonzero(seen[:, 2] == 0))
    assert episodes > num_envs


def roll_out(key):
    """Make eight updates' steps in four environments with a policy that explores.

    What it draws is drawn for all environments, then sliced. It adds up the rewards of each episode
    in its memory, so that every end tells the return that it must be.
    """
    source = DeviceActor(ENV, LIMIT, 4, 6)

    def act(memory, observation, reset, env_steps, key):
        drawn = collectives.shard(jax.random.randint(key, (4,), 0, 3))
        action = (counting.policy(observation) + drawn) % 3
        tag = observation[:, 0].astype(jnp.int32) * 2**16 + observation[:, 1].astype(jnp.int32)
        earned = counting.reward(tag, observation[:, 2], action)
        total = jnp.where(reset, 0.0, memory) + earned
        return Acted(action, total, total)

    def update(state, key):
        state, steps, metrics = source.next(state, act, key)
        return state, (steps, metrics)

    state = source.init(lambda n: jnp.zeros(n), key)
    return jax.lax.scan(update, state, jax.random.split(key, 8))[1]


@pytest.mark.parametrize("devices", [2, 4])
def test_steps_and_returns_do_not_depend_on_the_number_of_devices(devices):
    key = jax.random.key(1)
    alone, metrics = jax.jit(roll_out)(key)  # leaves [8, E, V, ...]
    mapped, mapped_metrics = jax.pmap(roll_out, collectives.AXIS)(
        jnp.broadcast_to(key, (devices,))
    )  # [D, 8, E / D, V, ...]
    for name, whole, parts in zip(alone._fields, alone, mapped, strict=True):
        np.testing.assert_array_equal(
            np.concatenate(np.asarray(parts), axis=1), whole, err_msg=name
        )
    firsts = counting.tag_of(np.asarray(alone.s_tm1[0, :, 0]))
    assert len(np.unique(firsts)) == 4, "environments differ"
    done = np.asarray((alone.terminated | alone.truncated) & alone.valid)
    returns = np.where(done, alone.extras, 0).sum(axis=(1, 2))
    for found in [metrics] + [
        jax.tree.map(lambda x, d=d: x[d], mapped_metrics) for d in range(devices)
    ]:
        np.testing.assert_allclose(found[EPISODE_RETURN].total, returns, rtol=1e-5)
        np.testing.assert_array_equal(found[EPISODE_RETURN].count, done.sum(axis=(1, 2)))
    assert done.any()


def test_functional_environments_are_found_by_gymnasiums_names():
    """CartPole-v1 ends after 500 steps; pushing left only, the pole falls within ten."""
    envs = environments.Envs(env="jax/CartPole-v1", num_envs=4).find(4)
    assert isinstance(envs, environments.FunctionalEnvironments)
    assert (envs.observation_space.shape, envs.num_actions) == ((4,), 2)
    source = envs.source([0])
    assert isinstance(source, DeviceActor)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key: source.init(lambda num_envs: jnp.zeros(num_envs), key), key)
    assert {leaf.shape[0] for leaf in jax.tree.leaves((state.envs, state.memory))} == {4}
    left = Player(
        lambda num_envs: (),
        jax.jit(lambda learned, memory, seen, reset: (jnp.zeros(len(seen), jnp.int32), memory)),
    )
    returns = envs.returns(left, None, 8, key)
    assert returns.shape == (8,)
    assert 8 <= returns.min() <= returns.max() <= 10
    cut = environments.Envs(env="jax/CartPole-v1", eval_steps=5).find(4)
    with pytest.warns(UserWarning, match=r"jax/CartPole-v1: .* cut at --eval-steps=5"):
        np.testing.assert_array_equal(cut.returns(left, None, 8, key), 5)
    frames = list(envs.record(left, None, 0))
    assert 9 <= len(frames) <= 12
    assert [frame.total for frame in frames] == [float(i) for i in range(len(frames))]
