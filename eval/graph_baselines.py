"""What simpler methods make of a graph: label propagation, and common neighbors for links."""

import numpy as np
import scipy.sparse

from missing_bits.eval import linear_probe

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


def linear(
    features: np.ndarray | scipy.sparse.csr_matrix,
    labels: np.ndarray,
    told: np.ndarray,
    judged: np.ndarray,
    classes: int,
    separately: bool,
) -> float:
    """The accuracy of logistic regression on features of nodes, blind to links.

    Where nodes to judge by have no feature of those told, as where each has one of its own, the
    intercept alone speaks: for the commonest class.

    Args:
      features: [N, F].
      labels: [N].
      told: numbers of the nodes to learn from.
      judged: numbers of the nodes to judge by.
      classes: number of them.
      separately: scale every feature to the same deviation; otherwise all by one number.
    """
    train = features[told]
    test = features[judged]
    if scipy.sparse.issparse(train):
        if not test[:, np.unique(train.nonzero()[1])].nnz:
            return float(np.mean(labels[judged] == np.bincount(labels[told]).argmax()))
        train = train.toarray()
        test = test.toarray()
    return linear_probe.accuracy(train, labels[told], test, labels[judged], classes, separately)


def common_neighbors(
    senders: np.ndarray, receivers: np.ndarray, count: int, pairs: np.ndarray
) -> np.ndarray:
    """How many neighbors the two ends of each pair [P, 2] share."""
    adjacency = scipy.sparse.csr_matrix(
        (np.ones(len(senders)), (receivers, senders)), shape=(count, count)
    )
    shared = adjacency[pairs[:, 0]].multiply(adjacency[pairs[:, 1]])
    return np.asarray(shared.sum(axis=1)).ravel()
