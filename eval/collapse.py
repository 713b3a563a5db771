"""How much of the feature space a batch of features fills: what falls when an encoder collapses.

Shapes: N features (on one device), D of a feature.
"""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from missing_bits import collectives

_COLLAPSED = 0.1  # feature deviation below which features count as the same for all inputs


def effective_rank(features: np.ndarray) -> float:
    """The exponential of the entropy of the singular values, scaled to sum 1 (Roy & Vetterli 2007).

    Features are not centered, as in RankMe (Garrido et al. 2023): features that are the same for
    all images but for some noise count as one dimension, which centering would turn into as many as
    the noise has. On the host, in float64, where the eigenvalues of the products of features are
    exact enough.

    Args:
      features: [N, D].

    Returns:
      A number from 1 (all features are multiples of one) to min(N, D); 1 for features of zeros too.
    """
    features = np.asarray(features, np.float64)
    chex.assert_rank(features, 2)
    short = features.T if features.shape[0] > features.shape[1] else features
    squares = np.linalg.eigvalsh(short @ short.T)  # of singular values, [min(N, D)]
    values = np.sqrt(np.maximum(squares, 0))
    shares = values / max(values.sum(), np.finfo(np.float64).tiny)
    return float(np.exp(scipy.special.entr(shares).sum()))


def directions(features: jax.Array) -> jax.Array:
    """Features [N, D] of any magnitude scaled to length 1, float32; one of zeros stays as it is."""
    chex.assert_rank(features, 2)
    features = features.astype(jnp.float32)
    # First to a largest element of 1: the squares of float32 above 1e19 overflow, and those below
    # 1e-19 vanish.
    largest = jnp.max(jnp.abs(features), axis=1, keepdims=True)
    scaled = features / jnp.where(largest > 0, largest, 1.0)
    lengths = jnp.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / jnp.where(lengths > 0, lengths, 1.0)


def feature_deviation(features: jax.Array) -> jax.Array:
    """How features of length 1 deviate over all devices' batch (Chen & He 2021, section 4.1).

    Args:
      features: [N, D], of this device.

    Returns:
      A scalar: the mean over the D components, times sqrt(D). 1 where features fill the sphere
      evenly, 0 where all images have the same.
    """
    unit = directions(features)
    mean = collectives.mean(jnp.mean(unit, axis=0, keepdims=True))
    variance = collectives.mean(jnp.mean(jnp.square(unit - mean), axis=0))  # [D]
    return jnp.mean(jnp.sqrt(variance)) * jnp.sqrt(float(features.shape[1]))


def spread(features: np.ndarray) -> dict[str, float]:
    """The metrics "eval/..." of this file for features [N, D]; warns if these have collapsed."""
    deviation = float(feature_deviation(features))
    if deviation < _COLLAPSED:
        warnings.warn(
            f"The features have collapsed: their deviation is {deviation:.3f} (0: the same for all "
            "inputs; 1: spread evenly). Try a smaller learning rate or a longer warm-up.",
            stacklevel=3,
        )
    return {"eval/effective_rank": effective_rank(features), "eval/feature_deviation": deviation}
