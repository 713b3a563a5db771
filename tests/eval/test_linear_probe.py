"""The linear probe: what it minimizes, what it is blind to, what it can and cannot tell apart."""

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
    """Return train and test features and labels of three clouds, and the number of classes."""
    return *clouds(400, 12, 3, 0.5), *clouds(300, 12, 3, 0.5, seed=1), 3


def standardized(n, d, classes):
    features, labels = clouds(n, d, classes, 0.5)
    return jnp.array((features - features.mean(0)) / features.std(0)), jnp.array(labels)


def minimize(features, labels, classes, *regularizations, weights=None):
    """Return the minimizers for some regularizations, each found from the one before it."""
    count, d = features.shape
    weights = np.full(count, 1 / count, np.float32) if weights is None else weights
    start = linear_probe.Affine(jnp.zeros((d, classes)), jnp.zeros(classes))
    path = [start]
    for regularization in regularizations:
        path.append(linear_probe.minimize(features, labels, weights, path[-1], regularization))
    return path[1:]


@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-4])
def test_the_objective_reaches_scikit_learns_minimum(regularization):
    """scikit-learn minimizes C sum of losses + |w|^2 / 2.

    This is ours, divided by the regularization, at C = 1 / (N regularization).
    """
    features, labels = clouds(600, 10, 4, 0.5)
    features = (features - features.mean(0)) / features.std(0)
    theirs = LogisticRegression(C=1 / (600 * regularization), max_iter=2000, tol=1e-6).fit(
        features, labels
    )
    (ours,) = minimize(jnp.array(features), jnp.array(labels), 4, regularization)
    minimum = log_loss(labels, theirs.predict_proba(features)) + regularization / 2 * np.sum(
        theirs.coef_**2
    )
    w = np.asarray(ours.w, float)
    logits = features @ w + np.asarray(ours.b, float)
    loss = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(600), labels])
    assert loss + regularization / 2 * np.sum(w**2) == pytest.approx(minimum, abs=1e-3)


def test_a_path_of_regularizations_ends_where_each_alone_does():
    features, labels = standardized(600, 10, 4)
    path = minimize(features, labels, 4, 1.0, 0.1, 0.01)
    (alone,) = minimize(features, labels, 4, 0.01)
    np.testing.assert_allclose(path[2].w, alone.w, atol=0.03)
    strong, middle, weak = (float(jnp.sum(jnp.square(model.w))) for model in path)
    assert strong < middle < weak, "the weaker the regularization, the larger the weights"


def test_images_that_weigh_nothing_are_as_if_left_out():
    """The mean over both halves, which are the same, is that of the first alone.

    What stands in the other half then makes no difference.
    """
    half, half_labels = standardized(300, 10, 4)
    features = jnp.concatenate([half, half])
    labels = jnp.concatenate([half_labels, half_labels])
    (expected,) = minimize(features, labels, 4, 0.01)
    first_half = np.where(np.arange(600) < 300, 1 / 300, 0).astype(np.float32)
    others = jnp.concatenate([half, -9 * half])
    (found,) = minimize(others, labels, 4, 0.01, weights=first_half)
    np.testing.assert_allclose(found.w, expected.w, atol=0.03)
    (misled,) = minimize(others, labels, 4, 0.01)
    assert not np.allclose(misled.w, expected.w, atol=0.1)


def test_separable_classes_are_told_apart_and_random_labels_are_not():
    train, labels = clouds(400, 12, 3, 8.0)
    test, test_labels = clouds(300, 12, 3, 8.0, seed=1)
    assert linear_probe.accuracy(train, labels, test, test_labels, 3) == 1
    chance = 1 / 3
    sigma = np.sqrt(chance * (1 - chance) / 300)
    random = np.random.default_rng(2).integers(0, 3, 400)
    random_test = np.random.default_rng(3).integers(0, 3, 300)
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
    """Over all constant labels, each of the same guesses is right exactly once."""
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
    """Few images, many features, labels nearly random.

    Alone, the weakest regularization has far larger weights.
    """
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 100))
    labels = rng.integers(0, 2, 60)
    features[:, 0] += 2.0 * labels
    features = jnp.array(features - features.mean(0), jnp.float32)
    chosen = linear_probe.fit(features, jnp.array(labels), 4)
    norms = []
    for regularization in linear_probe._REGULARIZATIONS:
        monkeypatch.setattr(linear_probe, "_REGULARIZATIONS", (regularization,))
        norms.append(float(jnp.linalg.norm(linear_probe.fit(features, jnp.array(labels), 4).w)))
    assert float(jnp.linalg.norm(chosen.w)) < norms[-1] / 2
    assert np.all(np.diff(norms) > 0)


def test_constant_features_classes_without_images_and_fewer_images_than_features():
    train, labels = clouds(60, 100, 2, 6.0)
    test, test_labels = clouds(40, 100, 2, 6.0, seed=1)
    train[:, :3] = [0, 0.1, -1e6]  # never seen to vary: they say nothing
    test[:, :3] = [1e6, 3, 0]
    assert linear_probe.accuracy(train, labels + 1, test, test_labels + 1, 4) > 0.9
    lonely = np.concatenate([labels[:-1], [3]])  # held out or not, never both
    assert linear_probe.accuracy(train, lonely, test, test_labels, 4) > 0.8


def test_a_single_image_tells_its_class():
    features = np.array([[1.0, 2.0]], np.float32)
    found = linear_probe.accuracy(features, np.array([1]), features, np.array([1]), 2)
    assert found == 1


def test_fewer_images_than_features_are_turned_within_their_span():
    """In the axes that are found, images keep their products, and no axis more is made.

    These are products of standardized features; all that a linear classifier sees are these.
    """
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20, 300)).astype(np.float32)
    axes = linear_probe._principal_axes(features, True)
    assert axes.axes.shape == (300, 20)
    np.testing.assert_allclose(axes.axes.T @ axes.axes, np.eye(20), atol=1e-5)
    turned = np.asarray(linear_probe._turn(features, axes))
    standardized = (features - features.mean(0)) / features.std(0)
    np.testing.assert_allclose(turned @ turned.T, standardized @ standardized.T, atol=2e-3)
    products = turned.T @ turned / 20
    np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=1e-4)


def test_more_features_than_memory_holds_squared():
    """100,000 numbers of 30 images: a covariance would take 40 GB."""
    train, labels = clouds(30, 10, 2, 8.0)
    test, test_labels = clouds(30, 10, 2, 8.0, seed=1)
    wide = [np.tile(x, 10_000) for x in (train, test)]
    assert linear_probe.accuracy(wide[0], labels, wide[1], test_labels, 2) == 1


@pytest.mark.parametrize("magnitude", [1e-30, 1e30])
def test_features_of_any_magnitude_are_told_apart(magnitude):
    train, labels = clouds(200, 8, 2, 8.0)
    test, test_labels = clouds(100, 8, 2, 8.0, seed=1)
    train *= np.float32(magnitude)
    test *= np.float32(magnitude)
    assert linear_probe.accuracy(train, labels, test, test_labels, 2) == 1


def test_features_may_keep_their_deviations():
    """Two hundred rare features that say nothing drown one that says all, each scaled for itself."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 2
    features = (rng.random((300, 201)) < 0.01).astype(np.float32) * 0.1
    features[:, 0] = labels - 0.5 + rng.normal(scale=0.3, size=300)
    axes = linear_probe._principal_axes(features[:40], False)
    turned = np.asarray(linear_probe._turn(features[:40], axes))
    centered = features[:40] - features[:40].mean(0)
    products = centered @ centered.T / np.mean(np.square(features[:40].std(0)))
    np.testing.assert_allclose(turned @ turned.T, products, rtol=1e-3, atol=1e-2)
    split = (features[:40], labels[:40], features[40:], labels[40:], 2)
    together = linear_probe.accuracy(*split, separately=False)
    assert together > 0.9
    assert together > linear_probe.accuracy(*split)
