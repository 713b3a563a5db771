"""Environments that cannot be made or used: one clear line each, which says what to do."""

import sys

import gymnasium as gym
import numpy as np
import pytest

from missing_bits.envs import environments, gymnasium_envs
from missing_bits.errors import UserError
from missing_bits.tests.envs import counting


class Spaces(gym.Env):
    """An environment of given spaces, which cannot do anything."""

    def __init__(self, observation_space, action_space=counting.ACTIONS):
        self.observation_space, self.action_space = observation_space, action_space


DICT = gym.spaces.Dict({"position": gym.spaces.Box(0, 1, (2,)), "goal": gym.spaces.Discrete(4)})
MATRIX = gym.spaces.Box(0, 1, (4, 4))
for _name, _space in {"Dict": DICT, "Matrix": MATRIX, "Discrete": gym.spaces.Discrete(16)}.items():
    gym.register(f"{_name}Observations-v0", lambda space=_space: Spaces(space))
gym.register(
    "TwoActions-v0", lambda: Spaces(counting.OBSERVATIONS, gym.spaces.MultiDiscrete([2, 2]))
)


def find(env_id, vectorization="serial"):
    return environments.find(env_id, 1, 1, vectorization)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("CartPole-v9", "CartPole-v1"),
        ("cartpole-v1", "CartPole-v1"),
        ("Acrobat-v1", "Acrobot-v1"),
        ("phys2d/CartPol-v1", "phys2d/CartPole-v1"),
    ],
)
def test_an_unknown_environment_names_the_closest(given, meant):
    with pytest.raises(UserError, match=f"--env={given} .*Did you mean {meant}") as raised:
        find(given)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "given", ["Zzzzzz-v0", "", "no spaces, please", "no_such_module:Thing-v0", "nowhere/CartPole"]
)
def test_what_resembles_nothing_says_where_to_look(given):
    with pytest.raises(
        UserError, match=f"--env={given} .*(pprint_registry|Did you mean)"
    ) as raised:
        find(given)
    assert "\n" not in str(raised.value)


def test_continuous_actions_are_refused():
    with pytest.raises(
        UserError, match=r"Pendulum-v1 has a continuous action space .* needs discrete actions"
    ):
        find("Pendulum-v1")


def test_several_actions_at_once_are_refused():
    with pytest.raises(
        UserError,
        match=r"TwoActions-v0 has the action space MultiDiscrete.* needs discrete actions",
    ):
        find("TwoActions-v0")


@pytest.mark.parametrize("kind", ["Dict", "Matrix", "Discrete"])
def test_observations_other_than_vectors_and_images_are_refused(kind):
    with pytest.raises(
        UserError, match=rf"{kind}Observations-v0 has the observation space .* needs a Box"
    ):
        find(f"{kind}Observations-v0")


def test_box2d_that_is_not_installed_says_what_to_install(monkeypatch):
    for module in [
        name for name in sys.modules if name.startswith(("Box2D", "gymnasium.envs.box2d"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(UserError, match=r"LunarLander-v3 .* pip install -e '\.\[box2d\]'"):
        find("LunarLander-v3")


def test_atari_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UserError, match=r"ALE/Pong-v5 needs ale-py.* pip install -e '\.\[atari\]'"):
        find("ALE/Pong-v5")


def test_an_unknown_vectorization_lists_the_known_ones():
    with pytest.raises(
        UserError, match=r"--vectorization=sync is unknown; .* serial, async, native"
    ):
        find("CartPole-v1", "sync")


def test_native_needs_a_vector_class():
    with pytest.raises(
        UserError, match=r"Acrobot-v1 has no vector class of its own. Use --vectorization=serial"
    ):
        gymnasium_envs.make_vector("Acrobot-v1", 2, 0, "train", "native")


def test_environments_in_jax_have_no_vectorization():
    with pytest.raises(UserError, match="phys2d/CartPole-v1 is JAX-native"):
        find("phys2d/CartPole-v1", "async")


def test_actions_count_from_zero_whatever_the_environment_calls_its_first():
    """The counting MDP itself asserts that its actions are 2, 3 or 4."""
    assert find(counting.COUNTING).num_actions == 3
    envs = gymnasium_envs.make_vector(counting.COUNTING, 3, 0, "train", "serial")
    before = envs.reset()[0]
    _, rewards, *_ = envs.step(np.array([0, 1, 2]))
    tags = counting.tag_of(before)
    np.testing.assert_allclose(rewards, [counting.reward(tags[a], 0, a) for a in range(3)])


def test_only_uint8_observations_are_stored_as_they_are():
    gym.register("Image-v0", lambda: Spaces(gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)))
    gym.register("Double-v0", lambda: Spaces(gym.spaces.Box(0, 1, (3,), np.float64)))
    assert environments.stored_dtype(find("Image-v0").observation_space.dtype) == np.uint8
    assert environments.stored_dtype(find("Double-v0").observation_space.dtype) == np.float32
