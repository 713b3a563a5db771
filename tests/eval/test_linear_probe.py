"""The linear probe: what it minimizes, what it is blind to, and what it can and cannot tell apart."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from missing_bits.eval import linear_probe


def clouds(n, d, classes, spread, seed=0):
    """Draw features [n, d] around a center per class, strongly correlated, and their labels."""
    rng = np.random.default_rng(seed)
    centers = spread * np.random.default_rng(99).normal(size=(classes, d))
    mix = np.random.default_rng(98).normal(size=(d, d)) @ np.diag(np.geomspace(1, 0.03, d))
    labels = rng.integers(0, classes, n)
    return ((centers[labels] + rng.normal(size=(n, d))) @ mix).astype("f"), labels


@pytest.fixture
def data():
    """Return train and test features and labels of three overlapping clouds, and the number of classes."""
    return *clouds(400, 12, 3, 0.5), *clouds(300, 12, 3, 0.5, seed=1), 3


def nothing(d, classes):
    return linear_probe.Affine(jnp.zeros((d, classes)), jnp.zeros(classes))


@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-4])
def test_the_objective_reaches_scikit_learns_minimum(regularization):
    """scikit-learn minimizes C sum of losses + |w|^2 / 2: ours, divided by the regularization, at C = 1 / (N reg)."""
    features, labels = clouds(600, 10, 4, 0.5)
    features = (features - features.mean(0)) / features.std(0)
    theirs = LogisticRegression(C=1 / (600 * regularization), max_iter=2000, tol=1e-6).fit(
        features, labels
    )
    ours = linear_probe.minimize(
        jnp.array(features), jnp.array(labels), nothing(10, 4), jnp.array([regularization])
    )
    minimum = log_loss(labels, theirs.predict_proba(features)) + regularization / 2 * np.sum(
        theirs.coef_**2
    )
    w, b = np.asarray(ours.w[0], float), np.asarray(ours.b[0], float)
    logits = features @ w + b
    loss = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(600), labels])
    assert loss + regularization / 2 * np.sum(w**2) == pytest.approx(minimum, abs=1e-3)


def test_a_path_of_regularizations_ends_where_each_alone_does():
    features, labels = clouds(300, 6, 3, 0.5)
    features, labels = jnp.array((features - features.mean(0)) / features.std(0)), jnp.array(labels)
    path = linear_probe.minimize(features, labels, nothing(6, 3), jnp.array([1.0, 0.1, 0.01]))
    alone = linear_probe.minimize(features, labels, nothing(6, 3), jnp.array([0.01]))
    np.testing.assert_allclose(path.w[2], alone.w[0], atol=0.03)
    sizes = jnp.sum(jnp.square(path.w), axis=(1, 2))
    assert sizes[0] < sizes[1] < sizes[2], "the weaker the regularization, the larger the weights"


def test_separable_classes_are_told_apart_and_random_labels_are_not():
    train, labels = clouds(400, 12, 3, 8.0)
    test, test_labels = clouds(300, 12, 3, 8.0, seed=1)
    assert linear_probe.accuracy(train, labels, test, test_labels, 3) == 1
    chance, sigma = 1 / 3, np.sqrt(1 / 3 * 2 / 3 / 300)
    random, random_test = (
        np.random.default_rng(2).integers(0, 3, 400),
        np.random.default_rng(3).integers(0, 3, 300),
    )
    assert abs(linear_probe.accuracy(train, random, test, random_test, 3) - chance) < 3 * sigma


def test_the_scale_and_the_origin_of_a_feature_do_not_matter(data):
    train, labels, test, test_labels, classes = data
    scale = np.geomspace(1e-3, 1e3, 12)[None, :].astype("f")
    accuracy = linear_probe.accuracy(train, labels, test, test_labels, classes)
    assert 0.5 < accuracy < 1
    moved = [x * scale + 5 * scale for x in (train, test)]
    assert linear_probe.accuracy(moved[0], labels, moved[1], test_labels, classes) == pytest.approx(
        accuracy, abs=0.01
    )


def test_test_labels_change_nothing_but_the_score(data):
    """Scored against other labels, the same guesses: over all constant labels, each guess is right exactly once."""
    train, labels, test, test_labels, classes = data
    scores = [
        linear_probe.accuracy(train, labels, test, np.full_like(test_labels, c), classes)
        for c in range(classes)
    ]
    assert sum(scores) == pytest.approx(1)
    order = np.random.default_rng(0).permutation(len(test))
    there = linear_probe.accuracy(train, labels, test, test_labels, classes)
    assert linear_probe.accuracy(
        train, labels, test[order], test_labels[order], classes
    ) == pytest.approx(there)
    alone = linear_probe.accuracy(train, labels, test[:1], test_labels[:1], classes)
    assert alone in (0, 1), "and one test image does"


def test_the_regularization_is_chosen_for_unseen_images(monkeypatch):
    """Few images, many features, labels nearly random: alone, the weakest regularization has far larger weights."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 100)), rng.integers(0, 2, 60)
    features[:, 0] += 2.0 * labels
    features = jnp.array(features - features.mean(0), jnp.float32)
    chosen = linear_probe.fit(features, jnp.array(labels), 2)
    norms = []
    for regularization in linear_probe._REGULARIZATIONS:
        monkeypatch.setattr(linear_probe, "_REGULARIZATIONS", (regularization,))
        norms.append(float(jnp.linalg.norm(linear_probe.fit(features, jnp.array(labels), 2).w)))
    assert float(jnp.linalg.norm(chosen.w)) < norms[-1] / 2
    assert np.all(np.diff(norms) > 0)


def test_constant_features_classes_without_images_and_fewer_images_than_features():
    train, labels = clouds(30, 50, 2, 6.0)
    test, test_labels = clouds(40, 50, 2, 6.0, seed=1)
    train[:, :3], test[:, :3] = [0, 0.1, -1e6], [1e6, 3, 0]  # never seen to vary: they say nothing
    assert linear_probe.accuracy(train, labels + 1, test, test_labels + 1, 4) > 0.9
    lonely = np.concatenate(
        [labels[:-1], [3]]
    )  # in the held-out fifth or in the rest, never in both
    assert linear_probe.accuracy(train, lonely, test, test_labels, 4) > 0.8
