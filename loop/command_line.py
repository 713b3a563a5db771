"""The command line: an experiment's configuration and the run's options, from presets, a run to resume, and flags."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from missing_bits.errors import UserError, require
from missing_bits.loop.config import RunConfig, from_json, replace, to_json
from missing_bits.loop.config import options as option_types


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
                require(
                    i + 1 < len(rest) and not rest[i + 1].startswith("--"),
                    f"{option} needs a value.",
                )
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
      UserError: an unknown option, a malformed value, or one that differs from the run to resume.
    """
    unprefixed = Annotated[config_class, tyro.conf.arg(name="")]
    options = dataclasses.make_dataclass(
        "Options", [("config", unprefixed), ("run", RunConfig)], frozen=True
    )
    subject = dataclasses.fields(config_class)[0].name
    resume = any(a.replace("_", "-") == "--run.resume" for a in arguments)
    folder, _ = take(arguments, "--run.dir")
    saved = _saved(exp, config_class, Path(folder)) if resume and folder else None
    if saved is None:
        value, _ = take(arguments, "--" + subject)
        settings = presets.get(value, {}) if value is not None else {}
        saved_or_default = options(replace(config_class(), settings), RunConfig())
    else:
        saved_or_default = options(*saved)
    _check_names(config_class, arguments)
    chosen = _values(
        options, saved_or_default, arguments, f"python run.py --exp={exp}", config_class.__doc__
    )
    if saved is not None:
        _refuse_changes(*saved, chosen.config, chosen.run, folder)
    return chosen.config, chosen.run


def _saved(exp: str, config_class: type, folder: Path) -> tuple[Any, RunConfig]:
    require(
        (folder / "config.json").is_file(),
        f"--run.resume: there is no run in {folder} (no config.json). Name the folder of an earlier run.",
    )
    try:
        saved = json.loads((folder / "config.json").read_text())
        name, config, run = saved["exp"], saved["config"], saved["run"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--run.resume: {folder / 'config.json'} is damaged. Mend it, or begin a new run in another folder."
        ) from error
    require(name == exp, f"--run.resume: {folder} holds a run of --exp={name}, not {exp}.")
    return from_json(config_class, config), from_json(RunConfig, run)


def _values(
    options: type, default: Any, arguments: Sequence[str], prog: str, description: str | None
) -> Any:
    """What tyro makes of the arguments; of the box it draws around a mistake, the message becomes a `UserError`."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                options, args=list(arguments), default=default, prog=prog, description=description
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
    free = ("dir", "resume", "compilation_cache")
    before, after = _flat(to_json(old_config)), _flat(to_json(config))
    before |= _flat({k: v for k, v in to_json(old_run).items() if k not in free}, "run.")
    after |= _flat({k: v for k, v in to_json(run).items() if k not in free}, "run.")
    changed = [
        f"--{k.replace('_', '-')} is {after[k]}, was {before[k]}"
        for k in before
        if before[k] != after[k]
    ]
    require(
        not changed,
        f"--run.resume continues {folder} as it was begun, but {'; '.join(changed)}. "
        "Leave these out, or begin a new run.",
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of options within options under their full names, such as "views.flip"."""
    flat = {}
    for name, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat


def _check_names(config_class: type, arguments: Sequence[str]) -> None:
    types = {"help": None} | option_types(config_class) | option_types(RunConfig, "run.")
    names = list(types)
    for name, option_type in types.items():
        group, dot, last = name.rpartition(".")
        names += [f"{group}{dot}no-{last}"] if option_type is bool else []
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        name = re.sub("_", "-", argument[2:].partition("=")[0])
        if name not in names:
            close = max(names, key=lambda known: _likeness(name, known))
            raise UserError(f"--{name} is not an option. Did you mean --{close}? --help shows all.")


def _likeness(name: str, known: str) -> float:
    """How much a name is like an option's, with or without the group before its dot."""
    return max(
        difflib.SequenceMatcher(None, name, part).ratio()
        for part in (known, known.rpartition(".")[2])
    )
