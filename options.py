"""What a configuration is: frozen dataclasses whose fields are options of the command line.

A field that is itself a dataclass is a group: its fields are options with its name before them
(`--optimizer.name`), or without a prefix if the field's type is `Flat[Group]`. A group may have a
method `check(prefix)` that raises `UserError` for settings that make no sense, and `modules()`, the
values in it that name code to be imported.

Numbers that only arithmetic meets are marked with `row`: rows of one program may differ in them,
because they are arguments of the program and no part of it.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin

import numpy as np
import tyro

from missing_bits.errors import UserError, require

T = TypeVar("T")

Flat = Annotated[T, tyro.conf.arg(name="")]
"""The type of a group whose fields are options without a prefix."""


def row(default: Any) -> Any:
    """A field for a number, or several, that may differ between rows of one program.

    Args:
      default: a float, or a tuple of floats.
    """
    return dataclasses.field(default=default, metadata={"row": True})


@dataclass(frozen=True)
class _Field:
    """A field of a configuration as an option or a group of options."""

    name: str  # of the field
    option: str  # on the command line; empty for a flat group
    type: Any  # without annotations
    is_row: bool

    @property
    def is_group(self) -> bool:
        return dataclasses.is_dataclass(self.type)

    def prefix(self, before: str) -> str:
        """What stands before the options of this group."""
        return f"{before}{self.option}." if self.option else before


def fields(config_class: type) -> Iterator[_Field]:
    """The fields of a configuration, in order."""
    for field in dataclasses.fields(config_class):
        field_type = field.type
        option = field.name.replace("_", "-")
        if get_origin(field_type) is Annotated:
            field_type, *marks = get_args(field_type)
            named = [mark.name for mark in marks if getattr(mark, "name", None) is not None]
            option = named[0] if named else option
        yield _Field(field.name, option, field_type, bool(field.metadata.get("row")))


def names(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Every option, such as "batch-size" or "views.flip", and its type."""
    found: dict[str, Any] = {}
    for field in fields(config_class):
        if field.is_group:
            found |= names(field.type, field.prefix(prefix))
        else:
            found[prefix + field.option] = field.type
    return found


def value(config: Any, option: str) -> Any:
    """The value of a top-level or flat option, by its field's name."""
    for field in fields(type(config)):
        mine = getattr(config, field.name)
        if field.name == option:
            return mine
        if field.is_group and not field.option and _has(field.type, option):
            return value(mine, option)
    raise AttributeError(f"{type(config).__name__} has no option {option}")


def _has(config_class: type, option: str) -> bool:
    return any(
        field.name == option or (field.is_group and not field.option and _has(field.type, option))
        for field in fields(config_class)
    )


def replace(config: T, settings: Mapping[str, Any]) -> T:
    """The configuration with some settings changed.

    Args:
      config: the configuration.
      settings: by the name of the field; those of flat groups stand beside the configuration's own.
      A mapping changes
        fields of a group.
    """
    changes: dict[str, Any] = {}
    left = dict(settings)
    for field in fields(type(config)):
        mine = getattr(config, field.name)
        if field.name in left:
            new = left.pop(field.name)
            nested = isinstance(new, Mapping) and field.is_group
            changes[field.name] = replace(mine, new) if nested else new
        elif field.is_group and not field.option:
            inner = {name: left.pop(name) for name in list(left) if _has(field.type, name)}
            if inner:
                changes[field.name] = replace(mine, inner)
    assert not left, f"{type(config).__name__} has no {', '.join(left)}"
    return dataclasses.replace(config, **changes)


def make(config_class: type[T], **settings: Any) -> T:
    """The default configuration with some settings changed, as `replace` takes them."""
    return replace(config_class(), settings)


def check(config: Any, prefix: str = "") -> None:
    """Raises `UserError` for a number that is not finite, and for what a group objects to."""
    for field in fields(type(config)):
        mine = getattr(config, field.name)
        if field.is_group:
            check(mine, field.prefix(prefix))
            continue
        for number in mine if isinstance(mine, tuple) else (mine,):
            finite = not isinstance(number, float) or math.isfinite(number)
            require(finite, f"--{prefix}{field.option} is {number}; it must be a finite number.")
            fits = not isinstance(number, int) or abs(number) < 2**31
            require(fits, f"--{prefix}{field.option} is {number}; it must be below {2**31:,}.")
    objects = getattr(config, "check", None)
    if objects is not None:
        objects(prefix)


def code(config: Any, prefix: str = "") -> dict[str, list[str]]:
    """The values that name code to be imported, such as "my_package.envs:Maze-v0", by option."""
    found: dict[str, list[str]] = {}
    named = config.modules() if hasattr(config, "modules") else []
    for field in fields(type(config)):
        mine = getattr(config, field.name)
        if field.is_group:
            found |= code(mine, field.prefix(prefix))
            continue
        values = mine if isinstance(mine, tuple) else (mine,)
        imported = [value for value in values if value in named]
        if imported:
            found[prefix + field.option] = imported
    return found


def code_flags(config: Any) -> list[str]:
    """The options of a configuration that name code, as arguments of a command line."""
    values = flat(to_json(config), type(config))
    found = []
    for option in code(config):
        mine = values[option]
        found += [f"--{option}", *(mine if isinstance(mine, list) else [mine])]
    return found


# Numbers of rows.


def number_names(config_class: type, prefix: str = "") -> list[str]:
    """The options that hold numbers of rows, in the order of `numbers`; each comes once."""
    found = []
    for field in fields(config_class):
        if field.is_group:
            found += number_names(field.type, field.prefix(prefix))
        elif field.is_row:
            found.append(prefix + field.option)
    return found


def numbers(config: Any) -> np.ndarray:
    """The numbers of rows, float32 [N]."""
    return np.array(_numbers(config), np.float32)


def _numbers(config: Any) -> list[float]:
    found = []
    for field in fields(type(config)):
        mine = getattr(config, field.name)
        if field.is_group:
            found += _numbers(mine)
        elif field.is_row:
            found += mine if isinstance(mine, tuple) else [mine]
    return found


def with_numbers(config: T, vector: Any) -> T:
    """The configuration with other numbers of rows.

    Args:
      config: the configuration.
      vector: float32 [N], in the order of `numbers`; traced or not.
    """
    changed, taken = _with_numbers(config, vector, 0)
    assert taken == len(vector), f"{len(vector)} numbers for {taken}"
    return changed


def _with_numbers(config: T, vector: Any, start: int) -> tuple[T, int]:
    changes: dict[str, Any] = {}
    for field in fields(type(config)):
        mine = getattr(config, field.name)
        if field.is_group:
            changes[field.name], start = _with_numbers(mine, vector, start)
        elif field.is_row and isinstance(mine, tuple):
            changes[field.name] = tuple(vector[start + i] for i in range(len(mine)))
            start += len(mine)
        elif field.is_row:
            changes[field.name] = vector[start]
            start += 1
    return dataclasses.replace(config, **changes), start


# To and from config.json.


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as a JSON object; groups are objects within."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(config_class: type[T], values: Mapping[str, Any], found_in: str) -> T:
    """The configuration that `to_json` wrote.

    Args:
      config_class: of the configuration.
      values: what was read.
      found_in: the file, for messages.

    Raises:
      UserError: the fields are not those of `config_class`: another version of the suite wrote
      them.
    """
    types = {field.name: field for field in fields(config_class)}
    strange = set(types) ^ set(values) if isinstance(values, Mapping) else {config_class.__name__}
    if strange:
        raise UserError(
            f"{found_in} and this version of the suite differ in the options "
            f"{', '.join(sorted(strange))}. Use the version that wrote it."
        )
    read = {
        name: from_json(types[name].type, mine, found_in) if types[name].is_group else _plain(mine)
        for name, mine in values.items()
    }
    return config_class(**read)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def flat(values: Mapping[str, Any], config_class: type, prefix: str = "") -> dict[str, Any]:
    """The values of a configuration as JSON under the full names of their options."""
    found: dict[str, Any] = {}
    for field in fields(config_class):
        mine = values[field.name]
        if field.is_group:
            found |= flat(mine, field.type, field.prefix(prefix))
        else:
            found[prefix + field.option] = mine
    return found


def differing(config: T, default: T) -> dict[str, Any]:
    """The options of a configuration that another one of its class has otherwise, as JSON."""
    before = flat(to_json(default), type(default))
    after = flat(to_json(config), type(config))
    return {name: mine for name, mine in after.items() if mine != before[name]}


def arguments(values: Mapping[str, Any]) -> list[str]:
    """Options as arguments of a command line, not quoted.

    Args:
      values: JSON under the full names of options: text, numbers, switches or lists of these.
    """
    found = []
    for name, mine in values.items():
        if isinstance(mine, bool):
            group, dot, last = name.rpartition(".")
            found.append(f"--{name}" if mine else f"--{group}{dot}no-{last}")
        elif isinstance(mine, list):
            found += [f"--{name}", *map(str, mine)]
        else:
            found.append(f"--{name}={mine}")
    return found
