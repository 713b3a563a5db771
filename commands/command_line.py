"""The command line: a method's configuration and the run's options.

They come from the row of the table, presets, a file, a run to resume, and flags, each over the ones
before.
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import tyro

from missing_bits import options
from missing_bits.errors import UserError, require
from missing_bits.experiments import COMMANDS, EXPERIMENTS, Found, find
from missing_bits.loop.config import BUDGETS, FREE, RunConfig

T = TypeVar("T")


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
    found = find(name)
    types = options.names(found.module.Config) | options.names(RunConfig, "run.")
    _check_names(types, filed, f"--config={path}: ")
    _check_names(types, flags)
    config, run = _parse(found, [*filed, *flags])
    _refuse_code_from_files(found, config, flags)
    return Chosen(found, config, run)


def _refuse_code_from_files(found: Found, config: Any, flags: Sequence[str]) -> None:
    """Only the method itself and flags may name code that is then imported."""
    default = _default(found, options.value(config, found.method.subject))
    trusted = {*options.modules(default), *flags, *(flag.partition("=")[2] for flag in flags)}
    for module in options.modules(config):
        require(
            module in trusted,
            f"{module} is code, and it is a file that names it: what a file names is not imported. "
            "Give the option as well, if you trust it.",
        )


def of_command(name: str, config_class: type[T], arguments: Sequence[str]) -> T:
    """The configuration of a command besides training.

    Args:
      name: of the command.
      config_class: a dataclass; fields without a default must be given.
      arguments: without the name.

    Raises:
      UserError: an unknown option, one that is missing, or a malformed value.
    """
    _check_names(options.names(config_class), arguments)
    if not {"--help", "-h"} & set(arguments):
        needed = [f"--{option}" for option in _required(config_class)]
        given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
        require(
            given.issuperset(needed),
            f"{name} needs {' and '.join(needed)}: {COMMANDS[name].usage}",
        )
    return _values(config_class, {}, arguments, f"python run.py {name}", config_class.__doc__)


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
    saved = _saved(found, Path(folder)) if resume and folder else None
    if saved is None:
        subject = _last(arguments, f"--{found.method.subject}")
        default = both(_default(found, subject), RunConfig())
    else:
        default = both(*saved)
    prog = f"python run.py --exp={found.name}"
    chosen = _values(both, {"default": default}, arguments, prog, config_class.__doc__)
    if saved is not None:
        _refuse_changes(*saved, chosen.config, chosen.run, folder)
    return chosen.config, chosen.run


def _default(found: Found, subject: str | None) -> Any:
    """The configuration of a row of the table, with the preset of an environment or data set."""
    config = options.replace(found.module.Config(), found.settings)
    return options.replace(config, getattr(found.module, "PRESETS", {}).get(subject, {}))


def _last(arguments: Sequence[str], option: str) -> str | None:
    """The value of an option where it is given last, which is the one that counts."""
    last = None
    value, rest = take(arguments, option)
    while value is not None:
        last = value
        value, rest = take(rest, option)
    return last


def _saved(found: Found, folder: Path) -> tuple[Any, RunConfig]:
    file = folder / "config.json"
    require(
        file.is_file(),
        f"--run.resume: there is no run in {folder} (no config.json). Name the folder of an "
        "earlier run.",
    )
    try:
        saved = json.loads(file.read_text())
        name = saved["exp"]
        config = saved["config"]
        run = saved["run"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"--run.resume: {file} is damaged. Mend it, or begin a new run in another folder."
        ) from error
    where = EXPERIMENTS[found.name].where if found.name in EXPERIMENTS else found.name
    require(
        name in (found.name, where),
        f"--run.resume: {folder} holds a run of --exp={name}, not {found.name}.",
    )
    return _read_back(found, config, run, file)


def _read_back(found: Found, config: Any, run: Any, file: Path) -> tuple[Any, RunConfig]:
    """The configurations that a run has written to `file`."""
    config = options.from_json(found.module.Config, config, str(file))
    run = options.from_json(RunConfig, run, str(file))
    types = options.names(type(config)) | options.names(RunConfig, "run.")
    for name, value in _flat(config, run).items():
        require(_fits(value, types[name]), f"{file} is damaged: --{name} is {json.dumps(value)}.")
    return config, run


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is of the type of its option."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return value in parts
    if get_origin(kind) is tuple:
        right_length = Ellipsis in parts or (isinstance(value, list) and len(value) == len(parts))
        return isinstance(value, list) and right_length and all(_fits(v, parts[0]) for v in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind or kind not in (int, bool, str)


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


def _refuse_changes(
    old_config: Any, old_run: RunConfig, config: Any, run: RunConfig, folder: str
) -> None:
    before = _kept(old_config, old_run)
    after = _kept(config, run)
    budgets = [name.replace("_", "-") for name in BUDGETS]
    changed = [
        f"--{name} is {after[name]}, was {old}"
        for name, old in before.items()
        if after[name] != old and not (name in budgets and after[name] > old)
    ]
    require(
        not changed,
        f"--run.resume continues {folder} as it was begun, but {'; '.join(changed)}. Leave "
        "these out, or begin a new run; only the budget may grow.",
    )


def _flat(config: Any, run: RunConfig) -> dict[str, Any]:
    """All options under their full names."""
    found = options.flat(options.to_json(config), type(config))
    return found | options.flat(options.to_json(run), RunConfig, "run.")


def _kept(config: Any, run: RunConfig) -> dict[str, Any]:
    """All options that a run shares with the one that it continues or repeats."""
    free = {f"run.{name.replace('_', '-')}" for name in FREE}
    return {name: value for name, value in _flat(config, run).items() if name not in free}


# Files of options.


def _from_file(path: Path, given: str | None) -> tuple[str, list[str]]:
    """The experiment, and its options as arguments, in a TOML file or an earlier run's config.json.

    Args:
      path: of the file.
      given: what the command line says of the experiment, which wins; the file alone may name one
        of the table, and no code.
    """
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
    require(
        ":" not in exp or exp == given,
        f"--config={path} is of --exp={exp}, not {given}; what a file names is not imported.",
    )
    config, run = _read_back(find(exp), read["config"], read["run"], path)
    return name, _arguments(_kept(config, run), path)


def _arguments(read: Mapping[str, Any], path: Path, prefix: str = "") -> list[str]:
    """Settings as arguments; tables become prefixes."""
    found = []
    for name, value in read.items():
        option = f"--{prefix}{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            found += _arguments(value, path, f"{prefix}{name}.")
        elif isinstance(value, bool):
            found.append(option if value else f"--{_off(option[2:])}")
        elif isinstance(value, list | tuple):
            found += [option, *map(str, value)]
        else:
            plain = isinstance(value, str | int | float)
            require(plain, f"--config={path}: {name} is {value}; give text, numbers or lists.")
            found.append(f"{option}={value}")
    return found


def _check_names(types: Mapping[str, Any], arguments: Sequence[str], where: str = "") -> None:
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
            close = max(known, key=lambda other: _likeness(name, other))
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
