"""What may stand behind --over."""

import re

import numpy as np
import pytest

from missing_bits.errors import UserError
from missing_bits.sweeps import space
from missing_bits.sweeps.space import Axis, Range

TYPES = {
    "rate": float,
    "steps": int,
    "double": bool,
    "views.flip": bool,
    "sizes": tuple[int, ...],
    "env": str,
}


def test_values_are_kept_as_they_are_typed():
    assert space.parse("rate=1e-4, 3e-4,0.001", TYPES) == Axis("rate", ("1e-4", "3e-4", "0.001"))
    assert space.parse("--views.flip=true,false", TYPES).option == "views.flip"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate=1e-4..1e-2:log", Range(1e-4, 1e-2, True, False)),
        ("rate=-1..1", Range(-1, 1, False, False)),
        ("steps=1..8", Range(1, 8, False, True)),
    ],
)
def test_ranges(text, expected):
    assert space.parse(text, TYPES) == Axis(text.partition("=")[0], (), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate", "write --over option=value,value"),
        ("rate=", "write --over option=value,value"),
        ("rate=1,,2", "a value between two commas is empty"),
        ("rate=1,2,1", "a value stands there twice"),
        ("rate=2..1", "the range is empty"),
        ("rate=1..1", "the range is empty"),
        ("rate=0..1:log", "needs a range above 0"),
        ("rate=1..2:lin", ":lin is unknown"),
        ("steps=1..2.5", "takes whole numbers"),
        ("env=1..2", "is no single number"),
        ("sizes=1..2", "is no single number"),
    ],
)
def test_what_makes_no_sense_is_refused(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        space.parse(text, TYPES)


def test_a_grid_has_every_combination_once_in_order():
    axes = [Axis("a", ("1", "2")), Axis("b", ("x", "y", "z"))]
    found = list(space.grid(axes))
    assert [(one["a"], one["b"]) for one in found] == [
        ("1", "x"), ("1", "y"), ("1", "z"), ("2", "x"), ("2", "y"), ("2", "z"),
    ]  # fmt: skip
    assert list(space.grid([])) == [{}]
    with pytest.raises(UserError, match="a grid needs values"):
        list(space.grid([space.parse("rate=1..2", TYPES)]))


def test_corners_have_every_value_and_both_ends():
    axes = [Axis("a", ("1", "2", "3")), space.parse("rate=0.5..2", TYPES)]
    found = list(space.corners(axes))
    assert {one["a"] for one in found} == {"1", "2", "3"}
    assert {one["rate"] for one in found} == {"0.5", "2.0"}
    assert len(found) == 1 + 2 + 1


@pytest.mark.parametrize(
    "text", ["rate=1e-4..1e-2:log", "rate=-3..5", "steps=2..5", "steps=1..99:log"]
)
def test_draws_stay_inside_and_spread(text):
    axis = space.parse(text, TYPES)
    generator = np.random.default_rng(0)
    drawn = [axis.draw(generator) for _ in range(2000)]
    assert all(axis.allows(value) for value in drawn)
    numbers = np.array([float(value) for value in drawn])
    scale = np.log if axis.range.log else np.asarray
    low, high = scale(axis.range.low), scale(axis.range.high)
    middle = np.mean(scale(numbers) < (low + high) / 2)
    assert 0.42 < middle < 0.58
    if text == "steps=2..5":
        assert {*drawn} == {"2", "3", "4", "5"}
        assert min(drawn.count(value) for value in "2345") > 430


def test_settings_become_arguments():
    settings = {"rate": "1e-3", "double": "True", "views.flip": "false", "sizes": "64 32"}
    assert space.arguments(settings, TYPES) == [
        "--rate=1e-3", "--double", "--views.no-flip", "--sizes", "64", "32",
    ]  # fmt: skip
    assert space.arguments({"env": "two words"}, TYPES) == ["--env=two words"]
