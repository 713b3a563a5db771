"""What the loop knows of a method: an immutable state and a few functions on it.

A method is written for one seed and one device's share of the work. The loop jits it, scans several
updates per call, maps it over devices, vmaps it over seeds and settings, checkpoints its state and
resumes it (docs/decisions/0002 and 0006).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import numpy as np

from missing_bits.envs.steps import Acted
from missing_bits.eval.evaluation import Evaluation
from missing_bits.metrics import Metrics
from missing_bits.plan import Plan

Config = Any  # a frozen dataclass (options.py)
Resources = Any  # what rows share: data, environments, networks, jitted functions
State = Any  # a NamedTuple of arrays
Learned = Any  # the leaves of a state that acting and evaluation need
Batch = Any  # a pytree of arrays, or None where the update needs none


class Source(Protocol):
    """What feeds the updates from the host."""

    inner_steps: int
    """The most updates that one jitted call may make."""

    def next(self, act: Callable[..., Acted], update: int) -> Batch:
        """The batch of update `update`, leaves [seeds, global batch, ...].

        Args:
          act: what the current states answer to observations, see `envs.actor.Actor`; only sources
            of `Acting` methods may call it.
          update: index from 0. Without `act`, the batch is a pure function of the seeds and this.
        """

    def metrics(self) -> list[dict[str, float]]:
        """For each seed, what only the host knows of the time since the last call."""

    def save(self) -> dict[str, np.ndarray]:
        """What `restore` needs to continue exactly here; empty where `next` is pure."""

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Continues where `save` was called."""

    def close(self) -> None:
        """Lets go of processes and files."""


class ActingSource(Source, Protocol):
    """What feeds the updates of an `Acting` method from the host."""

    def waits(self, update: int) -> bool:
        """Whether the batch of update `update` needs further actions."""


@runtime_checkable
class DeviceSource(Protocol):
    """What feeds the updates from within: environments that are stepped inside the program."""

    def init(self, memory: Callable[[int], Any], key: jax.Array) -> Any:
        """Pure: this device's share of the source's state; `memory(n)` is an agent's for n envs."""

    def next(
        self, state: Any, act: Callable[..., Acted], key: jax.Array
    ) -> tuple[Any, Batch, Metrics]:
        """Pure: the new state, this device's share of an update's batch, and what to log."""


class Experiment(Protocol):
    """A method with its configuration and resources."""

    subject: ClassVar[str]
    """The option that names what is learned from, "env" or "data"; presets go by its value."""
    plan: Plan
    evaluation: Evaluation

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run; groups check themselves."""

    @staticmethod
    def resources(config: Config) -> Resources:
        """What rows share: all that is loaded, described, jitted or remembered.

        It reads no number that rows may differ in (`options.row`).
        """

    def __init__(self, config: Config, resources: Resources) -> None:
        """Builds closures only: it runs inside programs, with traced numbers in `config`."""

    def source(self, seeds: Sequence[int]) -> Source | DeviceSource | None:
        """What feeds the updates of these seeds; None where `step` needs no batch."""

    def init(self, key: jax.Array) -> State:
        """Pure: the state before the first update, this device's share."""

    def step(self, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
        """Pure: one update, with collectives for what devices share."""

    def learned(self, state: State) -> Learned:
        """The leaves that acting, evaluation and pictures need; never the replay. Only selects."""


@runtime_checkable
class Acting(Protocol):
    """A method whose source asks the current state for actions."""

    def memory(self, envs: int) -> Any:
        """What the agent remembers before it has seen anything, leaves [envs, ...]; or ()."""

    def act(
        self,
        learned: Learned,
        memory: Any,
        observation: jax.Array,
        reset: jax.Array,
        env_steps: jax.Array,
        key: jax.Array,
    ) -> Acted:
        """Pure: actions, what is remembered from here on, and what else goes into the steps.

        Args:
          learned: parameters.
          memory: leaves [E, ...].
          observation: [E, ...].
          reset: bool [E], whether an observation is the first of its episode.
          env_steps: int32, environment steps made so far.
          key: a random key, the same on every device.
        """


@runtime_checkable
class HandingOver(Protocol):
    """A method that leaves something behind: a policy, an encoder or a generator."""

    def hand_over(self, learned: Learned, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes what is handed over and what is known of it to the file `path`."""


@runtime_checkable
class Pretraining(HandingOver, Protocol):
    """A method that leaves behind an encoder for others to start from."""

    data_digest: str
    """Hash of the data it learns from and is evaluated on."""


@runtime_checkable
class Generating(HandingOver, Protocol):
    """A method that leaves behind a generator of images."""

    data_digest: str
    """Hash of the data it learns from and is evaluated on."""
    generator: Any
    """The generator that it trains (`generative.generators`)."""
