"""A method that is trained in no time: it rolls down a bowl.

x' = x - step_size * (x - bottom) + noise of the seed,   eval/height = (x - bottom)^2
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from missing_bits.errors import require
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.metrics import Metrics
from missing_bits.options import row
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """A bowl."""

    data: str = "bowl"
    """What is learned from."""
    updates: int = 90
    """Budget."""
    step_size: float = row(0.1)
    """Share of the way to the bottom; beyond 2 it leaves the bowl."""
    bottom: int = 3
    """Where the bottom is."""
    noisy: bool = True
    """Whether there is noise."""
    sizes: tuple[int, ...] = (1, 2)
    """Nothing."""


PRESETS: dict[str, dict[str, Any]] = {}
TINY: dict[str, Any] = {"updates": 9}


class State(NamedTuple):
    """Where it is."""

    x: jax.Array


class Bowl:
    """The method."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Thirteen brings bad luck."""
        require(config.bottom != 13, "--bottom is 13; give another number.")

    @staticmethod
    def resources(config: Config) -> Evaluation:
        """The height above the bottom; at bottom 14 it cannot be told."""

        def scores(learned: jax.Array, key: jax.Array, last: bool) -> dict[str, float]:
            if config.bottom == 14:
                raise ValueError("no bottom in sight")
            return {"eval/height": float(jnp.square(learned - config.bottom))}

        def pictures(learned: jax.Array, seed: int, folder: Path) -> None:
            (folder / "picture.txt").write_text(f"{float(learned)}")

        return Evaluation(Headline("eval/height", False), scores, pictures=pictures)

    def __init__(self, config: Config, resources: Evaluation) -> None:
        self.config = config
        self.evaluation = resources
        self.plan = Plan(config.updates, evaluations=9, shared=(), small=True)

    def source(self, seeds: Sequence[int]) -> None:
        """It needs no batches."""

    def init(self, key: jax.Array) -> State:
        """Somewhere."""
        return State(jax.random.uniform(key) + 10)

    def step(self, state: State, batch: None, key: jax.Array) -> tuple[State, Metrics]:
        """A step down."""
        noise = 0.01 * jax.random.normal(key) if self.config.noisy else 0.0
        x = state.x - self.config.step_size * (state.x - self.config.bottom) + noise
        return State(x), {"train/loss": x}

    def learned(self, state: State) -> jax.Array:
        """Where it is."""
        return state.x
