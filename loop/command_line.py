"""The command line: an experiment's configuration and the run's options, from presets, a run to resume, and flags."""

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from missing_bits.errors import UserError, require
from missing_bits.loop.config import RunConfig, from_json, to_json


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
                require(i + 1 < len(rest) and not rest[i + 1].startswith("--"), f"{option} needs a value.")
                value = rest.pop(i + 1)
            del rest[i]
            return value, rest
    return None, rest


def parse(
    exp: str, config_class: type, presets: Mapping[str, Mapping[str, Any]], arguments: Sequence[str]
) -> tuple[Any, RunConfig]:
    """The configuration and the run's options.

    The first field of `config_class` names the environment or data set; if there is a preset of that name, its
    settings are the defaults. With --run.resume the defaults are those of the run that is resumed, and none may
    be changed.

    Raises:
      UserError: an unknown option, or one that differs from the run to resume.
    """
    options = dataclasses.make_dataclass(
        "Options", [("config", tyro.conf.OmitArgPrefixes[config_class]), ("run", RunConfig)], frozen=True
    )
    subject = dataclasses.fields(config_class)[0].name
    resume = any(a.replace("_", "-") == "--run.resume" for a in arguments)
    folder, _ = take(arguments, "--run.dir")
    saved = _saved(exp, config_class, Path(folder)) if resume and folder else None
    if saved is None:
        value, _ = take(arguments, "--" + subject)
        settings = presets.get(value, {}) if value is not None else {}
        saved_or_default = options(dataclasses.replace(config_class(), **settings), RunConfig())
    else:
        saved_or_default = options(*saved)
    _check_names(options, arguments)
    chosen = tyro.cli(
        options, args=list(arguments), default=saved_or_default, prog=f"python run.py --exp={exp}",
        description=config_class.__doc__,
    )  # fmt: skip
    if saved is not None:
        _refuse_changes(*saved, chosen.config, chosen.run, folder)
    return chosen.config, chosen.run


def _saved(exp: str, config_class: type, folder: Path) -> tuple[Any, RunConfig]:
    require(
        (folder / "config.json").is_file(),
        f"--run.resume: there is no run in {folder} (no config.json). Name the folder of an earlier run.",
    )
    saved = json.loads((folder / "config.json").read_text())
    require(
        saved["exp"] == exp,
        f"--run.resume: {folder} holds a run of --exp={saved['exp']}, not {exp}.",
    )
    return from_json(config_class, saved["config"]), from_json(RunConfig, saved["run"])


def _refuse_changes(old_config: Any, old_run: RunConfig, config: Any, run: RunConfig, folder: str) -> None:
    free = ("dir", "resume", "compilation_cache")
    before = to_json(old_config) | {f"run.{k}": v for k, v in to_json(old_run).items() if k not in free}
    after = to_json(config) | {f"run.{k}": v for k, v in to_json(run).items() if k not in free}
    changed = [f"--{k.replace('_', '-')} is {after[k]}, was {before[k]}" for k in before if before[k] != after[k]]
    require(
        not changed,
        f"--run.resume continues {folder} as it was begun, but {'; '.join(changed)}. Leave these out.",
    )


def _check_names(options: type, arguments: Sequence[str]) -> None:
    config_class, run_class = (field.type for field in dataclasses.fields(options))
    config_class = getattr(config_class, "__origin__", config_class)
    names = ["help"]
    for prefix, fields in (("", dataclasses.fields(config_class)), ("run.", dataclasses.fields(run_class))):
        for field in fields:
            name = field.name.replace("_", "-")
            names += [prefix + name] + ([f"{prefix}no-{name}"] if field.type is bool else [])
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        name = re.sub("_", "-", argument[2:].partition("=")[0])
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise UserError(f"--{name} is not an option. Did you mean --{close}? --help shows all.")
