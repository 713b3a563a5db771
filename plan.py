"""How a method wants to be run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How a method wants to be run."""

    budget: int
    """In units."""
    unit: str = "updates"
    """What the budget and all periods count, "updates" or "env_steps": the option that holds it."""
    per_update: int = 1
    """Units that one update stands for."""
    evaluations: int = 4
    """How many evaluations of a run are worth their time."""
    early: bool = False
    """Whether there is also one before the first update, and two within the first period: where
    they are cheap, and most is learned early."""
    shared: tuple[str, ...] = ("batch_size",)
    """Options that are sizes of what devices share: each must be a multiple of their number."""
    small: bool = False
    """Whether an update is so little arithmetic that sharing it among CPU threads slows it down."""
    shown: tuple[str, ...] = ("train/loss",)
    """Metrics that the progress line shows, after the headline."""
    drawn: tuple[str, ...] = ()
    """Metrics whose curves are drawn together at the end of a run, besides the headline's own."""
    behind: bool = False
    """Whether a host's environments are acted in by the parameters of one update before, while the
    update is computed."""
    owned: tuple[str, ...] = ()
    """Fields of the state that belong to one device, such as a replay. All others are the same on
    devices that share a seed, and are stored once."""
