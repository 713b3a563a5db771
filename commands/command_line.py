"""The command line: a method's configuration and the run's options.

They come from what the row of the table is tuned to, presets, what makes the row what it is, a
file, a run to resume, and flags, each over the ones before.
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

import tyro

from missing_bits import options
from missing_bits.errors import UserError, require
from missing_bits.experiments import COMMANDS, Found, find
from missing_bits.loop import saved
from missing_bits.loop.config import RunConfig

T = TypeVar("T")

_KNOWN_AS = {
    "lr": "learning-rate",
    "step-size": "learning-rate",
    "gamma": "discount",
    "tau": "target-tau",
    "bs": "batch-size",
    "steps": "env-steps updates",
    "total-timesteps": "env-steps updates",
    "num-steps": "env-steps updates",
    "iterations": "updates env-steps",
    "epochs": "updates env-steps",
    "buffer-size": "replay-capacity",
    "dataset": "data",
    "model": "network",
    "arch": "network",
    "env-id": "env",
    "gpus": "run.devices",
    "output-dir": "run.dir",
    "logdir": "run.dir",
    "resume": "run.resume",
}
"""What people type, and the names of the option here: the first that the method has."""


class Chosen(NamedTuple):
    """What a command line asks for."""

    found: Found
    config: Any
    run: RunConfig


def take(arguments: Sequence[str], option: str) -> tuple[str | None, list[str]]:
    """The value of `--option=value` or `--option value` (None without it), and the other arguments.

    Raises:
      UserError: the option comes without a value.
    """
    rest = list(arguments)
    for i, argument in enumerate(rest):
        head, equals, value = argument.partition("=")
        if head.replace("_", "-") == option:
            if not equals:
                given = i + 1 < len(rest) and not rest[i + 1].startswith("--")
                require(given, f"{option} needs a value.")
                value = rest.pop(i + 1)
            del rest[i]
            return value, rest
    return None, rest


def parse(arguments: Sequence[str]) -> Chosen | None:
    """What to train, its configuration and the run's options; None where no experiment is named.

    The option that a method calls its subject names the environment or data set; if there is a
    preset of that name, its settings are the defaults. With --run.resume the defaults are those of
    the run that is resumed, and only its budget may grow.

    Raises:
      UserError: an unknown option, a malformed value, or one that differs from the run to resume.
    """
    refuse_repeated(arguments)
    name, flags = take(arguments, "--exp")
    path, flags = take(flags, "--config")
    filed: list[str] = []
    if path is not None:
        name, filed = _from_file(Path(path), name)
    if name is None:
        return None
    if name == "masked_image":  # until version 0.2
        in_file, filed = take(filed, "--method")
        in_flags, flags = take(flags, "--method")
        name = in_flags or in_file or "mae"
        require(
            name in ("mae", "simmim"),
            f"--method is {name}; masked_image has become --exp=mae and --exp=simmim.",
        )
    found = find(name)
    types = options.names(found.module.Config) | options.names(RunConfig, "run.")
    check_names(types, filed, f"--config={path}: ")
    check_names(types, flags)
    config, run = _parse(found, _whole_numbers(types, [*filed, *flags]))
    refuse_code_from_files(found, config, flags)
    return Chosen(found, config, run)


def refuse_repeated(flags: Sequence[str]) -> None:
    """Raises `UserError` for an option that is given twice: one of the two would be lost."""
    given: dict[str, str] = {}
    for flag in flags:
        if not flag.startswith("--"):
            continue
        name = flag.partition("=")[0].replace("_", "-")
        group, dot, last = name[2:].rpartition(".")
        switch = f"{group}{dot}{last.removeprefix('no-')}"
        require(
            switch not in given,
            f"{given.get(switch)} and {flag} are the same option: give it once.",
        )
        given[switch] = flag


def _whole_numbers(types: Mapping[str, Any], arguments: Sequence[str]) -> list[str]:
    """The arguments with whole numbers that are written as 1e6 spelled out."""
    found = []
    kind: Any = None
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            kind = types.get(name[2:].replace("_", "-"))
            found.append(name + equals + _whole(value, kind))
        else:
            found.append(_whole(argument, kind))
    return found


def _whole(value: str, kind: Any) -> str:
    """1000000 for 1e6 or 1000000.0 where an option takes whole numbers."""
    wanted = kind is int or int in get_args(kind)
    if not wanted or value.isdigit():
        return value
    if not re.fullmatch(r"\d+(\.\d*)?([eE]\+?\d{1,2})?", value):
        return value
    number = float(value)
    return str(int(number)) if number.is_integer() else value


def refuse_code_from_files(found: Found, config: Any, flags: Sequence[str]) -> None:
    """Only the method itself and flags may name code that is then imported, each for its option."""
    default = found.config(options.value(config, found.method.subject))
    for option, code in options.code(config).items():
        trusted = {*options.code(default).get(option, []), *_given(flags, option)}
        for module in code:
            require(
                module in trusted,
                f"--{option}={module} is code, and it is a file that names it: what a file names "
                "is not imported. Give the option as well, if you trust it.",
            )


def _given(flags: Sequence[str], option: str) -> list[str]:
    """All values that flags give to an option."""
    found = []
    taking = False
    for flag in flags:
        if flag.startswith("--"):
            name, equals, value = flag[2:].partition("=")
            taking = name.replace("_", "-") == option
            found += [value] if taking and equals else []
        elif taking:
            found.append(flag)
    return found


def of_command(name: str, config_class: type[T], arguments: Sequence[str]) -> T:
    """The configuration of a command besides training.

    Args:
      name: of the command.
      config_class: a dataclass; fields without a default must be given.
      arguments: without the name.

    Raises:
      UserError: an unknown option, one that is missing, or a malformed value.
    """
    check_names(options.names(config_class), arguments)
    if not {"--help", "-h"} & set(arguments):
        needed = [f"--{option}" for option in _required(config_class)]
        given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
        require(
            given.issuperset(needed),
            f"{name} needs {' and '.join(needed)}: {COMMANDS[name].usage}",
        )
    refuse_repeated(arguments)
    arguments = _whole_numbers(options.names(config_class), arguments)
    found = _values(config_class, {}, arguments, f"python run.py {name}", config_class.__doc__)
    options.check(found)
    return found


def _required(config_class: type) -> list[str]:
    """The options without a default."""
    return [
        named.option
        for named, field in zip(
            options.fields(config_class), dataclasses.fields(config_class), strict=True
        )
        if field.default is field.default_factory  # both are MISSING
    ]


def _parse(found: Found, arguments: Sequence[str]) -> tuple[Any, RunConfig]:
    config_class = found.module.Config
    unprefixed = Annotated[config_class, tyro.conf.arg(name="")]
    parts = [("config", unprefixed), ("run", RunConfig)]
    both = dataclasses.make_dataclass("Options", parts, frozen=True)
    resume = any(argument.replace("_", "-") == "--run.resume" for argument in arguments)
    folder = _last(arguments, "--run.dir")
    before = _saved(found, Path(folder)) if resume and folder else None
    if before is None:
        subject = _last(arguments, f"--{found.method.subject}")
        default = both(found.config(subject), RunConfig())
    else:
        default = both(before.config, before.run)
    prog = f"python run.py --exp={found.name}"
    about = f"{config_class.__doc__}{_presets(found)}"
    chosen = _values(both, {"default": default}, arguments, prog, about)
    if before is not None:
        saved.refuse_changes(before, chosen.config, chosen.run, Path(folder))
    return chosen.config, chosen.run


def _saved(found: Found, folder: Path) -> saved.Saved:
    exp = saved.experiment(folder)  # first: another experiment has other options
    require(
        exp in _names_of(found),
        f"--run.resume: {folder} holds a run of --exp={exp}, not {found.name}. Name that, or "
        "another folder.",
    )
    return saved.read(found.module.Config, folder)


def _names_of(found: Found) -> tuple[str, str]:
    """What a run of this experiment may be called in its folder."""
    return found.name, f"{found.method.__module__}:{found.method.__qualname__}"


def _presets(found: Found) -> str:
    """The presets of a method as a paragraph of its help."""
    presets = getattr(found.module, "PRESETS", {})
    subject = found.method.subject
    named = ", ".join(f"--{subject}={name}" for name in presets)
    return f"\n\nWith settings of their own: {named}." if presets else ""


def _last(arguments: Sequence[str], option: str) -> str | None:
    """The value of an option where it is given last, which is the one that counts."""
    last = None
    value, rest = take(arguments, option)
    while value is not None:
        last = value
        value, rest = take(rest, option)
    return last


def _values(
    config_class: type,
    settings: Mapping[str, Any],
    arguments: Sequence[str],
    prog: str,
    description: str | None,
) -> Any:
    """What tyro makes of the arguments; of the box it draws around a mistake, a `UserError`."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                config_class,
                args=list(arguments),
                prog=prog,
                description=description,
                **settings,
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(
            f"{_message(box.getvalue())}. --help shows what each option takes."
        ) from None


def _message(box: str) -> str:
    """What a box says, without its frame and the hint below."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    said = itertools.takewhile(lambda line: not line.startswith(("──", "For full helptext")), lines)
    return " ".join(line for line in said if line.strip("-")).rstrip(".")


# Files of options.


def _from_file(path: Path, given: str | None) -> tuple[str, list[str]]:
    """The experiment, and its options as arguments, in a TOML file or an earlier run's config.json.

    Args:
      path: of the file.
      given: what the command line says of the experiment, which wins; the file alone may name one
        of the table, and no code.
    """
    require(
        not path.is_dir(),
        f"--config={path} is a folder; give a file, such as the config.json of a run.",
    )
    require(path.is_file(), f"--config={path}: there is no such file.")
    is_toml = path.suffix == ".toml"
    try:
        read = tomllib.loads(path.read_text()) if is_toml else json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"--config={path} cannot be read: {' '.join(str(error).split())}."
        ) from error
    require(
        isinstance(read, dict),
        f"--config={path} holds no options: give a .toml file, or the config.json of a run.",
    )
    exp = read.pop("exp", None)
    require(
        isinstance(exp, str | None), f"--config={path}: exp is {exp}; it must be a name in quotes."
    )
    require(
        given is not None or exp is None or ":" not in exp,
        f"--config={path} names the code {exp}: what a file names is not imported. Give "
        f"--exp={exp} as well, if you trust it.",
    )
    name = exp if given is None else given
    if is_toml:
        require(name is not None, f"--config={path} names no experiment; give --exp as well.")
        return name, _arguments(read, path)
    require(
        exp is not None and set(read) >= {"config", "run"},
        f"--config={path} is no config.json of a run, and no .toml file.",
    )
    found = find(name if ":" in exp else exp)
    require(
        ":" not in exp or exp in _names_of(found),
        f"--config={path} is of --exp={exp}, not {given}; what a file names is not imported.",
    )
    config, run = saved.read_back(found.module.Config, read["config"], read["run"], path)
    return name, _arguments(saved.kept(config, run), path)


def _arguments(read: Mapping[str, Any], path: Path, prefix: str = "") -> list[str]:
    """Settings as arguments; tables become prefixes."""
    found = []
    for name, value in read.items():
        option = f"--{prefix}{name.replace('_', '-')}"
        require(option != "--help", f"--config={path}: help is for the command line.")
        if isinstance(value, Mapping):
            found += _arguments(value, path, f"{prefix}{name}.")
        elif isinstance(value, bool):
            found.append(option if value else f"--{_off(option[2:])}")
        elif isinstance(value, list | tuple):
            words = list(map(str, value))
            strange = [word for word in words if word.startswith("--")]
            require(not strange, f"--config={path}: {name} holds the option {strange[:1]}.")
            found += [option, *words]
        else:
            plain = isinstance(value, str | int | float)
            require(plain, f"--config={path}: {name} is {value}; give text, numbers or lists.")
            found.append(f"{option}={value}")
    return found


def check_names(types: Mapping[str, Any], arguments: Sequence[str], where: str = "") -> None:
    """Raises `UserError` for an option that does not exist, or a switch with a value.

    Args:
      types: of the options that exist.
      arguments: what was given.
      where: what stands before the message.
    """
    switches = {name: _off(name) for name, option_type in types.items() if option_type is bool}
    known = ["help", *types, *switches.values()]
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        name, equals, _ = argument[2:].partition("=")
        name = name.replace("_", "-")
        if name not in known:
            meanings = _KNOWN_AS.get(name.rpartition(".")[2], "").split()
            meant = next((option for option in meanings if option in known), name)
            close = max(known, key=lambda other: _likeness(meant, other))
            raise UserError(
                f"{where}--{name} is not an option. Did you mean --{close}? --help shows all."
            )
        require(
            not equals or name not in switches,
            f"{where}{argument}: a switch takes no value; write --{name} or "
            f"--{switches.get(name)}.",
        )


def _off(name: str) -> str:
    """The option that turns a switch off, such as "views.no-flip"."""
    group, dot, last = name.rpartition(".")
    return f"{group}{dot}no-{last}"


def _likeness(name: str, known: str) -> float:
    """How much a name is like an option's, with or without the group before its dot."""
    parts = (known, known.rpartition(".")[2])
    return max(difflib.SequenceMatcher(None, name, part).ratio() for part in parts)
