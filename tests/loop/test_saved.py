"""A run that is resumed by the library is held to what it was, as on the command line."""

import dataclasses

import pytest

from missing_bits import options
from missing_bits.agents import dqn
from missing_bits.errors import UserError
from missing_bits.loop.config import RunConfig
from missing_bits.loop.train import train

TINY = options.make(dqn.Config, **{**dqn.TINY, "env_steps": 60})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(dqn.DQN, TINY, RunConfig(dir=str(folder), log_period=30, eval_period=60))
    return folder


@pytest.mark.parametrize(
    ("settings", "run", "named"),
    [
        ({"hidden_sizes": (8,)}, {}, "--hidden-sizes is [8], was [16, 16]"),
        ({"env": "Acrobot-v1"}, {}, "--env is Acrobot-v1"),
        ({"learning_rate": 1e-9, "env_steps": 120}, {}, "--learning-rate is 1e-09"),
        ({"env_steps": 54}, {}, "--env-steps is 54, was 60"),
        ({}, {"num_seeds": 2}, "--run.num-seeds is 2"),
        ({"env_steps": 120}, {"seed": 7}, "--run.seed is 7"),
    ],
)
def test_changes_are_refused_and_nothing_is_touched(settings, run, named, finished, hashes):
    before = hashes(finished)
    asked = RunConfig(dir=str(finished), log_period=30, eval_period=60, resume=True)
    with pytest.raises(UserError) as refused:
        train(dqn.DQN, options.replace(TINY, settings), dataclasses.replace(asked, **run))
    assert named in str(refused.value)
    assert hashes(finished) == before
