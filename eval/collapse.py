"""How much of the feature space a batch of features fills: what falls when an encoder collapses.

Shapes: N features (on one device), D of a feature.
"""

import chex
import jax
import jax.numpy as jnp

from missing_bits import collectives


def effective_rank(features: jax.Array) -> jax.Array:
    """The exponential of the entropy of the singular values, scaled to sum 1 (Roy & Vetterli 2007).

    Features are not centred, as in RankMe (Garrido et al. 2023): features that are the same for all images but for
    some noise count as one dimension, which centring would turn into as many as the noise has.

    Args:
      features: [N, D], all of them on one device.

    Returns:
      A scalar from 1 (all features are multiples of one) to min(N, D); 1 for features of zeros too.
    """
    chex.assert_rank(features, 2)
    values = jnp.linalg.svd(features.astype(jnp.float32), compute_uv=False)  # [min(N, D)]
    shares = values / jnp.maximum(jnp.sum(values), jnp.finfo(jnp.float32).tiny)
    return jnp.exp(jnp.sum(jax.scipy.special.entr(shares)))


def feature_deviation(features: jax.Array) -> jax.Array:
    """The deviation over the batch of all devices of features of length 1 (Chen & He 2021, section 4.1).

    Args:
      features: [N, D], of this device.

    Returns:
      A scalar: the mean over the D components, times sqrt(D). 1 where features fill the sphere evenly, 0 where all
      images have the same.
    """
    chex.assert_rank(features, 2)
    features = features.astype(jnp.float32)
    lengths = jnp.linalg.norm(features, axis=1, keepdims=True)
    directions = features / jnp.maximum(lengths, 1e-12)  # shorter ones count as zeros: they have no direction
    mean = collectives.mean(jnp.mean(directions, axis=0, keepdims=True))
    variance = collectives.mean(jnp.mean(jnp.square(directions - mean), axis=0))  # [D]
    return jnp.mean(jnp.sqrt(variance)) * jnp.sqrt(float(features.shape[1]))
