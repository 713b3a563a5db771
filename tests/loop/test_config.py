"""Run options, and configurations on their way to config.json and back."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missing_bits.agents import dqn
from missing_bits.errors import UserError
from missing_bits.loop import command_line
from missing_bits.loop.config import RunConfig, check, from_json, to_json


def configurations(config_class):
    """Draw configurations with arbitrary values of each field's type."""
    kinds = {
        str: st.text(),
        int: st.integers(-(2**40), 2**40),
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        tuple[int, ...]: st.lists(st.integers(0, 999)).map(tuple),
    }
    return st.builds(config_class, **{f.name: kinds[f.type] for f in dataclasses.fields(config_class)})


@pytest.mark.parametrize("config_class", [dqn.Config, RunConfig])
@given(data=st.data())
def test_a_configuration_survives_json(config_class, data):
    config = data.draw(configurations(config_class))
    assert from_json(config_class, json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize("values", [{}, to_json(RunConfig()) | {"colour": "red"}])
def test_fields_of_another_version_are_refused_by_name(values):
    with pytest.raises(UserError, match="colour" if values else "checkpoint_period, compilation_cache"):
        from_json(RunConfig, values)


def test_periods_left_open_are_parts_of_the_budget():
    """1001 units: 1001 / 50 = 20.02, / 10 = 100.1, / 5 = 200.2, each rounded up; a period that is given stays."""
    run = RunConfig(eval_period=7).with_periods(1001)
    assert (run.log_period, run.eval_period, run.checkpoint_period) == (21, 7, 201)
    tiny = RunConfig().with_periods(3)
    assert (tiny.log_period, tiny.eval_period, tiny.checkpoint_period) == (1, 1, 1)


def test_the_defaults_are_sound_and_resume_needs_a_folder():
    check(RunConfig())
    check(RunConfig(resume=True, dir="somewhere"))
    with pytest.raises(UserError, match=r"--run\.dir"):
        check(RunConfig(resume=True))


def parse(*arguments):
    return command_line.parse("dqn", dqn.Config, {}, arguments)


@pytest.mark.parametrize("spelling", ["--learning-rate=0.5", "--learning_rate=0.5"])
def test_hyphens_and_underscores_are_alike(spelling):
    assert parse(spelling) == (dataclasses.replace(dqn.Config(), learning_rate=0.5), RunConfig())


def test_options_of_the_run_and_of_the_experiment_do_not_mix():
    config, run = parse("--run.seed", "3", "--run.no_compilation_cache", "--no-huber", "--hidden-sizes", "5", "6")
    assert run == RunConfig(seed=3, compilation_cache=False)
    assert config == dataclasses.replace(dqn.Config(), huber=False, hidden_sizes=(5, 6))


@pytest.mark.parametrize(
    ("arguments", "value", "rest"),
    [
        ([], None, []),
        (["--a=1"], None, ["--a=1"]),
        (["--exp=x", "--a=1"], "x", ["--a=1"]),
        (["--a=1", "--exp", "x"], "x", ["--a=1"]),
        (["--exp=x=y"], "x=y", []),
        (["--exp="], "", []),
        (["--exp=x", "--exp=y"], "x", ["--exp=y"]),
    ],
)
def test_take(arguments, value, rest):
    assert command_line.take(arguments, "--exp") == (value, rest)


@pytest.mark.parametrize("arguments", [["--exp"], ["--exp", "--a"]])
def test_take_wants_a_value(arguments):
    with pytest.raises(UserError, match="--exp needs a value"):
        command_line.take(arguments, "--exp")
