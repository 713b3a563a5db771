"""What a sweep varies: options with their values, or ranges to draw values from.

    --over learning-rate=1e-4,3e-4,1e-3     values
    --over learning-rate=1e-4..1e-2:log     a range, even in its logarithm

Values are text as on the command line; what they mean is the business of the experiment's options.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin

import numpy as np

from missing_bits.errors import require

Settings = dict[str, str]  # the value of each option that is varied, as text

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:\w+)?")
_DIGITS = 4  # that a drawn number is rounded to, so that it can be typed again


class Range(NamedTuple):
    """Numbers to draw from, both ends included."""

    low: float
    high: float
    log: bool
    """Whether each power of ten is equally likely, rather than each number."""
    whole: bool
    """Whether only whole numbers count."""

    def text(self, number: float) -> str:
        """A number of the range as an option's value, rounded to four digits."""
        if self.whole:
            return str(round(number))
        return repr(min(max(float(f"{number:.{_DIGITS}g}"), self.low), self.high))

    def at(self, share: float) -> str:
        """The value below which a share in [0, 1) of the range lies."""
        if self.whole and not self.log:
            return str(int(self.low + math.floor(share * (self.high - self.low + 1))))
        if self.log:
            return self.text(self.low * (self.high / self.low) ** share)
        return self.text(self.low + share * (self.high - self.low))


class Axis(NamedTuple):
    """An option and what it may be."""

    option: str
    values: tuple[str, ...]
    """To choose from; empty for a range."""
    range: Range | None = None

    def draw(self, generator: np.random.Generator) -> str:
        """A value, each equally likely."""
        if self.range is None:
            return self.values[int(generator.integers(len(self.values)))]
        return self.range.at(float(generator.random()))

    def allows(self, value: str) -> bool:
        """Whether the axis has this value."""
        if self.range is None:
            return value in self.values
        number = float(value) if re.fullmatch(_NUMBER, value) else math.nan
        return self.range.low <= number <= self.range.high

    def ends(self) -> tuple[str, ...]:
        """Values that must be possible if all are: every one, or both ends of a range."""
        if self.range is None:
            return self.values
        return self.range.text(self.range.low), self.range.text(self.range.high)


def parse(text: str, types: Mapping[str, Any]) -> Axis:
    """The axis that `--over text` describes.

    Args:
      text: "option=value,value,..." or "option=low..high", with ":log" behind for a range that is
        even in its logarithm.
      types: of the options that exist.

    Raises:
      UserError: there is no such option, nothing to choose from, or a range of what is no number.
    """
    name, equals, values = text.partition("=")
    option = name.removeprefix("--").replace("_", "-")
    require(
        bool(equals) and bool(values.strip()),
        f"--over {text}: write --over option=value,value or --over option=low..high.",
    )
    kind = types.get(option)
    found = _RANGE.fullmatch(values)
    if found is None:
        return Axis(option, _values(option, values))
    low = float(found[1])
    high = float(found[2])
    require(
        kind in (int, float),
        f"--over {text}: --{option} is no single number, so that it has no range; list its values.",
    )
    require(low < high, f"--over {text}: the range is empty; write low..high.")
    require(
        found[3] in (None, ":log"), f"--over {text}: {found[3]} is unknown; write :log or nothing."
    )
    is_log = found[3] is not None
    require(not is_log or low > 0, f"--over {text}: the logarithm needs a range above 0.")
    is_whole = kind is int
    require(
        not is_whole or (low.is_integer() and high.is_integer()),
        f"--over {text}: --{option} takes whole numbers.",
    )
    return Axis(option, (), Range(low, high, is_log, is_whole))


def _values(option: str, text: str) -> tuple[str, ...]:
    values = tuple(value.strip() for value in text.split(","))
    require(all(values), f"--over {option}={text}: a value between two commas is empty.")
    require(
        len(set(values)) == len(values),
        f"--over {option}={text}: a value stands there twice; each setting is trained once.",
    )
    return values


def grid(axes: Sequence[Axis]) -> Iterator[Settings]:
    """All combinations, the last axis varying fastest.

    Raises:
      UserError: an axis is a range.
    """
    for axis in axes:
        require(
            axis.range is None,
            f"--over {axis.option} is a range, and a grid needs values: list them, or draw from it "
            "with --sampler=random or --sampler=tpe and --trials=N.",
        )
    if not axes:
        yield {}
        return
    for rest in grid(axes[:-1]):
        for value in axes[-1].values:
            yield {**rest, axes[-1].option: value}


def corners(axes: Sequence[Axis]) -> Iterator[Settings]:
    """Settings in which every value stands once, beside the first of the other axes."""
    first = {axis.option: axis.ends()[0] for axis in axes}
    yield first
    for axis in axes:
        for value in axis.ends()[1:]:
            yield {**first, axis.option: value}


def arguments(settings: Settings, types: Mapping[str, Any]) -> list[str]:
    """Settings as arguments of a command line."""
    found = []
    for option, value in settings.items():
        kind = types.get(option)
        if kind is bool and value.lower() in ("true", "false"):
            group, dot, last = option.rpartition(".")
            found.append(f"--{option}" if value.lower() == "true" else f"--{group}{dot}no-{last}")
        elif get_origin(kind) is tuple and len(get_args(kind)) > 0:
            found += [f"--{option}", *value.split()]
        else:
            found.append(f"--{option}={value}")
    return found
