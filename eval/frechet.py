"""The Frechet distance of two sets of features, each taken for a Gaussian (Heusel et al. 2017).

With means m and covariances S of the two sets (Dowson and Landau 1982):

    |m_a - m_b|^2 + trace(S_a + S_b - 2 (S_a S_b)^(1/2))

It depends on what the features are and, as covariances of few features err in one direction, on
how many there are: only figures of the same features and numbers can be compared. On the host, in
float64.
Shapes: N, M features, D of a feature.
"""

from typing import NamedTuple

import chex
import numpy as np


class Gaussian(NamedTuple):
    """A normal distribution."""

    mean: np.ndarray  # float64 [D]
    covariance: np.ndarray  # float64 [D, D]


def gaussian(features: np.ndarray) -> Gaussian:
    """The mean of features [N, D] and their covariance, with N - 1 below."""
    features = np.asarray(features, np.float64)
    chex.assert_rank(features, 2)
    mean = features.mean(axis=0)
    centered = features - mean[None]
    return Gaussian(mean, centered.T @ centered / max(1, len(features) - 1))


def between(a: Gaussian, b: Gaussian) -> float:
    """The distance of two Gaussians, in squared units of the features."""
    chex.assert_equal_shape([a.covariance, b.covariance])
    # S_a S_b has the eigenvalues of R S_b R with R the root of S_a, which is symmetric.
    root = _root(a.covariance)
    shared = np.linalg.eigvalsh(root @ b.covariance @ root)
    spread = np.trace(a.covariance) + np.trace(b.covariance)
    spread -= 2 * np.sqrt(np.maximum(shared, 0)).sum()
    return float(np.square(a.mean - b.mean).sum() + max(0.0, spread))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The distance of the features [N, D] and [M, D] of two sets."""
    return between(gaussian(a), gaussian(b))


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance [D, D]."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))[None]) @ vectors.T
