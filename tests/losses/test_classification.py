"""Losses of classifiers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from missing_bits.losses import classification

# Probabilities (1/2, 1/4, 1/4) and (1/8, 1/8, 3/4), whatever is added to all logits of an example.
LOGITS = jnp.log(jnp.array([[2.0, 1.0, 1.0], [1.0, 1.0, 6.0]])) + jnp.array([[0.0], [5.0]])
LABELS = jnp.array([0, 1])


def test_cross_entropy_by_hand():
    """The labels have 1/2 and 1/8: (log 2 + log 8) / 2 = 2 log 2."""
    assert classification.cross_entropy(LOGITS, LABELS) == pytest.approx(2 * np.log(2), rel=1e-6)


def test_smoothing_spreads_a_share_of_the_target_by_hand():
    """Of 0.3, each class gets 0.1: the label has 0.8.

    First 0.8 log 2 + 0.2 log 4 = 1.2 log 2; second 0.8 log 8 + 0.1 log 8 + 0.1 log 4/3.
    """
    first = 1.2 * np.log(2)
    second = 0.9 * np.log(8) + 0.1 * np.log(4 / 3)
    found = classification.cross_entropy(LOGITS, LABELS, 0.3)
    assert found == pytest.approx((first + second) / 2, rel=1e-6)


def test_without_smoothing_it_is_the_cross_entropy_with_integer_labels_to_the_gradient():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(7, 5)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 5, 7))

    def expected(logits):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    ours = jax.value_and_grad(classification.cross_entropy)(logits, labels)
    theirs = jax.value_and_grad(expected)(logits)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ours, theirs)


def test_the_share_of_smoothing_may_be_traced():
    traced = jax.jit(classification.cross_entropy)(LOGITS, LABELS, jnp.float32(0.3))
    constant = classification.cross_entropy(LOGITS, LABELS, 0.3)
    np.testing.assert_allclose(traced, constant, rtol=1e-6)


def test_accuracy_by_hand():
    """The first is right, the second is not; of equal logits the first class is said."""
    assert classification.accuracy(LOGITS, LABELS) == 0.5
    assert classification.accuracy(LOGITS, jnp.array([0, 2])) == 1
    assert classification.accuracy(jnp.zeros((2, 3)), jnp.array([0, 1])) == 0.5


def test_logits_and_labels_must_belong_together():
    with pytest.raises(AssertionError):
        classification.cross_entropy(LOGITS, LABELS[:1])
    with pytest.raises(AssertionError):
        classification.accuracy(LOGITS, LABELS[:, None])
