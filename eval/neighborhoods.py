"""How far generated features lie among real ones, and cover them, by balls around each feature.

The ball around a feature reaches to the k-th nearest of its own set. Precision and recall:
Kynkaanniemi et al. 2019, equations 1 and 2, k = 3. Density and coverage: Naeem et al. 2020,
equations 3 and 4, k = 5. Precision is of what is generated, coverage of what is real.
Shapes: N real and M generated features, D of a feature.
"""

from typing import NamedTuple

import chex
import numpy as np

_ROWS = 1_000  # features whose distances to all others are in memory at once


class Overlap(NamedTuple):
    """How two sets of features overlap."""

    precision: float
    """The share of generated features that lie in the ball of a real one."""
    recall: float
    """The share of real features that lie in the ball of a generated one."""
    density: float
    """How many balls of real features a generated one lies in, over k; 1 for equal sets, on
    average."""
    coverage: float
    """The share of real features in whose ball a generated one lies."""

    @property
    def metrics(self) -> dict[str, float]:
        """All under their names, such as "eval/precision"."""
        return {f"eval/{name}": value for name, value in self._asdict().items()}


def overlap(real: np.ndarray, generated: np.ndarray, near: int = 3, dense: int = 5) -> Overlap:
    """How generated features [M, D] and real ones [N, D] overlap.

    Args:
      real: more than `near` and `dense` of them.
      generated: likewise.
      near: k of precision and recall.
      dense: k of density and coverage.
    """
    chex.assert_rank([real, generated], 2)
    real = np.asarray(real, np.float64)
    generated = np.asarray(generated, np.float64)
    real_radii = _radii(real, (near, dense))  # [2, N]
    generated_radii = _radii(generated, (near,))[0]  # [M]
    precise = 0
    inside = 0
    recalled = np.zeros(len(real), bool)
    covered = np.zeros(len(real), bool)
    for start in range(0, len(generated), _ROWS):
        rows = slice(start, start + _ROWS)
        squares = _squares(generated[rows], real)  # [rows, N]
        precise += np.count_nonzero((squares <= real_radii[0][None]).any(axis=1))
        in_dense = squares <= real_radii[1][None]
        inside += np.count_nonzero(in_dense)
        covered |= in_dense.any(axis=0)
        recalled |= (squares <= generated_radii[rows][:, None]).any(axis=0)
    return Overlap(
        precision=precise / len(generated),
        recall=float(recalled.mean()),
        density=inside / (dense * len(generated)),
        coverage=float(covered.mean()),
    )


def _radii(features: np.ndarray, ks: tuple[int, ...]) -> np.ndarray:
    """The squared distances [len(ks), N] of features [N, D] to the k-th nearest others."""
    assert len(features) > max(ks), f"{len(features)} features have no {max(ks)} neighbors"
    found = []
    for start in range(0, len(features), _ROWS):
        squares = _squares(features[start : start + _ROWS], features)
        # The nearest of all is the feature itself.
        found.append(np.partition(squares, ks, axis=1)[:, list(ks)].T)
    return np.concatenate(found, axis=1)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances [n, N] of features [n, D] and [N, D]."""
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None]
    return np.maximum(squares - 2 * a @ b.T, 0)
