"""The command line: a method's configuration and the run's options.

They come from the row of the table, presets, a file, a run to resume, and flags, each over the ones before.
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
from typing import Annotated, Any, NamedTuple

import tyro

from missing_bits import options
from missing_bits.errors import UserError, require
from missing_bits.experiments import ALIASES, EXPERIMENTS, Found, find
from missing_bits.loop.config import BUDGETS, FREE, RunConfig


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

    The option that a method calls its subject names the environment or data set; if there is a preset
    of that name, its settings are the defaults. With --run.resume the defaults are those of the run
    that is resumed, and only its budget may grow.

    Raises:
      UserError: an unknown option, a malformed value, or one that differs from the run to resume.
    """
    name, rest = take(arguments, "--exp")
    path, rest = take(rest, "--config")
    filed = _from_file(Path(path)) if path is not None else _Filed(None, [])
    if name is None:
        name = filed.exp
        require(
            name is None or ":" not in name,
            f"--config={path} names the code {name}: what a file names is not imported. Give --exp="
            f"{name} as well, if you trust it.",
        )
    if name is None:
        return None
    if name == "masked_image":  # until version 0.2
        kind, rest = take(rest, "--method")
        name = kind or "mae"
    found = find(name)
    config, run = _parse(found, [*filed.arguments, *rest])
    for module in options.modules(config):
        require(
            any(module in argument for argument in rest),
            f"{module} is code, and it is a file that names it: what a file names is not imported. "
            "Give the option as well, if you trust it.",
        )
    return Chosen(found, config, run)


def _parse(found: Found, arguments: Sequence[str]) -> tuple[Any, RunConfig]:
    config_class = found.module.Config
    unprefixed = Annotated[config_class, tyro.conf.arg(name="")]
    parts = [("config", unprefixed), ("run", RunConfig)]
    both = dataclasses.make_dataclass("Options", parts, frozen=True)
    resume = any(argument.replace("_", "-") == "--run.resume" for argument in arguments)
    folder, _ = take(arguments, "--run.dir")
    saved = _saved(found, Path(folder)) if resume and folder else None
    if saved is None:
        subject, _ = take(arguments, f"--{found.method.subject}")
        preset = getattr(found.module, "PRESETS", {}).get(subject, {})
        config = options.replace(config_class(), found.settings)
        default = both(options.replace(config, preset), RunConfig())
    else:
        default = both(*saved)
    _check_names(options.names(config_class) | options.names(RunConfig, "run."), arguments)
    chosen = values(
        both, default, arguments, f"python run.py --exp={found.name}", config_class.__doc__
    )
    if saved is not None:
        _refuse_changes(*saved, chosen.config, chosen.run, folder)
    return chosen.config, chosen.run


def _saved(found: Found, folder: Path) -> tuple[Any, RunConfig]:
    file = folder / "config.json"
    require(
        file.is_file(),
        f"--run.resume: there is no run in {folder} (no config.json). Name the folder of an earlier "
        "run.",
    )
    try:
        saved = json.loads(file.read_text())
        name = saved["exp"]
        config = saved["config"]
        run = saved["run"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--run.resume: {file} is damaged. Mend it, or begin a new run in another folder."
        ) from error
    where = EXPERIMENTS[found.name].where if found.name in EXPERIMENTS else found.name
    require(
        name in (found.name, where),
        f"--run.resume: {folder} holds a run of --exp={name}, not {found.name}.",
    )
    config = options.from_json(found.module.Config, config, str(file))
    return config, options.from_json(RunConfig, run, str(file))


def values(
    both: type, default: Any, arguments: Sequence[str], prog: str, description: str | None
) -> Any:
    """What tyro makes of the arguments; of the box it draws around a mistake, a `UserError`."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                both, args=list(arguments), default=default, prog=prog, description=description
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        lines = [line.strip("│ ") for line in box.getvalue().splitlines()[1:]]
        message = " ".join(itertools.takewhile(lambda line: not line.startswith("──"), lines))
        raise UserError(f"{message.rstrip('.')}. --help shows what each option takes.") from None


def _refuse_changes(
    old_config: Any, old_run: RunConfig, config: Any, run: RunConfig, folder: str
) -> None:
    before = _all(old_config, old_run)
    after = _all(config, run)
    grown = [name for name in BUDGETS if name in before and after[name] > before[name]]
    changed = [
        f"--{name.replace('_', '-')} is {after[name]}, was {before[name]}"
        for name in before
        if before[name] != after[name] and name not in grown
    ]
    require(
        not changed,
        f"--run.resume continues {folder} as it was begun, but {'; '.join(changed)}. Leave these out, "
        "or begin a new run; only the budget may grow.",
    )


def _all(config: Any, run: RunConfig) -> dict[str, Any]:
    """All options that a resumed run must share with the one before, but for dashes in names."""
    free = {f"run.{name}" for name in FREE}
    found = options.flat(options.to_json(config), type(config))
    found |= options.flat(options.to_json(run), RunConfig, "run.")
    found = {name.replace("-", "_"): value for name, value in found.items()}
    return {name: value for name, value in found.items() if name not in free}


# Files of options.


class _Filed(NamedTuple):
    """What a file of options says."""

    exp: str | None
    arguments: list[str]


def _from_file(path: Path) -> _Filed:
    """The options in a TOML file, or in the config.json of an earlier run, as arguments."""
    require(path.is_file(), f"--config={path}: there is no such file.")
    try:
        if path.suffix == ".toml":
            read = tomllib.loads(path.read_text())
        else:
            read = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"--config={path} cannot be read: {' '.join(str(error).split())}."
        ) from error
    require(isinstance(read, dict), f"--config={path} holds no options.")
    exp = read.pop("exp", None)
    require(exp is None or isinstance(exp, str), f"--config={path}: exp is {exp!r}, not a name.")
    if path.suffix == ".toml":
        return _Filed(exp, _arguments(read, path))
    name = exp if exp is None or ":" not in exp else None
    require(
        name is not None and (ALIASES.get(name, name) in EXPERIMENTS),
        f"--config={path} is of no experiment in the table; only such files and TOML are read.",
    )
    config_class = find(name).module.Config
    config = options.from_json(config_class, read.get("config", {}), str(path))
    run = options.from_json(RunConfig, read.get("run", {}), str(path))
    arguments = _arguments(_all_but_free(config, run), path)
    return _Filed(exp, arguments)


def _all_but_free(config: Any, run: RunConfig) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in _all(config, run).items()}


def _arguments(read: Mapping[str, Any], path: Path, prefix: str = "") -> list[str]:
    """Settings as arguments; tables become prefixes."""
    found = []
    for name, value in read.items():
        option = f"--{prefix}{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            found += _arguments(value, path, f"{prefix}{name}.")
        elif isinstance(value, bool):
            group, dot, last = option[2:].rpartition(".")
            found.append(option if value else f"--{group}{dot}no-{last}")
        elif isinstance(value, list | tuple):
            found += [option, *map(str, value)]
        else:
            plain = isinstance(value, str | int | float)
            require(plain, f"--config={path}: {name} is {value}; give text, numbers or lists.")
            found.append(f"{option}={value}")
    return found


def _check_names(types: Mapping[str, Any], arguments: Sequence[str]) -> None:
    known = ["help", *types]
    for name, option_type in types.items():
        group, dot, last = name.rpartition(".")
        known += [f"{group}{dot}no-{last}"] if option_type is bool else []
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        name = argument[2:].partition("=")[0].replace("_", "-")
        if name not in known:
            close = max(known, key=lambda other: _likeness(name, other))
            raise UserError(f"--{name} is not an option. Did you mean --{close}? --help shows all.")


def _likeness(name: str, known: str) -> float:
    """How much a name is like an option's, with or without the group before its dot."""
    parts = (known, known.rpartition(".")[2])
    return max(difflib.SequenceMatcher(None, name, part).ratio() for part in parts)
