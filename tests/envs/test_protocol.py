"""The protocol by which agents are judged, as environments tell it."""

import json

import pytest

from missing_bits.envs.environments import Envs

CARTPOLE = {
    "env": "CartPole-v1",
    "env_kwargs": {},
    "wrappers": [],
    "termination": "the environment's own",
    "time_limit": 500,
    "cut_at": None,
    "action_set": "2 actions",
    "stickiness": 0.0,
    "epsilon": 0.0,
}


def protocol(env, **settings):
    envs = Envs(env=env, **settings)
    envs.check("")
    found = envs.find(1).protocol
    assert json.loads(json.dumps(found)) == found
    return found


@pytest.mark.parametrize("env", ["CartPole-v1", "jax/CartPole-v1"])
def test_of_classic_control(env):
    assert protocol(env) == CARTPOLE | {"env": env}


@pytest.mark.parametrize("env", ["CartPole-v1", "jax/CartPole-v1"])
def test_limits_of_time_and_cuts_are_told_apart(env):
    """500 steps are a property of the environment, 20 one of the evaluation alone."""
    settings = {"env_kwargs": '{"max_episode_steps": 30}', "eval_epsilon": 0.25}
    said = {"env": env, "env_kwargs": {"max_episode_steps": 30}, "epsilon": 0.25, "time_limit": 30}
    assert protocol(env, eval_steps=20, **settings) == CARTPOLE | said | {"cut_at": 20}
    assert protocol(env, eval_steps=30, **settings) == CARTPOLE | said  # it never cuts
    assert protocol(env, eval_steps=0, **settings) == CARTPOLE | said


def test_wrappers_are_named():
    found = protocol("CartPole-v1", wrappers=("frame_stack:2", "flatten"))
    assert found == CARTPOLE | {"wrappers": ["frame_stack:2", "flatten"]}


def test_of_minatar():
    """Breakout's minimal actions are none, left and right; MinAtar has six in all."""
    own = {
        "termination": "game over",
        "time_limit": 10_000,
        "action_set": "minimal, 3 actions",
        "stickiness": 0.1,
        "difficulty_ramping": True,
    }
    assert protocol("jax/Breakout-v1") == CARTPOLE | {"env": "jax/Breakout-v1"} | own
    kwargs = {
        "use_minimal_action_set": False,
        "sticky_action_prob": 0.0,
        "difficulty_ramping": False,
    }
    changed = protocol("jax/Breakout-v1", env_kwargs=json.dumps(kwargs))
    assert changed["env_kwargs"] == kwargs
    assert changed["action_set"] == "full, 6 actions"
    assert changed["stickiness"] == 0.0
    assert changed["difficulty_ramping"] is False


def test_of_atari():
    pytest.importorskip("ale_py")
    found = protocol("ALE/Pong-v5", env_kwargs='{"frameskip": 4}')
    assert found["action_set"] == "minimal, 6 actions"
    assert found["stickiness"] == 0.25
    assert found["time_limit"] is None
    assert found["cut_at"] == 27_000
