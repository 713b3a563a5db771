"""Losses of classifiers, and how often they are right.

Shapes: B examples, K classes.
"""

import chex
import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """The mean cross-entropy of labels under logits, in nats.

    With smoothing, a share of each target is spread evenly over all classes (Szegedy et al. 2016,
    "Rethinking the Inception Architecture", section 7).

    Args:
      logits: [B, K].
      labels: [B] integers in [0, K).
      smoothing: the share, in [0, 1); it may be traced.
    """
    chex.assert_rank([logits, labels], [2, 1])
    chex.assert_equal_shape_prefix([logits, labels], 1)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[1]), smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits, targets))


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of labels [B] that have the largest of their logits [B, K]; of equals the first."""
    chex.assert_rank([logits, labels], [2, 1])
    chex.assert_equal_shape_prefix([logits, labels], 1)
    return jnp.mean((jnp.argmax(logits, axis=1) == labels).astype(jnp.float32))
