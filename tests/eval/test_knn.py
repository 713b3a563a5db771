"""Weighted nearest neighbors against a slow version, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.eval import knn


def slow(train, train_labels, test, test_labels, k, temperature):
    """The accuracy, one image and one neighbor at a time, in float64."""
    right = 0
    for feature, label in zip(test.astype(float), test_labels, strict=True):
        lengths = np.linalg.norm(train, axis=1) * np.linalg.norm(feature)
        similarities = train.astype(float) @ feature / lengths
        votes = np.zeros(train_labels.max() + 1)
        for i in np.argsort(-similarities, kind="stable")[:k]:
            votes[train_labels[i]] += math.exp(similarities[i] / temperature)
        right += votes.argmax() == label
    return right / len(test)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    sizes=st.sampled_from([(1, 5, 3), (7, 1, 20), (101, 53, 1), (101, 53, 20)]),
    temperature=st.sampled_from([0.07, 1.0]),
)
def test_accuracy_equals_a_slow_version(seed, sizes, temperature):
    n, m, k = sizes
    rng = np.random.default_rng(seed)
    train = rng.normal(size=(n, 6)).astype("f")
    test = rng.normal(size=(m, 6)).astype("f")
    labels = rng.integers(0, 4, n)
    test_labels = rng.integers(0, 4, m)
    found = knn.accuracy(train, labels, test, test_labels, k, temperature)
    assert found == pytest.approx(slow(train, labels, test, test_labels, k, temperature))


@pytest.mark.parametrize(("temperature", "winner"), [(1.0, 1), (0.1, 0)])
def test_votes_by_hand(temperature, winner):
    """One neighbor of similarity 1 against two of 0.6.

    At temperature 1: e^1 = 2.72 against 2 e^0.6 = 3.64. At 0.1: e^10 = 22026 against 2 e^6 = 807.
    """
    train = np.array([[1, 0], [0.6, 0.8], [0.6, -0.8], [-1, 0]])
    labels = np.array([0, 1, 1, 2])
    for label in range(3):
        accuracy = knn.accuracy(
            train, labels, np.array([[5.0, 0.0]]), np.array([label]), 3, temperature
        )
        assert accuracy == (label == winner)


def test_a_tiny_temperature_stays_finite_and_asks_the_nearest_alone():
    train = np.array([[1.0, 0.0], [0.9, 0.1], [0.9, -0.1]])
    labels = np.array([0, 1, 1])
    assert knn.accuracy(train, labels, np.array([[1.0, 0.0]]), np.array([0]), 3, 1e-4) == 1


@pytest.fixture
def clouds():
    """Return three overlapping clouds: train and test features and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 203)
    test_labels = rng.integers(0, 3, 97)
    centers = 1.2 * rng.normal(size=(3, 8))
    train = centers[labels] + rng.normal(size=(203, 8))
    test = centers[test_labels] + rng.normal(size=(97, 8))
    return train, labels, test, test_labels


def test_lengths_of_features_do_not_count(clouds):
    train, labels, test, test_labels = clouds
    rng = np.random.default_rng(1)
    lengths = rng.uniform(0.01, 100, (len(train), 1))
    test_lengths = rng.uniform(0.01, 100, (len(test), 1))
    accuracy = knn.accuracy(train, labels, test, test_labels)
    assert 0.5 < accuracy < 1
    assert knn.accuracy(train * lengths, labels, test * test_lengths, test_labels) == accuracy


@pytest.mark.parametrize("rows", [1, 10, 97, 10_000])
def test_a_search_in_parts_finds_the_same(clouds, monkeypatch, rows):
    train, labels, test, test_labels = clouds
    accuracy = knn.accuracy(train, labels, test, test_labels)
    indices = knn.neighbors(train, test, 4)
    monkeypatch.setattr(knn, "_SIMILARITIES", rows * len(train))
    np.testing.assert_array_equal(knn.neighbors(train, test, 4), indices)
    assert knn.accuracy(train, labels, test, test_labels) == accuracy


def test_neighbors_come_nearest_first_and_equal_ones_by_index():
    train = np.array([[0, 1], [1, 1], [1, 0], [2, 2], [-1, 0], [3, 0]])
    np.testing.assert_array_equal(knn.neighbors(train, np.array([[1, 0]]), 6), [[2, 5, 1, 3, 0, 4]])
    np.testing.assert_array_equal(
        knn.neighbors(train, np.array([[1, 0], [0, 9]]), 2), [[2, 5], [0, 1]]
    )


def test_more_neighbors_than_images_are_all_of_them(clouds):
    train, labels, test, test_labels = clouds
    everyone = knn.accuracy(train, labels, test, test_labels, len(train))
    assert knn.accuracy(train, labels, test, test_labels, 10 * len(train)) == everyone
    assert knn.neighbors(train[:5], test, 20).shape == (len(test), 5)


def test_a_feature_of_zeros_is_no_trouble_and_an_unknown_class_is_never_right():
    train = np.array([[0.0, 0.0], [1.0, 0.0]])
    labels = np.array([0, 1])
    assert knn.accuracy(train, labels, np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([7, 1])) == 0.5


@pytest.mark.parametrize("magnitude", [1e-30, 1e30])
def test_lengths_make_no_difference_however_large_or_small(magnitude):
    """Two directions and their labels; each query is a little off the one it belongs to."""
    train = np.array([[1, 0], [0, 1]], np.float32) * np.float32(magnitude)
    queries = np.array([[1, 0.2], [0.2, 1]], np.float32) * np.float32(magnitude)
    assert knn.accuracy(train, np.array([0, 1]), queries, np.array([0, 1]), k=1) == 1
