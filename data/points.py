"""Mixtures of Gaussians on the plane, on which a generator shows how many modes it finds.

As in Srivastava et al. 2017 (VEEGAN, section 4): a ring of 8, and a grid of 5 x 5.
"""

import hashlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Points:
    """A mixture of equally likely, round Gaussians."""

    name: str
    centers: np.ndarray  # float32 [M, 2]
    deviation: float
    """Of each, along each axis."""

    @property
    def digest(self) -> str:
        """SHA-256 of all numbers."""
        return hashlib.sha256(self.centers.tobytes() + str(self.deviation).encode()).hexdigest()

    @property
    def reach(self) -> float:
        """A coordinate beyond which there is next to nothing."""
        return float(1.3 * np.abs(self.centers).max())

    def draw(self, key: jax.Array, count: int) -> jax.Array:
        """Points, float32 [count, 2]."""
        mode_key, noise_key = jax.random.split(key)
        modes = jax.random.randint(mode_key, (count,), 0, len(self.centers))
        noise = jax.random.normal(noise_key, (count, 2))
        return jnp.asarray(self.centers)[modes] + self.deviation * noise


def _ring() -> Points:
    """8 on a circle of radius 1, of deviation 0.01."""
    angles = 2 * np.pi * np.arange(8) / 8
    return Points("ring", np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32), 0.01)


def _grid() -> Points:
    """25, two apart, of deviation 0.05."""
    line = np.arange(-4, 5, 2, dtype=np.float32)
    return Points("grid", np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2), 0.05)


NAMES = ("ring", "grid")


def load(name: str) -> Points:
    """The mixture of a name: "ring" or "grid"."""
    return {"ring": _ring, "grid": _grid}[name]()
