"""Masked language: exact budgets, what becomes of chosen tokens, and whole words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.augment import tokens

VOCABULARY = 25
SPECIALS = 5
MASK_ID = 3


def mask_one(key, row, maskable, words=None, share=0.15):
    return tokens.mask(
        key,
        row,
        maskable,
        words,
        share=share,
        vocabulary=VOCABULARY,
        specials=SPECIALS,
        mask_id=MASK_ID,
    )


@jax.jit
def _fifteen(keys, rows, maskable, words):
    return jax.vmap(mask_one)(keys, rows, maskable, words)


@jax.jit
def _half(keys, rows, maskable, words):
    return jax.vmap(lambda *row: mask_one(*row, share=0.5))(keys, rows, maskable, words)


def mask(seed, rows, maskable, words=None, compiled=_fifteen):
    """Mask rows [B, L], each with its own key."""
    keys = jax.random.split(jax.random.key(seed), len(rows))
    words = None if words is None else jnp.asarray(words, jnp.int32)
    found = compiled(keys, jnp.asarray(rows, jnp.int32), jnp.asarray(maskable), words)
    return tokens.Masked(*map(np.asarray, found))


def places_of(found, length):
    """Mark the chosen places of masked rows: bool [B, length]; a place chosen twice is an error."""
    times = np.zeros((len(found.places), length), int)
    for row, places, chosen in zip(times, found.places, found.chosen, strict=True):
        np.add.at(row, places[chosen], 1)
    assert times.max() <= 1
    return times == 1


def draw_rows(seed):
    """Draw 64 rows of 40 tokens, which may be masked, and numbers of words of one to about four."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(SPECIALS, VOCABULARY, (64, 40))
    words = np.cumsum(rng.random((64, 40)) < 0.5, axis=1) + 7
    return rows, rng.random((64, 40)) < rng.uniform(0.2, 1, (64, 1)), words


def fifteen_hundredths(n: int) -> int:
    """Return 0.15 n in whole numbers, halves to even, but at least 1."""
    whole, rest = divmod(15 * n, 100)
    return max(1, whole + (rest > 50 or (rest == 50 and whole % 2 == 1)))


@pytest.fixture(scope="module")
def every_length():
    """Return rows of 200 tokens, and which are maskable: 0 to 200, in places at random."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, VOCABULARY, (201, 200))
    maskable = rng.permuted(np.arange(200)[None, :] < np.arange(201)[:, None], axis=1)
    return rows, maskable, mask(0, rows, maskable)


@pytest.mark.parametrize(
    ("length", "share", "expected"),
    [
        (1, 0.15, 1),
        (3, 0.15, 1),  # 0.45
        (10, 0.15, 2),  # 1.5 to even
        (30, 0.15, 4),  # 4.5 to even
        (190, 0.15, 28),  # 28.5 to even; in float32 it is more than that
        (128, 0.15, 19),  # 19.2
        (45, 0.7, 32),  # 31.5 to even; 45 * 0.7 is 31.499999999999996
        (7, 1.0, 7),
    ],
)
def test_counts_by_hand(length, share, expected):
    assert tokens.most_masked(length, share) == expected


def test_counts_are_exact_for_every_number_of_maskable_tokens(every_length):
    found = every_length[2]
    assert found.chosen.shape == found.places.shape == found.labels.shape == (201, 30)
    expected = [0] + [fifteen_hundredths(n) for n in range(1, 201)]
    np.testing.assert_array_equal(places_of(found, 200).sum(axis=1), expected)
    np.testing.assert_array_equal(found.chosen.sum(axis=1), expected)


def test_a_row_of_one_token_has_it_chosen():
    found = mask(1, [[9]], [[True]], [[0]])
    np.testing.assert_array_equal(found.labels, [[9]])
    assert found.chosen.all()


def test_only_maskable_places_are_chosen_and_the_others_never_change(every_length):
    rows, maskable, found = every_length
    chosen = places_of(found, 200)
    assert not np.any(chosen & ~maskable)
    np.testing.assert_array_equal(found.tokens[~chosen], rows[~chosen])
    assert (found.tokens.dtype, found.places.dtype, found.labels.dtype) == (np.int32,) * 3


def test_labels_are_the_tokens_that_stood_there(every_length):
    """Unused slots hold places inside the row, so that nothing gathered there is a NaN."""
    rows, _, found = every_length
    np.testing.assert_array_equal(found.labels, np.take_along_axis(rows, found.places, axis=1))
    assert found.places.min() >= 0
    assert found.places.max() < 200


def test_eighty_ten_ten():
    """Rows of token 0, which is neither the mask nor drawn, so that each fate shows; 3 sigma."""
    found = mask(2, np.zeros((12_000, 6)), np.ones((12_000, 6), bool), compiled=_half)
    assert found.chosen.all()
    became = np.take_along_axis(found.tokens, found.places, axis=1)  # [12000, 3]
    drawn = (became >= SPECIALS) & (became < VOCABULARY)
    fates = np.select([became == MASK_ID, drawn, became == 0], [0, 1, 2], -1)
    times = np.bincount(fates.ravel(), minlength=3)
    shares = np.array([0.8, 0.1, 0.1])
    np.testing.assert_array_less(
        np.abs(times - fates.size * shares), 3 * np.sqrt(fates.size * shares * (1 - shares))
    )
    assert (
        scipy.stats.chisquare(
            np.bincount(became[drawn] - SPECIALS, minlength=VOCABULARY - SPECIALS)
        ).pvalue
        > 1e-3
    )
    pairs = np.bincount(3 * fates[:, 0] + fates[:, 1], minlength=9).reshape(3, 3)
    assert (
        scipy.stats.chi2_contingency(pairs).pvalue > 1e-3
    )  # one token's fate does not depend on the next one's


def test_places_are_drawn_without_replacement_all_sets_equally_likely_and_rows_independent():
    """Half of five maskable tokens, 2.5 to even, are 2: ten sets, a hundred pairs of two rows'."""
    maskable = np.arange(6) != 2
    found = mask(3, np.zeros((12_000, 6)), np.tile(maskable, (12_000, 1)), compiled=_half)
    sets, drawn, times = np.unique(
        places_of(found, 6), axis=0, return_inverse=True, return_counts=True
    )
    assert len(sets) == 10
    assert scipy.stats.chisquare(times).pvalue > 1e-3
    assert (
        scipy.stats.chisquare(np.bincount(10 * drawn[::2] + drawn[1::2], minlength=100)).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("whole_words", [False, True])
def test_what_is_chosen_does_not_depend_on_ids(whole_words):
    """Not even on id 0: a row of zeros is masked in the same places as any other."""
    rows, maskable, words = draw_rows(1)
    words = words if whole_words else None
    some = mask(5, rows, maskable, words)
    zeros = mask(5, np.zeros((64, 40)), maskable, words)
    np.testing.assert_array_equal(some.places, zeros.places)
    np.testing.assert_array_equal(some.chosen, zeros.chosen)
    np.testing.assert_array_equal(zeros.tokens == MASK_ID, some.tokens == MASK_ID)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), compiled=st.sampled_from([_fifteen, _half]))
def test_words_are_whole_and_fill_the_budget_as_far_as_they_fit(seed, compiled):
    """No word is split, the budget is kept, no skipped word would fit into what is left of it."""
    rows, maskable, words = draw_rows(seed)
    found = mask(seed, rows, maskable, words, compiled)
    chosen = places_of(found, 40)
    assert not np.any(chosen & ~maskable)
    np.testing.assert_array_equal(found.tokens[~chosen], rows[~chosen])
    np.testing.assert_array_equal(found.labels, np.take_along_axis(rows, found.places, axis=1))
    for numbers, mine, allowed in zip(words, chosen, maskable, strict=True):
        count = allowed.sum()
        budget = (
            0
            if count == 0
            else fifteen_hundredths(count)
            if compiled is _fifteen
            else max(1, round(count / 2))
        )
        left = budget - mine.sum()
        assert left >= 0
        for number in np.unique(numbers[allowed]):
            word = allowed & (numbers == number)
            assert np.all(mine[word]) or (not np.any(mine[word]) and word.sum() > left)


def test_words_by_hand():
    """Words of two, one and one token, half of four: 2.

    Where the long one comes first, 1/3, it fills the budget.
    Else a short one leaves room for just the other: 2/3. The places of no word, at the ends, are
    not maskable.
    """
    words = np.tile([-1, 4, 4, 5, 6, -1], (12_000, 1))
    found = mask(6, np.zeros((12_000, 6)), words >= 0, words, _half)
    sets, times = np.unique(places_of(found, 6), axis=0, return_counts=True)
    np.testing.assert_array_equal(sets, [[0, 0, 0, 1, 1, 0], [0, 1, 1, 0, 0, 0]])
    assert times[1] == pytest.approx(4_000, abs=3 * np.sqrt(12_000 * 1 / 3 * 2 / 3))


def test_a_word_too_long_for_the_budget_leaves_the_row_as_it_was():
    """Half of three maskable tokens is 2, to even; a single word of three does not fit."""
    rows = np.full((64, 40), 9)
    maskable = np.tile((np.arange(40) > 3) & (np.arange(40) < 7), (64, 1))
    found = mask(7, rows, maskable, maskable, _half)
    assert not found.chosen.any()
    np.testing.assert_array_equal(found.tokens, rows)


def test_words_of_single_tokens_use_the_whole_budget():
    rows, maskable, _ = draw_rows(2)
    found = mask(0, rows, maskable, np.tile(np.arange(40), (64, 1)))
    np.testing.assert_array_equal(
        found.chosen.sum(axis=1), [fifteen_hundredths(n) for n in maskable.sum(axis=1)]
    )


@pytest.mark.parametrize("whole_words", [False, True])
def test_a_row_depends_on_its_own_key_alone(whole_words):
    """One row at a time, not compiled, gives what the batch gives.

    Another key gives something else.
    """
    rows, maskable, words = draw_rows(3)
    words = words if whole_words else None
    together = mask(8, rows, maskable, words)
    for i, key in enumerate(jax.random.split(jax.random.key(8), 64)[:4]):
        mine = None if words is None else jnp.asarray(words[i], jnp.int32)
        alone = mask_one(key, jnp.asarray(rows[i], jnp.int32), jnp.asarray(maskable[i]), mine)
        for found, expected in zip(alone, together, strict=True):
            np.testing.assert_array_equal(found, expected[i])
    assert np.any(mask(9, rows, maskable, words).tokens != together.tokens)
