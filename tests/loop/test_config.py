"""Run options, and configurations on their way to config.json and back."""

import dataclasses
import json
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missing_bits.agents import dqn
from missing_bits.errors import UserError
from missing_bits.loop import command_line
from missing_bits.loop.config import RunConfig, check, from_json, options, replace, to_json
from missing_bits.ssl import barlow_twins


def values(kind):
    """Draw arbitrary values of a field's type."""
    if dataclasses.is_dataclass(kind):
        return st.builds(
            kind, **{field.name: values(field.type) for field in dataclasses.fields(kind)}
        )
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    fraction = st.floats(allow_nan=False)
    return {
        str: st.text(),
        int: st.integers(-(2**40), 2**40),
        float: fraction,
        bool: st.booleans(),
        tuple[int, ...]: st.lists(st.integers(0, 999)).map(tuple),
        tuple[float, float]: st.tuples(fraction, fraction),
    }[kind]


@pytest.mark.parametrize("config_class", [dqn.Config, RunConfig, barlow_twins.Config])
@given(data=st.data())
def test_a_configuration_survives_json(config_class, data):
    config = data.draw(values(config_class))
    assert from_json(config_class, json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize("saved", [{}, to_json(RunConfig()) | {"color": "red"}])
def test_fields_of_another_version_are_refused_by_name(saved):
    with pytest.raises(
        UserError, match="color" if saved else "checkpoint_period, compilation_cache"
    ):
        from_json(RunConfig, saved)


@dataclasses.dataclass(frozen=True)
class Inner:
    """Options within options."""

    flip: float = 0.5
    """A fraction."""
    on: bool = True
    """A switch."""
    sizes: tuple[int, ...] = (1, 2)
    """Whole numbers."""


@dataclasses.dataclass(frozen=True)
class Outer:
    """Options."""

    data: str = "a"
    """The subject."""
    inner_views: Inner = Inner()
    """A group."""


def test_options_within_options_have_full_names():
    assert options(Outer, "x.") == {
        "x.data": str, "x.inner-views.flip": float, "x.inner-views.on": bool, "x.inner-views.sizes": tuple[int, ...],
    }  # fmt: skip


def test_a_preset_reaches_into_a_group_and_the_command_line_overrides_it():
    presets = {"b": {"inner_views": {"flip": 0.25, "sizes": (3,)}}}
    arguments = ["--data=b", "--inner-views.no-on", "--inner_views.flip=1"]
    config, _ = command_line.parse("outer", Outer, presets, arguments)
    assert config == Outer("b", Inner(1.0, False, (3,)))
    assert from_json(Outer, json.loads(json.dumps(to_json(config)))) == config
    assert replace(Outer(), presets["b"]).inner_views == Inner(0.25, True, (3,))


@pytest.mark.parametrize("argument", ["--inner-views.flop=1", "--inner.flip=1", "--flip=1"])
def test_a_misspelt_option_within_options_names_the_closest(argument):
    with pytest.raises(UserError, match=r"Did you mean --inner-views\.flip\?"):
        command_line.parse("outer", Outer, {}, [argument])


def test_a_resumed_run_refuses_a_changed_option_within_options(tmp_path):
    saved = {
        "exp": "outer",
        "config": to_json(Outer()),
        "run": to_json(RunConfig(dir=str(tmp_path))),
    }
    (tmp_path / "config.json").write_text(json.dumps(saved))
    resume = ["--run.resume", f"--run.dir={tmp_path}"]
    assert command_line.parse("outer", Outer, {}, resume)[0] == Outer()
    with pytest.raises(UserError, match=r"--inner-views\.flip is 1\.0, was 0\.5"):
        command_line.parse("outer", Outer, {}, [*resume, "--inner-views.flip=1"])


def test_periods_left_open_are_parts_of_the_budget():
    """1001 units: 1001 / 50 = 20.02, 1001 / 4 = 250.25, each rounded up; a period that is given stays."""
    run = RunConfig(checkpoint_period=7).with_periods(1001, evaluations=4)
    assert (run.log_period, run.eval_period, run.checkpoint_period) == (21, 251, 7)
    tiny = RunConfig().with_periods(3, evaluations=10)
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
    config, run = parse(
        "--run.seed", "3", "--run.no_compilation_cache", "--no-huber", "--hidden-sizes", "5", "6"
    )
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
