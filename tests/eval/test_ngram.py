"""Predictions from neighbors by hand, and against a slow version with dictionaries."""

from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.eval.ngram import Ngram

SPECIALS = 4  # 0 to 3 are contexts that are not counted themselves: they keep examples small
VOCABULARY = 10


def table(*rows):
    """Return rows of tokens, and segments that make each row one piece of text."""
    tokens = np.array(rows, np.int32)
    return tokens, np.ones_like(tokens)


def middle(ngram, left, right):
    """Return the prediction between two neighbors."""
    return ngram.predict(*table([left, 9, right]), np.array([0]), np.array([1]))[0]


def test_a_pair_seen_in_training_decides():
    """Between 1 and 2: 5 twice, 6 once. Between 1 and 3: 6, once, though 5 follows 1 more often.

    That is 2 of 4 times.
    """
    ngram = Ngram(*table([1, 5, 2], [1, 6, 2], [1, 5, 2], [1, 6, 3]), VOCABULARY, SPECIALS)
    assert middle(ngram, 1, 2) == 5
    assert middle(ngram, 1, 3) == 6


def test_of_equally_frequent_tokens_the_smallest_wins():
    ngram = Ngram(
        *table([1, 8, 2], [1, 6, 2], [1, 7, 2], [1, 7, 2], [1, 6, 2]), VOCABULARY, SPECIALS
    )
    assert middle(ngram, 1, 2) == 6  # 6 and 7 twice each
    assert middle(ngram, 1, 0) == 6
    assert middle(ngram, 0, 2) == 6
    assert middle(ngram, 0, 0) == 6


def test_of_an_unseen_pair_the_surer_side_decides():
    """After 1: 5 with 2 of 3. Before 3 and after 2: 7 with 3 of 4. Before 2: 5 with 2 of 3.

    In all: 7 with 3, 5 with 2 of 7.
    """
    ngram = Ngram(
        *table(*[[1, 5, 2]] * 2, [1, 6, 2], *[[2, 7, 3]] * 3, [2, 8, 3]), VOCABULARY, SPECIALS
    )
    assert middle(ngram, 1, 3) == 7  # right, 3/4 against 2/3
    assert middle(ngram, 2, 2) == 7  # left, 3/4 against 2/3
    assert middle(ngram, 1, 0) == 5  # left alone was seen
    assert middle(ngram, 0, 2) == 5  # right alone
    assert middle(ngram, 0, 0) == 7  # neither
    assert middle(ngram, 3, 1) == 7  # neither: 3 was seen on the right alone, 1 on the left


@pytest.mark.parametrize(("left", "right"), [(5, 7), (7, 5)])
def test_of_equally_sure_sides_the_left_decides(left, right):
    """2 of 3 after 1, 4 of 6 before 3: equal, though counted twice as often on the right."""
    rows = [[1, left, 0]] * 2 + [[1, 6, 0]] + [[0, right, 3]] * 4 + [[0, 8, 3]] * 2
    ngram = Ngram(*table(*rows), VOCABULARY, SPECIALS)
    assert middle(ngram, 1, 3) == left


def test_neighbors_end_with_the_segment_the_row_and_the_padding():
    """The row is 5 6 | 7 | padding.

    5 stands between an edge and 6, 6 between 5 and an edge, 7 between edges.
    """
    ngram = Ngram(np.array([[5, 6, 7, 9]]), np.array([[1, 1, 2, 0]]), VOCABULARY, SPECIALS)
    tokens = np.array([[8, 6, 5, 8], [6, 8, 8, 5], [8, 6, 5, 8]])
    segments = np.array([[1, 1, 2, 2], [1, 2, 3, 0], [1, 2, 3, 4]])
    rows = np.array([0, 0, 1, 1, 2, 2])
    columns = np.array([0, 3, 1, 2, 0, 3])
    found = ngram.predict(tokens, segments, rows, columns)
    np.testing.assert_array_equal(found, [5, 6, 7, 7, 7, 7])


def test_rows_are_not_read_on():
    """6 ends a row and 7 begins one: training has seen nothing after 6 or before 7.

    In all, 5 comes first, 3 of 6.
    """
    ngram = Ngram(*table([5, 6], [7, 8], [5, 5]), VOCABULARY, SPECIALS)
    assert middle(ngram, 6, 7) == 5


def test_special_tokens_are_contexts_but_neither_counted_nor_predicted():
    """3 occurs five times and alone between 5 and 6, but is special.

    Counted are 5, 6, 7 once each, and 8 twice.

    After 3: 6 once, 7 once, 8 twice; between 3 and 3: 7.
    """
    ngram = Ngram(*table([5, 3, 6], [3, 7, 3], [3, 8, 2], [3, 8, 2]), VOCABULARY, SPECIALS)
    assert middle(ngram, 5, 6) == 8
    assert middle(ngram, 3, 0) == 8
    assert middle(ngram, 3, 3) == 7


def test_an_unseen_token_beside_a_place_leaves_the_other_side():
    """As where a neighbor is hidden: training holds no 0.

    After 1 comes 5 most often, before 2 comes 6, in all 6.
    """
    ngram = Ngram(*table(*[[1, 5, 3]] * 2, *[[3, 6, 2]] * 3), VOCABULARY, SPECIALS)
    assert middle(ngram, 1, 0) == 5
    assert middle(ngram, 0, 2) == 6
    assert middle(ngram, 0, 0) == ngram.unigram == 6


def contexts(tokens, segments, row, column):
    """Return the neighbors of a place, None for an edge."""
    neighbors = []
    for beside in (column - 1, column + 1):
        inside = 0 <= beside < tokens.shape[1] and segments[row, beside] == segments[row, column]
        neighbors.append(int(tokens[row, beside]) if inside else None)
    return {"pair": tuple(neighbors), "left": neighbors[0], "right": neighbors[1], "none": "any"}


def slow(tokens, segments, specials):
    """Return the function that predicts one place."""
    counts = {kind: defaultdict(Counter) for kind in ("pair", "left", "right", "none")}
    for row, column in np.ndindex(tokens.shape):
        if segments[row, column] and tokens[row, column] >= specials:
            for kind, context in contexts(tokens, segments, row, column).items():
                counts[kind][context][int(tokens[row, column])] += 1

    def predict(*place):
        found = {}
        for kind, context in contexts(*place).items():
            if counter := counts[kind].get(context):
                winner = min(counter, key=lambda token: (-counter[token], token))
                found[kind] = winner, Fraction(counter[winner], sum(counter.values()))
        if "pair" in found:
            return found["pair"][0]
        sides = [found[kind] for kind in ("left", "right") if kind in found] or [found["none"]]
        return max(sides, key=lambda winner: winner[1])[0]  # the first of equal ones

    return predict


def draw_rows(rng, shape, words, specials, vocabulary):
    """Draw rows of few different tokens, special and the vocabulary's last, with segments."""
    used = np.concatenate([np.arange(specials), np.arange(vocabulary - words, vocabulary)])
    segments = 1 + np.cumsum(rng.random(shape) < 0.2, axis=1)
    segments[rng.integers(shape[0]), shape[1] - rng.integers(shape[1]) :] = 0
    return rng.choice(used, shape).astype(np.int32), segments.astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 8),
    length=st.integers(1, 12),
    words=st.integers(1, 5),
    specials=st.integers(0, 2),
    vocabulary=st.sampled_from([7, 60_000]),
)
def test_predictions_equal_a_slow_version(seed, rows, length, words, specials, vocabulary):
    rng = np.random.default_rng(seed)
    tokens, segments = draw_rows(rng, (rows, length), words, specials, vocabulary)
    tokens[-1, 0] = vocabulary - 1  # something to count
    segments[-1, 0] = 1
    ngram = Ngram(tokens, segments, vocabulary, specials)
    predict = slow(tokens, segments, specials)
    asked, its_segments = draw_rows(rng, (5, 9), words, specials, vocabulary)
    where = tuple(rng.permutation(np.argwhere(its_segments > 0)).T)
    expected = [predict(asked, its_segments, *place) for place in zip(*where, strict=True)]
    found = ngram.predict(asked, its_segments, *where)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int32
    assert found.min() >= specials
