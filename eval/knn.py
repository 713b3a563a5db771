"""Weighted k-nearest-neighbor classification of features.

Source: Wu et al. 2018, "Non-Parametric Instance Discrimination". Neighbors are looked up among
other images than those they classify: an image that is in both sets finds itself.
Shapes: N training features, M features to classify, D of a feature, k neighbors.
"""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.eval import collapse

_SIMILARITIES = 1 << 25  # that are in memory at once: 128 MiB


def accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """The share of test features whose nearest training features vote for the right class.

    A neighbor of cosine similarity s has exp(s / temperature) votes for its class (section 3.4).
    The lower class wins a draw.

    Args:
      train_features: [N, D], of any length: only directions count. Zeros are similar to none.
      train_labels: [N] integers from 0.
      test_features: [M, D].
      test_labels: [M].
      k: neighbors that vote; all N where there are fewer.
      temperature: above 0; the smaller, the more the nearest count.

    Returns:
      The accuracy, in [0, 1].
    """
    train_labels = np.asarray(train_labels)
    test_labels = np.asarray(test_labels)
    chex.assert_shape(train_labels, (len(train_features),))
    chex.assert_shape(test_labels, (len(test_features),))
    near = _nearest(train_features, test_features, k)
    closest = near.similarities[:, :1]  # has one vote, so that none overflows
    votes = jnp.exp((near.similarities - closest) / temperature)  # [M, k]
    classes = _elect(jnp.asarray(train_labels)[near.indices], votes, int(train_labels.max()) + 1)
    return float(np.mean(np.asarray(classes) == test_labels))


def neighbors(train_features: np.ndarray, query_features: np.ndarray, k: int) -> np.ndarray:
    """The indices [M, k] of the training features [N, D] that are most similar to queries [M, D].

    The nearest first; of equally similar ones, the one of the lower index.
    """
    return np.asarray(_nearest(train_features, query_features, k).indices)


class _Nearest(NamedTuple):
    """The training features nearest to each query, the nearest first."""

    similarities: jax.Array  # [M, k], cosines
    indices: jax.Array  # [M, k]


def _nearest(train: np.ndarray, queries: np.ndarray, k: int) -> _Nearest:
    chex.assert_equal_shape_suffix([train, queries], 1)
    rows = max(1, min(len(queries), _SIMILARITIES // len(train)))
    return _search(jnp.asarray(train), jnp.asarray(queries), min(k, len(train)), rows)


@partial(jax.jit, static_argnames=("k", "rows"))
def _search(train: jax.Array, queries: jax.Array, k: int, rows: int) -> _Nearest:
    """The search, `rows` queries at a time: exact, in full float32 precision on every platform."""
    train = collapse.directions(train)

    def search_one(query: jax.Array) -> _Nearest:
        return _Nearest(*jax.lax.top_k(jnp.dot(query, train.T, precision="highest"), k))

    return jax.lax.map(search_one, collapse.directions(queries), batch_size=rows)


@partial(jax.jit, static_argnames="num_classes")
def _elect(labels: jax.Array, votes: jax.Array, num_classes: int) -> jax.Array:
    """The class [M] with the most votes, of neighbors with labels [M, k] and votes [M, k]."""
    mine = labels[:, :, None] == jnp.arange(num_classes)[None, None, :]  # [M, k, classes]
    return jnp.argmax(jnp.sum(jnp.where(mine, votes[:, :, None], 0.0), axis=1), axis=1)
