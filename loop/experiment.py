"""What the loop knows of a method: an immutable state and a few functions on it.

A method is written for one seed and one device's share of the work. The loop jits it, scans several updates per
call, maps it over devices, vmaps it over seeds, checkpoints its state and resumes it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import numpy as np

State = Any  # a NamedTuple of arrays
Batch = Any  # a pytree of arrays, or None where the update makes its own data
Metrics = Mapping[str, jax.Array]


class Source(Protocol):
    """The host's side of an experiment: what feeds the updates."""

    inner_steps: int
    """The most updates that one jitted call may make; 1 where batches depend on the state."""

    def next(self, act: Callable[..., np.ndarray], update: int) -> Batch:
        """The batch of update `update`, leaves [seeds, global batch, ...].

        Args:
          act: what the current state answers to observations: `Acting.act`, mapped over seeds; only sources of
            `Acting` experiments may call it.
          update: index from 0. Without `act`, the batch is a pure function of the seeds and this index.
        """

    def metrics(self) -> list[dict[str, float]]:
        """For each seed, what only the host knows."""

    def save(self) -> dict[str, np.ndarray]:
        """What `restore` needs to continue exactly here; empty where `next` is pure."""

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Continues where `save` was called."""

    def close(self) -> None:
        """Lets go of processes and files."""


class Experiment(Protocol):
    """A method with its configuration."""

    unit: ClassVar[str]
    """What the budget counts: "env_steps" or "updates"."""
    headline: str
    """The evaluation metric that stands for the run; larger is better."""
    split_over_devices: ClassVar[Sequence[str]]
    """Config fields that are sizes of what devices share: each must be a multiple of their number."""
    small: bool
    """Whether an update is so little arithmetic that sharing it among CPU threads would slow it down."""
    config: Any
    budget: int
    """In units."""
    unit_per_update: int
    """Units that one update stands for."""
    evaluations: int
    """How many evaluations of a run are worth their time."""

    def source(self, seeds: Sequence[int]) -> Source | None:
        """What feeds the updates of these seeds; None where `step` makes its own data."""

    def init(self, key: jax.Array) -> State:
        """Pure: the state before the first update, this device's share."""

    def step(self, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
        """Pure: one update, with collectives for what devices share."""

    def learned(self, state: State) -> Any:
        """The leaves of the state that acting, evaluation and pictures need; never the replay. It only selects."""

    def evaluate(self, learned: Any, key: jax.Array) -> dict[str, float]:
        """Metrics named "eval/..."; depends on its arguments alone and leaves training untouched."""

    def pictures(self, learned: Any, seed: int, folder: Path) -> None:
        """Draws what the method has to show into the run folder, at the end of a run."""


@runtime_checkable
class Pretraining(Protocol):
    """An experiment that leaves behind an encoder for others to start from."""

    data_digest: str
    """Hash of the data it learns from and is evaluated on."""

    def baselines(self, key: jax.Array) -> dict[str, float]:
        """What the same evaluation says of simpler encoders: metrics named "baseline/...", made once at the end."""

    def hand_over(self, learned: Any, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the encoder and what is known of it to the file `path`."""


@runtime_checkable
class Acting(Protocol):
    """An experiment whose source asks the current state for actions."""

    def act(
        self, learned: Any, observation: jax.Array, env_steps: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Pure: actions [E] for observations [E, ...] after `env_steps` environment steps."""
