"""Which modes of a known mixture a generator finds, and how well.

Shapes: M modes, n samples.
"""

from typing import NamedTuple

import chex
import numpy as np

_NEAR = 3.0  # deviations
_FEWEST = 20  # samples near it with which a mode counts as found


class Modes(NamedTuple):
    """How samples lie among the modes of a mixture."""

    modes: int
    """Modes with at least 20 samples within 3 deviations."""
    share_near: float
    """The share of samples within 3 deviations of a mode; 0.989 for true ones on the plane."""
    mode_deviation: float
    """The deviation of those from the mean of those of their mode, over the true deviation; about
    0.974 for true ones, which are cut off likewise; 0 where none are near."""
    mode_kl: float
    """The divergence of the shares of modes, each sample counted for the nearest, from equal
    shares, in nats."""

    @property
    def metrics(self) -> dict[str, float]:
        """All under their names, such as "eval/modes"."""
        return {f"eval/{name}": float(value) for name, value in self._asdict().items()}


def count(samples: np.ndarray, centers: np.ndarray, deviation: float) -> Modes:
    """How samples [n, 2] lie among modes with centers [M, 2] and a deviation along each axis."""
    samples = np.asarray(samples, np.float64)
    chex.assert_rank([samples, centers], 2)
    distances = np.linalg.norm(samples[:, None] - centers[None], axis=2)  # [n, M]
    nearest = distances.argmin(axis=1)
    near = distances.min(axis=1) <= _NEAR * deviation
    found = np.bincount(nearest[near], minlength=len(centers))
    squares = 0.0
    for mode in np.flatnonzero(found):
        mine = samples[near & (nearest == mode)]
        squares += np.square(mine - mine.mean(axis=0)).sum()
    numbers = max(1, samples.shape[1] * near.sum())
    shares = np.bincount(nearest, minlength=len(centers)) / len(samples)
    there = shares[shares > 0]
    return Modes(
        modes=int((found >= _FEWEST).sum()),
        share_near=float(near.mean()),
        mode_deviation=float(np.sqrt(squares / numbers) / deviation),
        mode_kl=float((there * np.log(there * len(centers))).sum()),
    )
