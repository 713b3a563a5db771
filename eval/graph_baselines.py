"""What simpler methods make of a graph: label propagation, and common neighbors for links."""

import numpy as np
import scipy.sparse

_KEPT = 0.9  # of what neighbors say (Zhou et al. 2004: alpha)
_STEPS = 50


def propagated(
    senders: np.ndarray, receivers: np.ndarray, labels: np.ndarray, told: np.ndarray, classes: int
) -> np.ndarray:
    """Guesses [N] by label propagation (Zhou et al. 2004): F = a S F + (1 - a) Y.

    S is the adjacency matrix, normalized by roots of degrees. A node that nothing reaches gets the
    commonest class of those told.

    Args:
      senders: [E].
      receivers: [E].
      labels: [N].
      told: numbers of the nodes whose label is known.
      classes: number of them.
    """
    count = len(labels)
    adjacency = scipy.sparse.csr_matrix(
        (np.ones(len(senders)), (receivers, senders)), shape=(count, count)
    )
    degrees = np.asarray(adjacency.sum(axis=1)).ravel()
    root = scipy.sparse.diags(1 / np.sqrt(np.maximum(degrees, 1)))
    spread = root @ adjacency @ root
    known = np.zeros((count, classes))
    known[told, labels[told]] = 1
    found = known
    for _ in range(_STEPS):
        found = _KEPT * (spread @ found) + (1 - _KEPT) * known
    commonest = np.bincount(labels[told], minlength=classes).argmax()
    return np.where(found.any(axis=1), found.argmax(axis=1), commonest)


def common_neighbors(
    senders: np.ndarray, receivers: np.ndarray, count: int, pairs: np.ndarray
) -> np.ndarray:
    """How many neighbors the two ends of each pair [P, 2] share."""
    adjacency = scipy.sparse.csr_matrix(
        (np.ones(len(senders)), (receivers, senders)), shape=(count, count)
    )
    shared = adjacency[pairs[:, 0]].multiply(adjacency[pairs[:, 1]])
    return np.asarray(shared.sum(axis=1)).ravel()
