"""The configuration of a run as its folder holds it: read back, compared with what is asked for."""

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

from missing_bits import options
from missing_bits.errors import UserError, require
from missing_bits.loop.config import BUDGETS, FREE, RunConfig

if TYPE_CHECKING:  # it brings JAX along, which reading needs not
    from missing_bits.loop.experiment import Experiment


class Saved(NamedTuple):
    """What a run's config.json says."""

    exp: str
    config: Any
    run: RunConfig


def read(config_class: type, folder: Path) -> Saved:
    """The configuration of the run in a folder.

    Raises:
      UserError: there is none, it is damaged, or of another version or method.
    """
    exp, config, run = _written(folder)
    return Saved(exp, *read_back(config_class, config, run, folder / "config.json"))


def experiment(folder: Path) -> str:
    """The name of the experiment whose run is in a folder.

    Raises:
      UserError: there is none, or it is damaged.
    """
    return _written(folder).exp


def _written(folder: Path) -> Saved:
    """What config.json holds, as it stands there."""
    file = folder / "config.json"
    require(
        file.is_file(),
        f"--run.resume: there is no run in {folder} (no config.json). Name the folder of an "
        "earlier run.",
    )
    try:
        saved = json.loads(file.read_text())
        return Saved(saved["exp"], saved["config"], saved["run"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"--run.resume: {file} is damaged. Mend it, or begin a new run in another folder."
        ) from error


def read_back(config_class: type, config: Any, run: Any, file: Path) -> tuple[Any, RunConfig]:
    """The configurations that a run has written to `file`."""
    config = options.from_json(config_class, config, str(file))
    run = options.from_json(RunConfig, run, str(file))
    types = options.names(config_class) | options.names(RunConfig, "run.")
    for name, value in _flat(config, run).items():
        require(_fits(value, types[name]), f"{file} is damaged: --{name} is {json.dumps(value)}.")
    return config, run


def refuse_changes(saved: Saved, config: Any, run: RunConfig, folder: Path) -> None:
    """Raises `UserError` where a run that is resumed differs in more than a larger budget."""
    before = kept(saved.config, saved.run)
    after = kept(config, run)
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


def chosen(config: Any, experiment: "Experiment") -> dict[str, Any]:
    """The options that differ from the method's defaults for its environment or data.

    With them in config.json, those who list runs need not import the method.
    """
    subject = options.value(config, experiment.subject)
    module = importlib.import_module(type(experiment).__module__)
    preset = getattr(module, "PRESETS", {}).get(subject, {})
    return options.differing(config, options.make(type(config), **preset))


def kept(config: Any, run: RunConfig) -> dict[str, Any]:
    """All options that a run shares with the one that it continues or repeats."""
    free = {f"run.{name.replace('_', '-')}" for name in FREE}
    return {name: value for name, value in _flat(config, run).items() if name not in free}


def _flat(config: Any, run: RunConfig) -> dict[str, Any]:
    """All options under their full names."""
    found = options.flat(options.to_json(config), type(config))
    return found | options.flat(options.to_json(run), RunConfig, "run.")


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
