"""Wrappers by name: what they make of observations, on every path, and what is refused."""

import warnings

import chex
import gymnasium as gym
import jax
import numpy as np
import pytest

from missing_bits.envs import gymnasium_envs, wrappers
from missing_bits.envs.environments import Envs, Player
from missing_bits.envs.gymnasium_envs import Recipe, episode_seed
from missing_bits.envs.steps import Acted
from missing_bits.errors import UserError
from missing_bits.tests.envs import counting, wrapping

LAKE = "FrozenLake-v1"
CARTPOLE = "CartPole-v1"


def find(env_id, *names, **settings):
    """Find environments as an agent does: settings are checked first."""
    envs = Envs(env=env_id, wrappers=names, **settings)
    envs.check("")
    return envs.find(1)


class Opening(gym.Env):
    """An environment that says what it is told to at the start of an episode, and ends there."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, observation_space, observation):
        self.observation_space = observation_space
        self.observation = observation

    def reset(self, *, seed=None, options=None):
        if isinstance(self.observation, Exception):
            raise self.observation
        return self.observation, {}

    def step(self, action):
        return self.observation, 1.0, True, False, {}


def register(observation_space, observation):
    """Register an `Opening` of these; return its id."""
    gym.register("Opening-v0", lambda: Opening(observation_space, observation))
    return "Opening-v0"


@pytest.fixture
def opening():
    """Return `register`; what it registers is forgotten after the test."""
    yield register
    del gym.registry["Opening-v0"]


def alternate(observation, resets, due, counts):
    """Take one action and the other in turn."""
    return Acted(np.tile((counts[:, 1:] % 2).astype(np.int32), observation.shape[1]))


def raw_steps(env_id, count, env_index=0):
    """Play without wrappers as `alternate` does; return rows (episode begins, s_tm1, s_t)."""
    env = gym.make(env_id)
    episode = 0
    begins = True
    observation, _ = env.reset(seed=episode_seed(0, "train", env_index, episode))
    steps = []
    for i in range(count):
        before = np.copy(observation)
        observation, _, terminated, truncated, _ = env.step(i % 2)
        steps.append((begins, before, np.copy(observation)))
        begins = terminated or truncated
        if begins:
            episode += 1
            observation, _ = env.reset(seed=episode_seed(0, "train", env_index, episode))
    return steps


@pytest.mark.parametrize("vectorization", ["serial", "async"])
def test_one_hot_makes_vectors_of_numbers(vectorization):
    envs = find(LAKE, "one_hot", vectorization=vectorization, num_envs=2)
    assert envs.observation_space == gym.spaces.Box(0, 1, (16,), np.float32)
    source = envs.source([0])
    steps = [source.next(alternate, update) for update in range(60)]
    source.close()
    for lane in range(2):
        # With two environments every second update takes a step.
        for step, (_, before, after) in zip(steps[::2], raw_steps(LAKE, 30, lane), strict=True):
            assert step.valid[0, lane, 0]
            np.testing.assert_array_equal(step.s_tm1[0, lane, 0], np.eye(16)[before])
            np.testing.assert_array_equal(step.s_t[0, lane, 0], np.eye(16)[after])
    assert len({tuple(step.s_tm1[0, 0, 0]) for step in steps}) > 2, "it moved"


def test_one_hot_counts_from_the_first_number():
    class Dice(gym.Env):
        observation_space = gym.spaces.Discrete(6, start=1)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return 6, {}

    gym.register("SixSides-v0", Dice)
    env = gymnasium_envs.make(Recipe("SixSides-v0", wrappers=("one_hot",)))
    np.testing.assert_array_equal(env.reset()[0], [0, 0, 0, 0, 0, 1])


def test_one_hot_of_very_many_numbers_takes_the_room_of_one_vector():
    count = 2**20  # a row for each would be 4 TiB
    env = wrappers.one_hot(Opening(gym.spaces.Discrete(count), count - 1))
    first, _ = env.reset()
    second, _ = env.reset()
    assert (first.shape, first.dtype) == ((count,), np.float32)
    assert np.flatnonzero(first).tolist() == [count - 1]
    assert not np.shares_memory(first, second)


def test_frames_are_stacked_within_an_episode_the_oldest_first():
    envs = find(CARTPOLE, "frame_stack:3")
    assert envs.observation_space.shape == (12,)
    np.testing.assert_array_equal(
        envs.observation_space.high, np.tile(gym.make(CARTPOLE).observation_space.high, 3)
    )
    source = envs.source([0])
    episodes = 0
    history = []
    for update, (begins, before, after) in enumerate(raw_steps(CARTPOLE, 100)):
        step = jax.tree.map(lambda x: x[0, 0, 0], source.next(alternate, update))
        history = [before] * 3 if begins else [*history[1:], before]
        np.testing.assert_array_equal(step.s_tm1, np.concatenate(history))
        np.testing.assert_array_equal(step.s_t, np.concatenate([*history[1:], after]))
        episodes += begins
    assert episodes > 1


def test_a_stack_comes_back_when_a_run_resumes():
    envs = find(CARTPOLE, "frame_stack:4")
    source = envs.source([0])
    for update in range(7):
        source.next(alternate, update)
    saved = source.save()
    assert saved["lengths"].max() > 5, "in mid-episode"
    expected = [source.next(alternate, update) for update in range(7, 40)]
    resumed = envs.source([0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed.restore(saved)
    for update in range(7, 40):
        chex.assert_trees_all_equal(resumed.next(alternate, update), expected[update - 7])


def test_pictures_are_stacked_along_their_channels_whatever_buffer_they_are_in():
    env = gymnasium_envs.make(Recipe(wrapping.PICTURE, wrappers=("frame_stack:2",)))
    assert env.observation_space == gym.spaces.Box(0, 255, (4, 6, 6), np.uint8)
    first, _ = env.reset()
    env.step(0)
    third, *_ = env.step(0)
    pictures = [wrapping.picture(step) for step in range(3)]
    np.testing.assert_array_equal(first, np.concatenate([pictures[0], pictures[0]], axis=-1))
    np.testing.assert_array_equal(third, np.concatenate([pictures[1], pictures[2]], axis=-1))


def test_gray_is_what_the_eye_sees():
    """0.2125 red + 0.7154 green + 0.0721 blue (ITU-R 709)."""
    env = gymnasium_envs.make(Recipe(wrapping.PICTURE, wrappers=("grayscale",)))
    assert env.observation_space == gym.spaces.Box(0, 255, (4, 6, 1), np.uint8)
    env.reset()
    gray, *_ = env.step(0)
    # The first pixel is (40, 41, 42): 8.5 + 29.3314 + 3.0282 = 40.86.
    assert gray[0, 0, 0] == 40
    assert (gray.shape, gray.dtype) == ((4, 6, 1), np.uint8)


@pytest.mark.parametrize(("name", "shape"), [("resize:2x3", (2, 3)), ("resize:2", (2, 2))])
def test_resizing_takes_the_mean_of_each_area(name, shape):
    env = gymnasium_envs.make(Recipe(wrapping.PICTURE, wrappers=(name,)))
    assert env.observation_space == gym.spaces.Box(0, 255, (*shape, 3), np.uint8)
    small, _ = env.reset()
    height, width = shape
    areas = wrapping.picture(0).reshape(height, 4 // height, width, 6 // width, 3)
    np.testing.assert_allclose(small, areas.mean(axis=(1, 3)), atol=0.5)  # rounded
    assert (small.shape, small.dtype) == ((*shape, 3), np.uint8)


def test_wrappers_are_put_on_from_the_inside():
    envs = find(wrapping.PICTURE, "grayscale", "resize:2x3", "frame_stack:4")
    assert envs.observation_space == gym.spaces.Box(0, 255, (2, 3, 4), np.uint8)
    assert find(wrapping.PICTURE, "resize:2x3", "flatten").observation_space.shape == (18,)


def test_evaluation_and_recording_see_what_training_sees():
    envs = find(CARTPOLE, "frame_stack:3", f"{wrapping.HERE}:Doubled")
    seen = []

    def act(learned, memory, observation, reset):
        seen.append((observation, reset))
        return np.zeros(len(observation), np.int32), memory

    player = Player(lambda num_envs: (), act)
    trained = envs.source([0]).next(alternate, 0).s_tm1[0, :, 0]
    raw = raw_steps(CARTPOLE, 1)[0][1]
    np.testing.assert_array_equal(trained[0], 2 * np.tile(raw, 3))
    envs.returns(player, None, 2, jax.random.key(0))
    assert seen[0][0].shape == (2, 12)
    seen.clear()
    frames = list(envs.record(player, None, 0))
    assert len(frames) == len(seen) + 1
    assert [reset.tolist() for _, reset in seen] == [[True]] + [[False]] * (len(seen) - 1)
    raw, _ = gym.make(CARTPOLE).reset(seed=episode_seed(0, "record", 0, 0))
    np.testing.assert_array_equal(seen[0][0], [2 * np.tile(raw, 3)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("frame_stak:4", "Did you mean frame_stack:4"),
        ("greyscale", "Did you mean grayscale"),
        ("", "There are flatten, one_hot"),
        ("no such thing", "is unknown"),
        ("frame_stack", "write frame_stack:4"),
        ("frame_stack:", "write frame_stack:4"),
        ("frame_stack:0", "write frame_stack:4"),
        ("frame_stack:4x4", "write frame_stack:4"),
        ("resize:84x", "write resize:84x84"),
        ("resize:-84", "write resize:84x84"),
        ("resize:99999999", "write resize:84x84"),
        ("flatten:2", "write flatten"),
        ("one_hot", "one_hot needs Discrete observations"),
        ("grayscale", "cannot be put around CartPole-v1"),
        ("resize:84", "resize needs images"),
        ("no_such_module:wrap", "cannot be imported"),
        (f"{wrapping.HERE}:no_such_function", "has no function no_such_function"),
        (f"{wrapping.HERE}:number", "has no function number"),
        (
            f"{wrapping.HERE}:failing",
            "failing cannot be put around CartPole-v1: RuntimeError: failed",
        ),
        (f"{wrapping.HERE}:needs_more", "TypeError"),
        (f"{wrapping.HERE}:no_environment", "made a str of CartPole-v1; it must return"),
        (f"{wrapping.HERE}:Liar", "Liar around CartPole-v1: observation_space is Box("),
        (f"{wrapping.HERE}:Liar", "but an observation has shape (2,) and dtype float32"),
        (
            f"{wrapping.HERE}:Stumbling",
            "Stumbling around CartPole-v1: no episode can begin: RuntimeError: stumbled",
        ),
    ],
)
def test_a_wrapper_that_cannot_be_used_is_told_in_one_line(given, said):
    with pytest.raises(UserError) as raised:
        find(CARTPOLE, given)
    assert f"--wrappers {given}" in str(raised.value)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


UNIT = gym.spaces.Box(0, 1, (3,), np.float32)
BYTES = gym.spaces.Box(0, 255, (3,), np.uint8)


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (UNIT, np.zeros(3)),  # float64
        (UNIT, [0, 1, 0]),
        (BYTES, np.array([0, 128, 255])),  # int64
    ],
)
def test_what_trains_without_wrappers_trains_within_them(opening, space, observation):
    envs = find(opening(space, observation), "frame_stack:2")
    step = envs.source([0]).next(alternate, 0)
    np.testing.assert_array_equal(step.s_tm1[0, 0, 0], np.tile(observation, 2))
    np.testing.assert_array_equal(step.s_t[0, 0, 0], np.tile(observation, 2))


@pytest.mark.parametrize("wrapper", ["flatten", "frame_stack:2"])
@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (RuntimeError("fell\napart"), "no episode can begin: RuntimeError: fell apart"),
        (np.zeros(2, np.float32), "has shape (2,) and dtype float32"),
        (np.array(["a", "b", "c"]), "has shape (3,) and dtype <U1"),
        ({"position": 0}, "has shape () and dtype object"),
        ([[0.0], [0.0, 1.0]], "makes no array: ValueError"),
    ],
)
def test_wrappers_are_not_blamed_for_the_environment(opening, observation, said, wrapper):
    env_id = opening(UNIT, observation)
    with pytest.raises(UserError) as raised:
        find(env_id, wrapper)
    assert str(raised.value).startswith(f"--env={env_id}: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_fractions_are_not_cast_to_whole_numbers(opening):
    """A wrapper that scales bytes and still promises bytes would have zeros learned from."""
    scaled = f"{wrapping.HERE}:Scaled"
    sound = opening(BYTES, np.zeros(3, np.uint8))
    with pytest.raises(UserError, match=r"--wrappers .*Scaled around .* \(3,\) and dtype float"):
        find(sound, scaled)


def test_one_hot_is_not_blamed_for_a_number_that_there_is_not(opening):
    env_id = opening(gym.spaces.Discrete(4), 4)
    with pytest.raises(UserError, match=r"--env=Opening-v0: .* Discrete\(4\), but .* is 4"):
        find(env_id, "one_hot")


def test_a_wrapper_may_mend_an_environment(opening):
    env_id = opening(UNIT, np.zeros((1, 3), np.float32))
    assert find(env_id, f"{wrapping.HERE}:Squeezed").observation_space == UNIT
    with pytest.raises(UserError, match=r"--env=Opening-v0: .* shape \(1, 3\) and dtype float32"):
        find(env_id, f"{wrapping.HERE}:Doubled")


def test_frames_of_numbers_cannot_be_stacked():
    with pytest.raises(UserError, match="frame_stack needs vectors or images, not Discrete"):
        find(LAKE, "frame_stack:4")


def test_wrappers_that_no_environment_takes_are_refused():
    with pytest.raises(UserError, match=r"--wrappers flatten are .* jax/CartPole-v1 is JAX-nat"):
        find("jax/CartPole-v1", "flatten")
    with pytest.raises(UserError, match=r"--vectorization=native .* leave out --wrappers"):
        find(CARTPOLE, "flatten", vectorization="native")


def test_checking_imports_nothing():
    """A name that imports code must be seen to stand on the command line before it is used."""
    Envs(wrappers=("no_such_module:wrap",)).check("")


def test_a_wrapped_environment_still_counts_actions_from_zero():
    """The counting MDP asserts that its actions are 2, 3 or 4."""
    envs = find(counting.COUNTING, "frame_stack:2")
    batch = envs.source([0]).next(alternate, 0)
    assert batch.valid.all()
