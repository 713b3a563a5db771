"""Options of the run, the same for every experiment, and the way to and from `config.json`."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from missing_bits.errors import UserError, require

C = TypeVar("C")


@dataclass(frozen=True)
class RunConfig:
    """Options of the run. Periods count in the unit of the budget: environment steps for agents, else updates."""

    dir: str = ""
    """Run folder; empty for a new one under runs/."""
    seed: int = 0
    """Seed of everything random, from 0 up."""
    num_seeds: int = 1
    """Seeds trained at once: seed, seed + 1, ..., sharded over the devices."""
    devices: int = 1
    """Devices to use: they share one seed's environments and batch, or several seeds between them."""
    resume: bool = False
    """Continue the run in --run.dir where its last checkpoint stands."""
    inner_steps: int = 0
    """Updates per jitted call; 0 for the most that serves the experiment (1 where the host acts in between)."""
    log_period: int = 0
    """Budget units between rows of metrics; 0 for a fiftieth of the budget."""
    eval_period: int = 0
    """Budget units between evaluations; 0 for what suits the experiment. The end is always evaluated."""
    checkpoint_period: int = 0
    """Budget units between checkpoints; 0 for a fifth of the budget. The end is always saved."""
    compilation_cache: bool = True
    """Keep compiled programs in ~/.cache/missing_bits, so that the next start is quick."""

    def with_periods(self, budget: int, evaluations: int) -> "RunConfig":
        """This configuration with the periods that are 0 filled in for a budget and so many evaluations."""
        chosen = {"log_period": 50, "eval_period": evaluations, "checkpoint_period": 5}
        filled = {
            name: getattr(self, name) or -(-budget // parts) for name, parts in chosen.items()
        }
        return dataclasses.replace(self, **filled)


def check(run: RunConfig) -> None:
    """Raises `UserError` for run options that make no sense."""
    for name in ("num_seeds", "devices"):
        require(
            getattr(run, name) >= 1,
            f"--run.{name.replace('_', '-')} is {getattr(run, name)}; it must be at least 1.",
        )
    for name in ("seed", "inner_steps", "log_period", "eval_period", "checkpoint_period"):
        require(
            getattr(run, name) >= 0,
            f"--run.{name.replace('_', '-')} is {getattr(run, name)}; it must not be negative.",
        )
    require(
        not run.resume or bool(run.dir),
        "--run.resume needs --run.dir: the folder of the run to continue.",
    )


def replace(config: C, settings: Mapping[str, Any]) -> C:
    """The configuration with some fields changed; a mapping changes fields of a configuration within it."""
    changed = {
        k: replace(getattr(config, k), v) if isinstance(v, Mapping) else v
        for k, v in settings.items()
    }
    return dataclasses.replace(config, **changed)


def options(config_class: type, prefix: str = "") -> dict[str, type]:
    """Every option of a configuration, such as "batch-size" or "views.flip", and its type."""
    found = {}
    for field in dataclasses.fields(config_class):
        name = prefix + field.name.replace("_", "-")
        found |= (
            options(field.type, f"{name}.")
            if dataclasses.is_dataclass(field.type)
            else {name: field.type}
        )
    return found


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as a JSON object."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(config_class: type[C], values: dict[str, Any]) -> C:
    """The configuration that `to_json` wrote.

    Raises:
      UserError: the fields are not those of `config_class`: another version of the suite wrote them.
    """
    types = {field.name: field.type for field in dataclasses.fields(config_class)}
    if strange := set(types) ^ set(values):
        raise UserError(
            f"config.json and this version of the suite differ in the options {', '.join(sorted(strange))}. "
            "Resume with the version that began the run."
        )

    def read(field_type: type, value: Any) -> Any:
        if dataclasses.is_dataclass(field_type):
            return from_json(field_type, value)
        return tuple(value) if isinstance(value, list) else value

    return config_class(**{name: read(types[name], value) for name, value in values.items()})
