"""Evaluations on the host: whole episodes, fixed shares, environments that are kept; recording."""

from contextlib import nullcontext

import gymnasium as gym
import jax
import numpy as np
import pytest

from missing_bits.envs import episodes
from missing_bits.envs.environments import Envs
from missing_bits.envs.episodes import Judge, Judging
from missing_bits.envs.gymnasium_envs import Recipe, episode_seed, has_own_vector_class
from missing_bits.envs.steps import Player
from missing_bits.tests.envs import counting, remembering

KEY = jax.random.key(4)
RECIPE = Recipe(counting.COUNTING)


class Watched:
    """A player that remembers its episode, and notes what it saw."""

    def __init__(self):
        self.observations = []
        self.resets = []
        self.player = Player(remembering.memory, self._act)

    def _act(self, learned, memory, observation, reset):
        self.observations.append(np.copy(observation))
        self.resets.append(np.copy(reset))
        return remembering.PLAYER.act(learned, memory, observation, reset)

    def tags(self, lane, count):
        """The tags of the first episodes of an environment."""
        seen = zip(self.observations, self.resets, strict=True)
        starts = [observation[lane] for observation, reset in seen if reset[lane]]
        return [int(counting.tag_of(start)) for start in starts[:count]]


def expected(watched, lane, count, limit=10**9):
    """The returns of the first episodes of an environment, by the reference loop."""
    return [
        sum(s.r_t for s in counting.reference_steps([tag], min(counting.length(tag), limit)))
        for tag in watched.tags(lane, count)
    ]


@pytest.mark.parametrize(
    ("count", "shares"),
    [(1, [1]), (3, [1] * 3), (16, [1] * 16), (20, [2] * 4 + [1] * 12), (100, [7] * 4 + [6] * 12)],
)
def test_every_environment_plays_a_fixed_share(count, shares):
    assert episodes.shares(count) == shares


def test_returns_are_those_of_whole_episodes_and_the_player_remembers():
    """The player takes the step from its memory, which must begin anew with every episode."""
    watched = Watched()
    returns = Judge(RECIPE, Judging()).returns(watched.player, None, 20, KEY)
    by_hand = [expected(watched, lane, share) for lane, share in enumerate(episodes.shares(20))]
    np.testing.assert_allclose(returns, np.concatenate(by_hand))
    assert len({tag for lane in range(16) for tag in watched.tags(lane, 2)}) >= 20


def test_returns_depend_on_the_key_alone_whatever_was_played_before():
    """A resumed run has made its environments anew; an uninterrupted one has kept them."""
    player = Watched().player
    kept = Judge(RECIPE, Judging())
    first = kept.returns(player, None, 20, KEY)
    other = kept.returns(player, None, 5, jax.random.key(5))
    np.testing.assert_array_equal(kept.returns(player, None, 20, KEY), first)
    fresh = Judge(RECIPE, Judging())
    np.testing.assert_array_equal(fresh.returns(player, None, 5, jax.random.key(5)), other)
    np.testing.assert_array_equal(fresh.returns(player, None, 20, KEY), first)
    assert not np.array_equal(other, first[:5])


def balancing(noted):
    """Pushes against the pole's fall, a part of the time; notes what it saw and did."""

    def act(learned, memory, observation, reset):
        seen = np.copy(observation)
        astray = 0.15 * np.sin(len(noted) / 9 + np.arange(len(seen)))
        action = (seen[:, 2] + 0.2 * seen[:, 3] + astray > 0).astype(int)
        noted.append((seen, action))
        return action, memory

    return Player(lambda lanes: (), act)


@pytest.mark.parametrize("steps", [0, 60])
def test_the_vector_class_plays_the_episodes_that_the_environment_itself_would(steps):
    """Gymnasium's CartPole-v1 has one; every episode is repeated, action by action."""
    noted = []
    judge = Judge(Recipe("CartPole-v1"), Judging(steps=steps))
    says = pytest.warns(UserWarning, match="cut at --eval-steps=60") if steps else nullcontext()
    with says:
        returns = judge.returns(balancing(noted), None, 7, KEY)
    judge.close()
    again = gym.make_vec("CartPole-v1", 7, vectorization_mode="vector_entry_point")
    again.reset(seed=episode_seed(int(jax.random.bits(KEY)), "eval", 0, 0))
    env = gym.make("CartPole-v1")
    for lane, total in enumerate(returns):
        env.reset()
        env.unwrapped.state = again.unwrapped.state[:, lane]
        by_hand = 0.0
        for seen, action in noted[: steps or None]:
            np.testing.assert_allclose(env.unwrapped.state, seen[lane], atol=1e-5)
            _, reward, terminated, truncated, _ = env.step(int(action[lane]))
            by_hand += reward
            if terminated or truncated:
                break
        assert total == by_hand
    assert len(set(returns)) > 1 or steps


def test_the_vector_class_depends_on_the_key_alone_too():
    judge = Judge(Recipe("CartPole-v1"), Judging())
    first = judge.returns(balancing([]), None, 7, KEY)
    assert len(judge.returns(balancing([]), None, 3, KEY)) == 3
    np.testing.assert_array_equal(judge.returns(balancing([]), None, 7, KEY), first)
    assert not np.array_equal(judge.returns(balancing([]), None, 7, jax.random.key(5)), first)


@pytest.mark.parametrize(
    ("recipe", "has"),
    [
        (Recipe("CartPole-v1"), True),
        (Recipe("CartPole-v1", {"sutton_barto_reward": True}), False),
        (Recipe("CartPole-v1", wrappers=("flatten",)), False),
        (Recipe("Acrobot-v1"), False),
        (RECIPE, False),
    ],
)
def test_only_gymnasiums_own_vector_classes_are_trusted(recipe, has):
    assert has_own_vector_class(recipe) == has


class Noted(counting.Counting):
    """Counts what is done with all of its kind; it asserts that no episode's end is passed."""

    made = steps = seeded = resets = closed = 0

    def __init__(self):
        Noted.made += 1

    def reset(self, *, seed=None, options=None):
        Noted.resets += 1
        Noted.seeded += seed is not None
        return super().reset(seed=seed, options=options)

    def step(self, action):
        Noted.steps += 1
        return super().step(action)

    def close(self):
        Noted.closed += 1


@pytest.fixture
def noted():
    for name in ("made", "steps", "seeded", "resets", "closed"):
        setattr(Noted, name, 0)
    gym.register("Noted-v0", Noted)
    yield Noted
    del gym.registry["Noted-v0"]


def test_environments_are_made_once_seeded_once_an_evaluation_and_stepped_no_more_than_needed(
    noted,
):
    judge = Judge(Recipe("Noted-v0"), Judging())
    needed = 0
    for evaluation in range(3):
        watched = Watched()
        judge.returns(watched.player, None, 40, jax.random.key(evaluation))
        for lane, share in enumerate(episodes.shares(40)):
            needed += sum(counting.length(tag) for tag in watched.tags(lane, share))
    assert (noted.made, noted.seeded, noted.resets, noted.steps) == (16, 48, 120, needed)
    judge.close()
    assert noted.closed == 16
    judge.returns(Watched().player, None, 2, KEY)
    assert noted.made == 18, "others are made when they are needed again"


def test_environments_of_evaluations_are_closed_with_the_source(noted):
    envs = Envs(env="Noted-v0", num_envs=3).find(3)
    source = envs.source([0])
    envs.returns(Watched().player, None, 5, KEY)
    source.close()
    assert noted.closed == noted.made


def test_an_episode_is_cut_and_that_is_said():
    watched = Watched()
    judge = Judge(RECIPE, Judging(steps=3))
    with pytest.warns(UserWarning, match=r"Counting-v0: episodes .* cut at --eval-steps=3"):
        returns = judge.returns(watched.player, None, 20, KEY)
    by_hand = [expected(watched, lane, share, 3) for lane, share in enumerate(episodes.shares(20))]
    np.testing.assert_allclose(returns, np.concatenate(by_hand))


def test_a_recording_is_cut_where_episodes_are():
    left = Player(lambda n: (), lambda learned, memory, seen, reset: (np.zeros(1, int), memory))
    frames = list(episodes.record(Recipe("CartPole-v1"), Judging(steps=3), left, None, 0))
    assert [frame.total for frame in frames] == [0.0, 1.0, 2.0, 3.0]


def test_an_episode_that_ends_at_the_limit_is_not_cut():
    """No episode of this environment has more than 7 steps; a warning would be an error."""
    Judge(RECIPE, Judging(steps=7)).returns(Watched().player, None, 40, KEY)


class Bandit(gym.Env):
    """Earns 1 for action 0; an episode has 25 steps."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(4, start=-2)

    def reset(self, *, seed=None, options=None):
        self.made = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.made += 1
        return np.zeros(1, np.float32), float(action == -2), self.made == 25, False, {}


def test_an_evaluation_explores_at_its_rate_and_by_its_key():
    """Of 1,000 steps, a share of 0.4 is random, three of four of which earn nothing."""
    gym.register("Bandit-v0", Bandit)
    player = Player(lambda n: (), lambda learned, m, seen, reset: (np.zeros(len(seen), int), m))
    explored = Judge(Recipe("Bandit-v0"), Judging(epsilon=0.4))
    returns = explored.returns(player, None, 40, KEY)
    earned = 1 - 0.4 * 3 / 4
    assert abs(returns.sum() / 1000 - earned) < 4 * np.sqrt(earned * (1 - earned) / 1000)
    np.testing.assert_array_equal(explored.returns(player, None, 40, KEY), returns)
    greedy = Judge(Recipe("Bandit-v0"), Judging())
    np.testing.assert_array_equal(greedy.returns(player, None, 40, KEY), [25.0] * 40)
    del gym.registry["Bandit-v0"]
