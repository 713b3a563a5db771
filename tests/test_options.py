"""Configurations: names of options, groups, numbers of rows, to config.json and back."""

import dataclasses
import json
import typing
from dataclasses import dataclass
from typing import Annotated

import jax
import numpy as np
import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from missing_bits import options
from missing_bits.agents import dqn
from missing_bits.errors import UserError, require
from missing_bits.loop.config import RunConfig
from missing_bits.options import Flat, row
from missing_bits.ssl import barlow_twins


@dataclass(frozen=True)
class Inner:
    """Options within options."""

    flip: float = row(0.5)
    """A number of rows."""
    on: bool = True
    """A switch."""
    sizes: tuple[int, ...] = (1, 2)
    """Whole numbers."""

    def check(self, prefix: str) -> None:
        require(self.flip <= 1, f"--{prefix}flip is {self.flip}; it must be at most 1.")


@dataclass(frozen=True)
class Beside:
    """Options beside those of the configuration."""

    data_dir: str = ""
    """A folder."""
    rate: float = row(3.0)
    """A number of rows."""
    deep: Inner = Inner()
    """A group in a group."""


@dataclass(frozen=True)
class Outer:
    """Options."""

    beside: Flat[Beside] = Beside()
    data: str = "a"
    """The subject."""
    start: Annotated[str, tyro.conf.arg(name="from")] = "last"
    """An option whose field is called otherwise."""
    ends: tuple[float, float] = row((0.1, 0.9))
    """Two numbers of rows."""
    fixed: float = 7.0
    """A number that is none of a row."""
    inner_views: Inner = Inner()
    """A group."""


def test_options_have_full_names():
    """A group's name stands before those of its options, unless it is flat; the name given wins."""
    assert options.names(Outer, "x.") == {
        "x.data-dir": str,
        "x.rate": float,
        "x.deep.flip": float,
        "x.deep.on": bool,
        "x.deep.sizes": tuple[int, ...],
        "x.data": str,
        "x.from": str,
        "x.ends": tuple[float, float],
        "x.fixed": float,
        "x.inner-views.flip": float,
        "x.inner-views.on": bool,
        "x.inner-views.sizes": tuple[int, ...],
    }


def test_settings_reach_into_groups():
    """Flat ones by the names of their fields, others by a mapping or a whole group."""
    changed = options.make(
        Outer,
        rate=1.0,
        data="b",
        deep={"on": False},
        inner_views={"flip": 0.25, "sizes": (3,)},
    )
    assert changed == Outer(
        beside=Beside(rate=1.0, deep=Inner(on=False)),
        data="b",
        inner_views=Inner(0.25, True, (3,)),
    )
    assert options.replace(changed, {"inner_views": Inner()}).inner_views == Inner()
    assert options.replace(changed, {"rate": 2.0}).beside == Beside(rate=2.0, deep=Inner(on=False))
    assert options.replace(changed, {}) == changed


@pytest.mark.parametrize("name", ["flip", "inner", "data-dir", "from"])
def test_a_setting_that_is_no_field_is_a_programmers_mistake(name):
    with pytest.raises(AssertionError, match=name):
        options.make(Outer, **{name: 1})


def test_values_by_name():
    config = options.make(Outer, data_dir="there", data="b")
    assert options.value(config, "data") == "b"
    assert options.value(config, "data_dir") == "there"
    with pytest.raises(AttributeError, match="flip"):
        options.value(config, "flip")


def test_numbers_of_rows_in_order():
    """The vector holds the marked fields of all groups; a pair counts twice."""
    names = ["rate", "deep.flip", "ends", "inner-views.flip"]
    assert options.number_names(Outer) == names
    found = options.numbers(Outer())
    np.testing.assert_array_equal(found, np.array([3.0, 0.5, 0.1, 0.9, 0.5], np.float32))
    assert found.dtype == np.float32
    other = options.with_numbers(Outer(), np.arange(5.0))
    expected = options.make(
        Outer, rate=0.0, deep={"flip": 1.0}, ends=(2.0, 3.0), inner_views={"flip": 4.0}
    )
    assert other == expected
    with pytest.raises(AssertionError, match="6 numbers for 5"):
        options.with_numbers(Outer(), np.arange(6.0))


def test_numbers_may_be_traced():
    """A function of a configuration is one of its numbers, and can be differentiated for them."""

    def loss(numbers):
        config = options.with_numbers(Outer(), numbers)
        return config.beside.rate * config.ends[1] + config.inner_views.flip

    gradient = jax.jit(jax.grad(loss))(options.numbers(Outer()))
    np.testing.assert_allclose(gradient, [0.9, 0, 0, 3.0, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fixed": float("nan")}, "--fixed is nan; it must be a finite number"),
        ({"ends": (0.0, float("nan"))}, "--ends is nan"),
        ({"fixed": float("-inf")}, "--fixed is -inf; it must be a finite number"),
        ({"deep": {"flip": float("nan")}}, "--deep.flip is nan"),
        ({"inner_views": {"flip": 2.0}}, "--inner-views.flip is 2.0; it must be at most 1"),
        ({"deep": {"flip": 3.0}}, "--deep.flip is 3.0"),
    ],
)
def test_groups_check_themselves(settings, message):
    options.check(Outer())
    with pytest.raises(UserError) as refused:
        options.check(options.make(Outer, **settings))
    assert message in str(refused.value)


def test_code_is_named_by_groups():
    assert options.code(dqn.Config()) == {}
    env = options.make(
        dqn.Config, env="maze:Maze-v0", wrappers=("flatten", "frame_stack:4", "maze:wrap")
    )
    assert options.code(env) == {"env": ["maze:Maze-v0"], "wrappers": ["maze:wrap"]}
    wrappers = ["--wrappers", "flatten", "frame_stack:4", "maze:wrap"]
    assert options.code_flags(env) == ["--env", "maze:Maze-v0", *wrappers]
    assert options.code(options.make(dqn.Config, env="jax/CartPole-v1")) == {}


def values(kind):
    """Draw arbitrary values of a field's type."""
    if typing.get_origin(kind) is Annotated:
        return values(typing.get_args(kind)[0])
    if dataclasses.is_dataclass(kind):
        fields = dataclasses.fields(kind)
        return st.builds(kind, **{field.name: values(field.type) for field in fields})
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    fraction = st.floats(allow_nan=False)
    return {
        str: st.text(),
        int: st.integers(-(2**40), 2**40),
        float: fraction,
        bool: st.booleans(),
        tuple[int, ...]: st.lists(st.integers(0, 999)).map(tuple),
        tuple[str, ...]: st.lists(st.text()).map(tuple),
        tuple[float, float]: st.tuples(fraction, fraction),
    }[kind]


@pytest.mark.parametrize("config_class", [Outer, dqn.Config, RunConfig, barlow_twins.Config])
@given(data=st.data())
def test_a_configuration_survives_json(config_class, data):
    config = data.draw(values(config_class))
    written = json.loads(json.dumps(options.to_json(config)))
    assert options.from_json(config_class, written, "file") == config


@pytest.mark.parametrize(
    ("saved", "named"),
    [
        ({}, "checkpoint_period, compilation_cache"),
        (options.to_json(RunConfig()) | {"color": "red"}, "color"),
        ([], "RunConfig"),
    ],
)
def test_fields_of_another_version_are_refused_by_name(saved, named):
    with pytest.raises(UserError, match=named) as refused:
        options.from_json(RunConfig, saved, "there/config.json")
    assert "there/config.json" in str(refused.value)
    assert "version" in str(refused.value)


def test_groups_of_another_version_are_refused_too():
    saved = options.to_json(Outer())
    saved["beside"]["deep"] = 3
    with pytest.raises(UserError, match="Inner"):
        options.from_json(Outer, saved, "file")


def test_json_under_the_full_names_of_options():
    saved = options.to_json(options.make(Outer, ends=(0.0, 1.0)))
    flat = options.flat(saved, Outer, "x.")
    assert flat.keys() == options.names(Outer, "x.").keys()
    assert flat["x.ends"] == [0.0, 1.0]
    assert flat["x.deep.flip"] == 0.5
    assert flat["x.from"] == "last"


def test_what_differs_stands_under_its_full_name():
    config = options.make(
        dqn.Config, env="Acrobot-v1", learning_rate=1e-3, double=False, hidden_sizes=(8,)
    )
    assert options.differing(config, dqn.Config()) == {
        "env": "Acrobot-v1",
        "learning-rate": 1e-3,
        "double": False,
        "hidden-sizes": [8],
    }
    views = options.make(barlow_twins.Config, views={"flip": 0.0})
    assert options.differing(views, barlow_twins.Config()) == {"views.flip": 0.0}
    assert options.differing(config, config) == {}


def test_options_as_arguments():
    values = {"env": "a b", "double": False, "views.flip": True, "views.on": False, "sizes": [1, 2]}
    assert options.arguments(values) == [
        "--env=a b",
        "--no-double",
        "--views.flip",
        "--views.no-on",
        "--sizes",
        "1",
        "2",
    ]
