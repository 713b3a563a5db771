"""Environments that cannot be made or used: one clear line each, which says what to do."""

import re
import sys

import gymnasium as gym
import numpy as np
import pytest

from missing_bits.envs import environments, gymnasium_envs
from missing_bits.envs.gymnasium_envs import Recipe
from missing_bits.errors import UserError
from missing_bits.tests.envs import counting


class Spaces(gym.Env):
    """An environment of given spaces, which does next to nothing."""

    def __init__(self, observation_space, action_space=counting.ACTIONS):
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


DICT = gym.spaces.Dict({"position": gym.spaces.Box(0, 1, (2,)), "goal": gym.spaces.Discrete(4)})
MATRIX = gym.spaces.Box(0, 1, (4, 4))
for _name, _space in {"Dict": DICT, "Matrix": MATRIX, "Discrete": gym.spaces.Discrete(16)}.items():
    gym.register(f"{_name}Observations-v0", lambda space=_space: Spaces(space))
gym.register(
    "TwoActions-v0", lambda: Spaces(counting.OBSERVATIONS, gym.spaces.MultiDiscrete([2, 2]))
)


def find(env_id, **settings):
    """Find environments as an agent does: settings are checked first."""
    envs = environments.Envs(env=env_id, **settings)
    envs.check("")
    return envs.find(1)


def complaint(env_id, **settings):
    """Return the one line that these settings are refused with."""
    with pytest.raises(UserError) as raised:
        find(env_id, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", ["num_envs", "eval_episodes"])
def test_counts_begin_at_one(name):
    option = "--" + name.replace("_", "-")
    assert f"{option} is 0; it must be at least 1" in complaint("CartPole-v1", **{name: 0})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("CartPole-v9", "CartPole-v1"),
        ("cartpole-v1", "CartPole-v1"),
        ("CARTPOLE-V1", "CartPole-v1"),
        ("CartPole-v4", "CartPole-v1"),
        ("Phys2D/cartpole-v1", "phys2d/CartPole-v1"),
        ("Acrobat-v1", "Acrobot-v1"),
        ("phys2d/CartPol-v1", "phys2d/CartPole-v1"),
    ],
)
def test_an_unknown_environment_names_the_closest(given, meant):
    assert re.search(f"--env={given} .*Did you mean {meant}", complaint(given))


@pytest.mark.parametrize(
    "given", ["Zzzzzz-v0", "", "no spaces, please", "no_such_module:Thing-v0", "nowhere/CartPole"]
)
def test_what_resembles_nothing_says_where_to_look(given):
    assert re.search(f"--env={given} .*(pprint_registry|Did you mean)", complaint(given))


@pytest.mark.parametrize("given", ["a:b:c", ":CartPole-v1", "CartPole-v1:", ":", "::", "a::b"])
def test_stray_colons_are_told(given):
    assert f"--env={given} is no environment's name; write Id-v0, or module:" in complaint(given)


@pytest.mark.parametrize(
    "given", ["PongNoFrameskip-v4", "PongDeterministic-v0", "Pong-ramNoFrameskip-v4", "Pong-v4"]
)
def test_names_of_atari_games_of_old_lead_to_those_of_today(given):
    said = complaint(given)
    assert "Did you mean ALE/Pong-v5? It needs pip install -e '.[atari]'" in said


def test_games_of_a_package_name_the_package():
    said = complaint("MiniGrid-Empty-5x5-v0")
    assert "pip install minigrid, then --env=minigrid:MiniGrid-Empty-5x5-v0 --wrappers" in said


def test_a_module_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    """Its own fault is not that of the name: what it lacks is named."""
    (tmp_path / "lacking_maze.py").write_text("import no_such_simulator")
    (tmp_path / "exiting_maze.py").write_text("raise SystemExit('usage: maze FILE')")
    monkeypatch.syspath_prepend(tmp_path)
    assert "cannot be made: ModuleNotFoundError: No module named 'no_such_sim" in complaint(
        "lacking_maze:Maze-v0"
    )
    assert "cannot be made: SystemExit: usage: maze" in complaint("exiting_maze:Maze-v0")


def test_what_is_not_what_its_name_says_is_told_when_it_is_trained(capsys):
    """It runs where its extra is installed."""
    pytest.importorskip("flax")
    envs = find("phys2d/CartPole-v1")
    assert capsys.readouterr().out == ""
    envs.source([0])
    said = capsys.readouterr().err
    assert said.startswith("note: phys2d/CartPole-v1 is not CartPole-v1: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"eval_steps": -1}, "--eval-steps is -1; it must lie between 0 and"),
        ({"eval_epsilon": 1.5}, "--eval-epsilon is 1.5; it must lie between 0 and 1"),
    ],
)
def test_evaluations_that_cannot_be_are_refused(settings, said):
    assert said in complaint("CartPole-v1", **settings)


def test_continuous_actions_are_refused():
    said = complaint("Pendulum-v1")
    assert re.search(r"Pendulum-v1 has a continuous action space .* needs discrete actions", said)


def test_several_actions_at_once_are_refused():
    said = complaint("TwoActions-v0")
    assert re.search(r"TwoActions-v0 has the action space MultiDiscrete.* discrete actions", said)


@pytest.mark.parametrize(
    ("kind", "remedy"), [("Dict", "flatten"), ("Matrix", "flatten"), ("Discrete", "one_hot")]
)
def test_observations_other_than_vectors_and_images_name_the_wrapper_that_helps(kind, remedy):
    said = complaint(f"{kind}Observations-v0")
    assert re.search(f"{kind}Observations-v0 has the observation space .* needs a Box", said)
    assert f"--wrappers {remedy} makes vectors" in said


def test_box2d_that_is_not_installed_says_what_to_install(monkeypatch):
    for module in [
        name for name in sys.modules if name.startswith(("Box2D", "gymnasium.envs.box2d"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    said = complaint("LunarLander-v3")
    assert re.search(r"LunarLander-v3 .* pip install -e '\.\[box2d\]'", said)


@pytest.mark.parametrize("env_id", ["phys2d/CartPole-v1", "tabular/Blackjack-v0"])
def test_functional_environments_of_gymnasiums_own_say_what_to_install(env_id, monkeypatch):
    for module in [name for name in sys.modules if name.startswith("gymnasium.envs.phys2d")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "flax", None)
    said = complaint(env_id)
    assert said == (
        f"--env={env_id} needs flax, which is not installed. Install it: pip install -e '.[phys2d]'"
    )


def test_atari_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    said = complaint("ALE/Pong-v5")
    assert re.search(r"ALE/Pong-v5 needs ale-py.* pip install -e '\.\[atari\]'", said)


def test_an_unknown_vectorization_lists_the_known_ones():
    said = complaint("CartPole-v1", vectorization="sync")
    assert re.search("--vectorization=sync is unknown; .* serial, async, native", said)


def test_native_needs_a_vector_class():
    with pytest.raises(
        UserError, match=r"Acrobot-v1 has no vector class of its own. Use --vectorization=serial"
    ):
        gymnasium_envs.make_vector(Recipe("Acrobot-v1"), 2, 0, "train", "native")


def test_environments_in_jax_have_no_vectorization():
    said = complaint("jax/CartPole-v1", vectorization="async")
    assert "jax/CartPole-v1 is JAX-native" in said


def test_actions_count_from_zero_whatever_the_environment_calls_its_first():
    """The counting MDP itself asserts that its actions are 2, 3 or 4."""
    assert find(counting.COUNTING).num_actions == 3
    envs = gymnasium_envs.make_vector(Recipe(counting.COUNTING), 3, 0, "train", "serial")
    before = envs.reset()[0]
    _, rewards, *_ = envs.step(np.array([0, 1, 2]))
    tags = counting.tag_of(before)
    np.testing.assert_allclose(rewards, [counting.reward(tags[a], 0, a) for a in range(3)])


def test_only_uint8_observations_are_stored_as_they_are():
    gym.register("Image-v0", lambda: Spaces(gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)))
    gym.register("Double-v0", lambda: Spaces(gym.spaces.Box(0, 1, (3,), np.float64)))
    assert environments.stored_dtype(find("Image-v0").observation_space.dtype) == np.uint8
    assert environments.stored_dtype(find("Double-v0").observation_space.dtype) == np.float32


def test_arguments_reach_the_environment_and_gymnasium():
    """On ice the lake is slippery; without, four ways lead to four certain places."""
    envs = find("FrozenLake-v1", wrappers=("one_hot",), env_kwargs='{"is_slippery": false}')
    stepper = envs.source([0])._steppers[0]
    assert len(stepper.envs.envs[0].unwrapped.P[0][1]) == 1, "no chance in it"
    five = '{"max_episode_steps": 5}'
    for env_id in ("CartPole-v1", "jax/CartPole-v1"):
        left = environments.Player(
            lambda num_envs: (),
            lambda learned, memory, seen, reset: (np.zeros(1, np.int32), memory),
        )
        frames = find(env_id, env_kwargs=five).record(left, None, 0)
        assert [frame.total for frame in frames] == [float(i) for i in range(6)]
    native = gymnasium_envs.make_vector(
        Recipe("CartPole-v1", {"max_episode_steps": 5}), 2, 0, "train", "native"
    )
    for i in range(5):
        *_, truncated, _ = native.step(np.zeros(2, int))
        assert truncated.all() == (i == 4)


@pytest.mark.parametrize(
    "given",
    [
        *("[1]", "gravity=5", "5", '"gravity"', "{'gravity': 5}"),
        pytest.param("[" * 100_000, id="too deep for the parser"),
        pytest.param('{"gravity": ' + "9" * 5_000 + "}", id="more digits than Python reads"),
    ],
)
def test_arguments_that_are_no_json_object_are_refused(given):
    said = complaint("CartPole-v1", env_kwargs=given)
    assert f"--env-kwargs={given[:200]} is no JSON object" in said


@pytest.mark.parametrize("env_id", ["CartPole-v1", "jax/CartPole-v1"])
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ('{"gravity": 5}', "gravity"),
        ('{"max_episode_steps": "a"}', ""),
    ],
)
def test_arguments_that_the_environment_refuses_are_named(env_id, given, named):
    said = complaint(env_id, env_kwargs=given)
    assert f"--env-kwargs='{given}' does not suit {env_id}: " in said
    assert named in said


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ('{"id": "Acrobot-v1"}', "id"),
        ('{"gravity": 5, "render_mode": "human"}', "render_mode"),
        ('{"render_mode": null}', "render_mode"),
        ('{"disable_env_checker": false}', "disable_env_checker"),
    ],
)
def test_arguments_that_are_set_for_the_environment_are_refused_before_it_is_made(given, named):
    envs = environments.Envs(env="no_such_module:Thing-v0", env_kwargs=given)
    with pytest.raises(UserError) as raised:
        envs.check("ppo-")
    assert f"--ppo-env-kwargs='{given}' sets {named}, " in str(raised.value)
    assert "leave it out" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_arguments_that_the_vector_class_refuses_are_named():
    with pytest.raises(UserError, match=r"--vectorization=native: .* CartPole-v1 .*gravity"):
        gymnasium_envs.make_vector(Recipe("CartPole-v1", {"gravity": 5}), 2, 0, "train", "native")


def test_values_that_import_code_are_known():
    """They count only where they stand on the command line."""
    assert environments.Envs().modules() == []
    envs = environments.Envs(
        env="my_package:Maze-v0", wrappers=("resize:8x8", "my_package.wrappers:small", "flatten")
    )
    assert envs.modules() == ["my_package:Maze-v0", "my_package.wrappers:small"]
