"""Options of the run, the same for every method."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from missing_bits.errors import require
from missing_bits.numeric import ceil_div

# May differ from the run that is resumed.
FREE = ("dir", "resume", "from", "on_nan", "compilation_cache")
BUDGETS = ("env_steps", "updates")  # may be larger than in the run that is resumed


@dataclass(frozen=True)
class RunConfig:
    """Options of the run. Periods count in the unit of the budget: environment steps or updates."""

    dir: str = ""
    """Run folder; empty for a new one under runs/."""
    seed: int = 0
    """Seed of everything random, from 0 up."""
    num_seeds: int = 1
    """Seeds trained at once: seed, seed + 1, ..., sharded over the devices."""
    devices: int = 1
    """Devices to use: they share one seed's environments and batch, or several seeds."""
    resume: bool = False
    """Continue the run in --run.dir where its last checkpoint stands. A larger budget than the run
    was begun with extends it: schedules then are those of the larger budget from there on."""
    start: Annotated[Literal["last", "best"], tyro.conf.arg(name="from")] = "last"
    """Checkpoint to resume from: the last, or the best that was saved at an evaluation; later ones
    are set aside."""
    inner_steps: int = 0
    """Updates per jitted call; 0 for the most that serves (1 where the host acts in between)."""
    log_period: int = 0
    """Budget units between rows of metrics, means over them; 0 for a fiftieth of the budget."""
    eval_period: int = 0
    """Budget units between evaluations; 0 for what suits the method. The end always counts."""
    checkpoint_period: int = 0
    """Budget units between checkpoints; 0 for a fifth of the budget. The end is always saved."""
    on_nan: Literal["stop", "warn"] = "stop"
    """What to do where a metric or a parameter is not finite: stop, with the last checkpoint before
    it, or train on."""
    compilation_cache: bool = True
    """Keep compiled programs in ~/.cache/missing_bits, so that the next start is quick; by run.py
    alone, not by the library."""

    def with_periods(self, budget: int, evaluations: int) -> "RunConfig":
        """This configuration with the periods that are 0 filled in for a budget."""
        parts = {"log_period": 50, "eval_period": evaluations, "checkpoint_period": 5}
        filled = {name: getattr(self, name) or ceil_div(budget, n) for name, n in parts.items()}
        return dataclasses.replace(self, **filled)

    def check(self, prefix: str) -> None:
        """Raises `UserError` for options that make no sense."""
        for name in ("num_seeds", "devices"):
            value = getattr(self, name)
            option = prefix + name.replace("_", "-")
            require(value >= 1, f"--{option} is {value}; it must be at least 1.")
        for name in ("seed", "inner_steps", "log_period", "eval_period", "checkpoint_period"):
            value = getattr(self, name)
            option = prefix + name.replace("_", "-")
            require(value >= 0, f"--{option} is {value}; it must not be negative.")
        require(
            not self.resume or bool(self.dir),
            f"--{prefix}resume needs --{prefix}dir: the folder of the run to continue.",
        )
        require(
            self.resume or self.start == "last",
            f"--{prefix}from={self.start} says where to resume; it needs --{prefix}resume.",
        )
